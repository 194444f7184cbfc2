"""Messages of any layout become a contract's columns and back, or are told why they can't."""

from __future__ import annotations

import math
import sys
import time
from typing import Any

import numpy as np
import pytest
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.packages.test_codecs import ALL, ROWS, columns_of, same

from modelyard.data import Field
from modelyard.errors import ContractError, TooManyRowsError
from modelyard.packages.codecs.proto import render
from modelyard.packages.codecs.proto_bridge import Bridge, fits, own_operation
from modelyard.packages.codecs.proto_csv import from_csv
from modelyard.packages.codecs.proto_messages import from_binary, from_json, to_binary, to_json
from modelyard.packages.codecs.proto_schema import Operation, parse
from modelyard.packages.contract import Contract

TWO = Contract(
    (Field("age", "int64"), Field("city", "string")),
    (Field("label", "string"), Field("probabilities", "float32", (2,))),
)
ANSWER = {"label": np.array(["yes", "no"]), "probabilities": np.array([[0.25, 0.75], [1, 0]], np.float32)}
VALUE = Contract((Field("x", "float64"),), (Field("value", "float32"),))


def operation(messages: str) -> Operation:
    return parse(f'syntax = "proto3"; {messages} service Model {{ rpc predict (In) returns (Out); }}').operation(
        "predict"
    )


def through(contract: Contract, messages: str, json: str) -> Any:
    bridge = Bridge(contract, operation(messages))
    return bridge, bridge.columns(from_json(bridge.operation.input, json))


ECHO = Contract(ALL, ALL)
ECHO_BRIDGE = Bridge(ECHO)


@given(ROWS)
def test_the_packages_own_messages_carry_every_value_both_ways(rows: list[dict[str, Any]]) -> None:
    expected = columns_of(rows)
    bridge = ECHO_BRIDGE
    output = to_binary(bridge.message(expected))
    # The contract's inputs are its outputs, and so are the messages but for their names.
    assert same(expected, bridge.columns(from_binary(bridge.operation.input, output)))
    again = bridge.columns(from_json(bridge.operation.input, to_json(bridge.message(expected))))
    assert same(expected, again)


def test_the_golden_bytes_become_rows() -> None:
    contract = Contract((Field("operand", "int32"),), (Field("value", "int64"),), operation="multiply")
    bridge = Bridge(contract)
    message = from_binary(bridge.operation.input, bytes.fromhex("0a0208020a0208070a020808"))
    assert bridge.columns(message)["operand"].tolist() == [2, 7, 8]
    assert bridge.columns(message)["operand"].dtype == np.int32
    columns = Bridge(contract, parse(
        'syntax = "proto3"; message In { repeated Row rows = 1; } message Row { int64 operand = 1; }'
        " message Out { repeated int64 value = 1; } service M { rpc multiply (In) returns (Out); }"
    ).operation("multiply"))  # fmt: skip
    assert columns.layouts == ("rows", "columns")
    assert to_binary(columns.message({"value": np.array([6666, 10, 16])})).hex() == "0a048a340a10"


def test_the_first_version_of_acumos_is_understood() -> None:
    bridge, columns = through(
        TWO,
        "message In { repeated DataFrameRow rows = 1; } message DataFrameRow { int64 age = 1; string city = 2; }"
        " message Out { repeated string prediction = 1; }",
        '{"rows": [{"age": 1, "city": "Niš"}, {"age": 2}]}',
    )
    assert (columns["age"].tolist(), columns["city"].tolist()) == ([1, 2], ["Niš", ""])
    assert to_json(bridge.message(ANSWER)) == b'{"prediction":["yes","no"]}'
    numbers = Bridge(
        VALUE, operation("message In { repeated double x = 1; } message Out { repeated string prediction = 1; }")
    )
    assert to_json(numbers.message({"value": np.array([0.1, 2], np.float32)})) == b'{"prediction":["0.1","2.0"]}'


def test_a_record_of_the_python_client_is_one_row() -> None:
    bridge, columns = through(VALUE, "message In { double x = 1; } message Out { double value = 1; }", '{"x": 2.5}')
    assert bridge.layouts == ("record", "record")
    assert columns["x"].tolist() == [2.5]
    assert to_json(bridge.message({"value": np.array([0.5], np.float32)})) == b'{"value":0.5}'
    with pytest.raises(ContractError, match="holds one row, and the answer has 2"):
        bridge.message({"value": np.zeros(2, np.float32)})


def test_columns_side_by_side_are_rows() -> None:
    bridge, columns = through(
        TWO,
        "message In { repeated string city = 1; repeated int32 age = 2; }"
        " message Out { repeated string label = 1; repeated float probabilities = 2; }",
        '{"age": [1, 2], "city": ["a", "b"]}',
    )
    assert bridge.layouts == ("columns", "columns")
    assert (columns["age"].tolist(), columns["city"].tolist()) == ([1, 2], ["a", "b"])
    assert to_json(bridge.message(ANSWER)) == b'{"label":["yes","no"],"probabilities":[0.25,0.75,1.0,0.0]}'
    with pytest.raises(ContractError, match="differ in length"):
        bridge.columns(from_json(bridge.operation.input, '{"age": [1]}'))


def test_arrays_are_flat_in_rows_records_and_columns() -> None:
    contract = Contract((Field("image", "uint8", (2, 2)), Field("n", "int64")), (Field("value", "float32"),))
    out = " message Out { double value = 1; }"
    rows, columns = through(
        contract,
        "message In { repeated R r = 1; } message R { repeated uint32 image = 1; int64 n = 2; }" + out,
        '{"r": [{"image": [1, 2, 3, 4], "n": 1}, {"image": [5, 6, 7, 8]}]}',
    )
    assert columns["image"].tolist() == [[[1, 2], [3, 4]], [[5, 6], [7, 8]]]
    _, columns = through(
        contract, "message In { repeated uint32 image = 1; int64 n = 2; }" + out, '{"image": [1, 2, 3, 4]}'
    )
    assert columns["image"].tolist() == [[[1, 2], [3, 4]]]
    whole, columns = through(
        contract,
        "message In { repeated uint32 image = 1; repeated int64 n = 2; }" + out,
        '{"image": [1,2,3,4], "n": [9]}',
    )
    assert columns["image"].shape == (1, 2, 2)
    for bridge, json, where in (
        (rows, '{"r": [{"image": [1, 2, 3, 4]}, {"image": [5]}]}', "row 1, field 'image'"),
        (rows, '{"r": [{"image": [1, 2, 3, 4]}, {"image": [5, 6, 7, 256]}]}', "row 1, field 'image' at [1, 1]"),
        (whole, '{"image": [1, 2, 3], "n": [1]}', "field 'image'"),
    ):
        with pytest.raises(ContractError) as caught:
            bridge.columns(from_json(bridge.operation.input, json))
        assert caught.value.where == where


def test_leaves_of_nested_messages_are_columns_too() -> None:
    bridge, columns = through(
        TWO,
        "message In { repeated R rows = 1; } message R { Person person = 1; }"
        " message Person { int64 age = 1; Home home = 2; }"
        " message Home { string city = 1; Person back = 2; }"
        " message Out { repeated Answer answers = 1; } message Answer { Inner inner = 1; }"
        " message Inner { string label = 1; }",
        '{"rows": [{"person": {"age": 3, "home": {"city": "a"}}}, {}]}',
    )
    assert (columns["age"].tolist(), columns["city"].tolist()) == ([3, 0], ["a", ""])
    assert to_json(bridge.message(ANSWER)) == b'{"answers":[{"inner":{"label":"yes"}},{"inner":{"label":"no"}}]}'


def test_enums_are_numbers_or_names() -> None:
    contract = Contract((Field("a", "int8"), Field("b", "string")), (Field("value", "float32"),))
    _, columns = through(
        contract,
        "enum E { Z = 0; ONE = 1; } message In { E a = 1; E b = 2; } message Out { float value = 1; }",
        '{"a": "ONE", "b": "ONE"}',
    )
    assert (columns["a"].tolist(), columns["b"].tolist()) == ([1], ["ONE"])


def test_what_is_unset_is_missing_where_the_field_can_tell() -> None:
    contract = Contract(
        (Field("x", "float32"), Field("s", "string"), Field("n", "int64")), (Field("value", "float32"),)
    )
    bridge, columns = through(
        contract,
        "message In { repeated R rows = 1; } message R { optional float x = 1; optional string s = 2;"
        " optional int64 n = 3; }"
        " message Out { float value = 1; }",
        '{"rows": [{"n": 1}, {"x": 0, "n": 0}]}',
    )
    assert math.isnan(columns["x"][0])
    assert columns["x"][1] == 0
    assert columns["s"].tolist() == ["", ""]
    with pytest.raises(ContractError, match="unset") as caught:
        bridge.columns(from_json(bridge.operation.input, '{"rows": [{"n": 1}, {}]}'))
    assert caught.value.where == "row 1, field 'n'"
    _, columns = through(
        contract, "message In { float x = 1; string s = 2; int64 n = 3; } message Out { float value = 1; }", "{}"
    )
    assert [columns[name].tolist() for name in "xsn"] == [[0], [""], [0]]


def test_names_are_the_contracts_or_those_of_its_proto_file() -> None:
    contract = Contract((Field("Größe in m²", "float32"),), (Field("value", "float32"),))
    assert "Gr__e_in_m_" in render(contract)
    bridge = Bridge(contract)
    message = from_json(bridge.operation.input, '{"rows": [{"Gr__e_in_m_": 2}]}')
    assert bridge.columns(message)["Größe in m²"].tolist() == [2]


def test_values_are_held_to_the_contract() -> None:
    contract = Contract((Field("n", "int8"),), (Field("value", "float32"),))
    bridge = Bridge(contract)
    for number, where in ((200, "row 1, field 'n'"), (-129, "row 1, field 'n'")):
        with pytest.raises(ContractError) as caught:
            bridge.columns(from_json(bridge.operation.input, f'{{"rows": [{{"n": 1}}, {{"n": {number}}}]}}'))
        assert caught.value.where == where
    with pytest.raises(ContractError, match="more than 1 rows"):
        bridge.columns(from_json(bridge.operation.input, '{"rows": [{}, {}]}'), max_rows=1)
    assert bridge.columns(from_json(bridge.operation.input, "{}"))["n"].shape == (0,)


def calls_of_the_library(kind: Any, text: str, **limits: Any) -> tuple[int, type[Exception] | None]:
    """Return how many calls of protobuf's JSON reader a text costs, and how it ends."""
    calls, failed = 0, None

    def count(frame: Any, event: str, _: Any) -> None:
        nonlocal calls
        calls += event == "call" and frame.f_code.co_filename == json_format.__file__

    sys.setprofile(count)
    try:
        from_json(kind, text, **limits)
    except ContractError as error:
        failed = type(error)
    finally:
        sys.setprofile(None)
    return calls, failed


@pytest.mark.parametrize(
    ("messages", "text", "aligned"),
    [
        ("message In { repeated R rows = 1; } message R { string n = 1; }", '{"rows": [%s]}', False),
        ("message In { repeated R the_rows = 1; } message R { string n = 1; }", '{"the_rows": [%s]}', False),
        ("message In { repeated R the_rows = 1; } message R { string n = 1; }", '{"theRows": [%s]}', False),
        ("message In { T t = 1; } message T { repeated R rows = 1; } message R { }", '{"t": {"rows": [%s]}}', False),
        ("message In { repeated string n = 1; }", '{"n": [%s]}', True),
        (
            'import "google/protobuf/struct.proto"; message In { google.protobuf.ListValue n = 1; }',
            '{"n": [%s]}',
            False,
        ),
    ],
)
def test_rows_are_counted_before_the_library_reads_one(messages: str, text: str, aligned: bool) -> None:
    kind = operation(f"{messages} message Out {{ }}").input
    element = '""' if aligned else "{}"
    within, over = (text % ",".join([element] * rows) for rows in (5, 6))
    assert calls_of_the_library(kind, over, max_rows=5, aligned=aligned) == (0, TooManyRowsError)
    calls, failed = calls_of_the_library(kind, within, max_rows=5, aligned=aligned)
    assert calls > 5
    assert failed is None
    assert calls_of_the_library(kind, over)[1] is None


def test_an_array_at_the_root_is_counted_too() -> None:
    kind = operation('import "google/protobuf/struct.proto"; message In { google.protobuf.ListValue n = 1; } '
                     "message Out { }").input.fields[0].message_type  # fmt: skip
    assert calls_of_the_library(kind, "[{}, {}]", max_rows=1) == (0, TooManyRowsError)
    assert calls_of_the_library(kind, "[{}]", max_rows=1)[1] is None


def test_values_of_one_record_are_no_rows() -> None:
    kind = operation("message In { repeated double pixels = 1; } message Out { }").input
    assert calls_of_the_library(kind, '{"pixels": [1, 2, 3]}', max_rows=1)[1] is None


@pytest.mark.parametrize(
    ("messages", "misfits"),
    [
        (
            "message In { repeated R rows = 1; } message R { string age = 1; } message Out { string label = 1; }",
            [
                "The message In has no field 'city' for string.",
                "The field 'age' of the message In is string, and the contract says int64.",
            ],
        ),
        (
            "message In { repeated int64 age = 1; string city = 2; } message Out { string label = 1; }",
            ["The field 'age' of the message In is repeated, and the contract says int64."],
        ),
        (
            "message In { int64 age = 1; bytes city = 2; } message Out { int64 label = 1; string other = 2; }",
            [
                "The field 'city' of the message In is bytes, and the contract says string.",
                "The field 'label' of the message Out is int64, and the contract says string.",
                "The model has no output for the field 'other' of the message Out.",
            ],
        ),
        (
            "message In { int64 age = 1; string city = 2; } message Out { string label = 1; float probabilities = 2; }",
            ["The field 'probabilities' of the message Out is not repeated, and the contract says float32[2]."],
        ),
        (
            "message In { } message Out { }",
            [
                "The message In has no field 'age' for int64.",
                "The message In has no field 'city' for string.",
                "The message Out has no field for an answer.",
            ],
        ),
        ("message In { double age = 1; string city = 2; bool more = 3; } message Out { string value = 1; }", []),
        ("message In { int64 age = 1; string city = 2; } message Out { repeated double value = 1; }", []),
    ],
)
def test_what_does_not_fit_is_told_all_at_once(messages: str, misfits: list[str]) -> None:
    assert fits(TWO, operation(messages)) == misfits
    if misfits:
        with pytest.raises(ContractError) as caught:
            Bridge(TWO, operation(messages))
        assert caught.value.what == " ".join(misfits)
        assert caught.value.where == "operation 'predict'"


def test_every_contract_fits_its_own_file_and_no_number_is_narrowed() -> None:
    assert fits(ECHO, own_operation(ECHO)) == []
    narrow = operation("message In { double x = 1; } message Out { int32 value = 1; }")
    wide = Contract((Field("x", "float64"),), (Field("value", "int64"),))
    assert fits(wide, narrow) == ["The field 'value' of the message Out is int32, and the contract says int64."]
    assert fits(VALUE, narrow) == ["The field 'value' of the message Out is int32, and the contract says float32."]


@given(st.lists(st.tuples(st.integers(-(2**63), 2**63 - 1), st.text('ab,"\n', max_size=3)), min_size=1, max_size=4))
def test_a_csv_for_the_packages_own_messages_is_the_codecs_csv(rows: list[tuple[int, str]]) -> None:
    from modelyard.packages.codecs import csv

    bridge = Bridge(TWO)
    expected = {"age": np.array([row[0] for row in rows]), "city": np.array([row[1] for row in rows])}
    body = csv.encode(expected)
    columns = bridge.columns(from_csv(bridge.operation.input, body).message)
    assert same(columns, csv.decode(TWO, body))


def test_a_thousand_rows_of_ten_fields_take_a_few_milliseconds() -> None:
    fields = tuple(Field(f"f{index}", "float64") for index in range(10))
    bridge = Bridge(Contract(fields, fields))
    rng = np.random.default_rng(0)
    columns = {field.name: rng.normal(size=1000) for field in fields}
    body = to_binary(bridge.message(columns))

    def once(call: Any) -> float:
        start = time.perf_counter()
        call()
        return time.perf_counter() - start

    assert same(columns, bridge.columns(from_binary(bridge.operation.input, body)))
    assert min(once(lambda: bridge.columns(from_binary(bridge.operation.input, body))) for _ in range(20)) < 8e-3
    assert min(once(lambda: to_binary(bridge.message(columns))) for _ in range(20)) < 12e-3


def test_one_long_text_among_many_rows_does_not_fill_the_memory() -> None:
    bridge = Bridge(TWO)
    message: Any = bridge.operation.new_input()
    for index in range(1000):
        message.rows.add(city="z" * 100_000 if index == 7 else "a")
    with pytest.raises(ContractError, match="takes too much memory") as caught:
        bridge.columns(message)
    assert caught.value.where == "row 7, field 'city'"


def test_rows_that_do_not_fit_are_left_out_where_that_is_asked():
    """A value that the message can hold and the contract can't refuses its row alone."""
    contract = Contract((Field("age", "uint8"), Field("city", "string")), (Field("value", "float32"),))
    text = """syntax = "proto3"; message Row { int64 age = 1; string city = 2; } message In { repeated Row rows = 1; }
    message Out { repeated float value = 1; } service S { rpc go (In) returns (Out); }"""
    bridge = Bridge(contract, parse(text).operation("go"))
    message = bridge.operation.new_input()
    for age, city in ((1, "a"), (300, "bb"), (3, "ccc"), (-1, "d")):
        message.rows.add(age=age, city=city)
    columns, refused = bridge.readable(message)
    assert (columns["age"].tolist(), columns["city"].tolist()) == ([1, 3], ["a", "ccc"])
    assert [refused[row].where for row in sorted(refused)] == ["row 1, field 'age'", "row 3, field 'age'"]
    with pytest.raises(ContractError, match="more than 3 rows"):
        bridge.readable(message, max_rows=3)
    del message.rows[2], message.rows[0]
    with pytest.raises(ContractError):
        bridge.readable(message)
