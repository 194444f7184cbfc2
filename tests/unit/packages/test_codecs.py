"""Bodies become columns in one pass, and errors name row and column."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory
from grpc_tools import protoc
from hypothesis import given
from hypothesis import strategies as st

from modelyard.data import Field
from modelyard.errors import ContractError
from modelyard.packages.codecs import csv as csv_codec
from modelyard.packages.codecs import json as json_codec
from modelyard.packages.codecs import proto
from modelyard.packages.contract import Contract

ALL = (
    Field("flag", "bool"),
    Field("small", "int8"),
    Field("big", "uint64"),
    Field("x", "float32"),
    Field("y", "float64"),
    Field("text", "string"),
    Field("image", "uint8", (2, 3)),
    Field("matrix", "float64", (2,)),
)
CONTRACT = Contract(ALL, (Field("value", "float32"),))
SINGLE = st.floats(allow_infinity=False, width=32)
# NumPy drops NUL at the end of a text.
TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=6)
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "flag": st.booleans(),
            "small": st.integers(-128, 127),
            "big": st.integers(0, 2**64 - 1),
            "x": SINGLE,
            "y": st.floats(allow_infinity=False),
            "text": TEXTS,
            "image": st.lists(st.lists(st.integers(0, 255), min_size=3, max_size=3), min_size=2, max_size=2),
            "matrix": st.lists(st.floats(allow_infinity=False), min_size=2, max_size=2),
        }
    ),
    min_size=1,
    max_size=4,
)


def columns_of(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        field.name: np.array(
            [row[field.name] for row in rows], dtype=np.str_ if field.dtype == "string" else field.dtype
        )
        for field in ALL
    }


def same(first: Any, second: Any) -> bool:
    return all(
        first[name].shape == second[name].shape
        and (first[name].dtype == second[name].dtype or first[name].dtype.kind == "U")
        and np.array_equal(first[name], second[name], equal_nan=first[name].dtype.kind == "f")
        for name in first
    )


@given(ROWS)
def test_json_rows_columns_and_a_bare_list_say_the_same(rows: list[dict[str, Any]]) -> None:
    expected = columns_of(rows)
    as_rows = json_codec.encode(expected, "rows")
    as_columns = json_codec.encode(expected, "columns")
    for body in (as_rows, b'{"rows":' + as_rows + b"}", b'{"columns":' + as_columns + b"}"):
        assert same(expected, json_codec.decode(CONTRACT, body))


@given(ROWS, st.randoms())
def test_csv_reads_back_what_it_wrote_with_its_columns_in_any_order(rows: list[dict[str, Any]], random: Any) -> None:
    expected = columns_of(rows)
    shuffled = dict(random.sample(list(expected.items()), len(expected)))
    assert same(expected, csv_codec.decode(CONTRACT, csv_codec.encode(shuffled | {"ignored": expected["x"]})))


@given(st.binary(max_size=200))
def test_no_bytes_do_more_than_be_refused(body: bytes) -> None:
    for decode in (json_codec.decode, csv_codec.decode):
        with pytest.raises(ContractError):
            decode(CONTRACT, body)


TWO = Contract((Field("n", "int8"), Field("i", "float32", (2,))), (Field("value", "float32"),))


@pytest.mark.parametrize(
    ("body", "where"),
    [
        (b'{"rows":[{"n":1,"i":[1,2]},{"n":"1","i":[1,2]}]}', "row 1, field 'n'"),
        (b'[{"n":1,"i":[1,2]},{"n":1,"i":[1,"2"]}]', "row 1, field 'i' at [1]"),
        (b'[{"n":1,"i":[1]}]', "row 0, field 'i'"),
        (b'[{"n":1,"i":[1,2,3]}]', "row 0, field 'i'"),
        (b'[{"n":1,"i":[1,2]},{"n":200,"i":[1,2]}]', "row 1, field 'n'"),
        (b'[{"n":1,"i":[1,2]},{"n":1.5,"i":[1,2]}]', "row 1, field 'n'"),
        (b'[{"n":1,"i":[1,2]},{"n":1e400,"i":[1,2]}]', None),
        (b'[{"n":1,"i":[1,1e39]}]', "row 0, field 'i' at [1]"),
        (b'[{"n":99999999999999999999999999,"i":[1,2]}]', "row 0, field 'n'"),
        (b'[{"n":null,"i":[1,2]}]', "row 0, field 'n'"),
        (b'[{"n":true,"i":[1,2]}]', "row 0, field 'n'"),
        (b'[{"i":[1,2]}]', "row 0"),
        (b'{"columns":{"n":[1,2],"i":[[1,2],[1,null],[]]}}', "row 2, field 'i'"),
        (b'{"columns":{"n":3,"i":[]}}', "field 'n'"),
        (b'{"columns":{"n":[1,2],"i":[[1,2]]}}', None),
        (b"{}", None),
        (b"", None),
        (b"[1", None),
        (b'"text"', None),
        (b'[{"n":1,"i":[1,2]}]\xff', None),
        ('[{"n":1,"i":[1,2]}]'.encode("utf-16"), None),
        (b"[" * 100_000, None),
    ],
)
def test_json_errors_name_row_and_field(body: bytes, where: str | None) -> None:
    with pytest.raises(ContractError) as caught:
        json_codec.decode(TWO, body)
    if where is not None:
        assert caught.value.where == where
    assert caught.value.what


@pytest.mark.parametrize(
    ("body", "where"),
    [
        (b"n,i_0,i_1\r\n1,2,3\r\nx,2,3\r\n", "row 1, column 'n'"),
        (b"n,i_0,i_1\n1,2,3\n300,2,3\n", "row 1, field 'n'"),
        (b"n,i_0,i_1\n1,2,3\n,2,3\n", "row 1, column 'n'"),
        (b"n,i_0,i_1\n1,2,1_000\n", "row 0, column 'i_1'"),
        (b"n,i_0,i_1\n1_0,2,3\n", "row 0, column 'n'"),
        (b"n,i_0,i_1\n1,2,1e39\n", "row 0, field 'i' at [1]"),
        (b"n,i_0,i_1\n1,2\n", "row 0"),
        (b"n,i_0,i_1\n1,2,3\n1,2,3,4\n", "row 1"),
        (b"n,i_0\n1,2\n", "header"),
        (b"n,n,i_0,i_1\n1,1,2,3\n", "column 'n'"),
        (b'n,i_0,i_1\n1,2,"3\n', "line 2"),
        (b"n,i_0,i_1\n1,2,\xff\n", None),
        (b"", None),
        (b"\n\n", None),
    ],
)
def test_csv_errors_name_row_and_column(body: bytes, where: str | None) -> None:
    with pytest.raises(ContractError) as caught:
        csv_codec.decode(TWO, body)
    if where is not None:
        assert caught.value.where == where


def test_a_missing_float_is_nan_and_a_missing_text_is_empty_in_both_formats() -> None:
    contract = Contract((Field("x", "float32"), Field("s", "string")), (Field("value", "float32"),))
    for columns in (
        json_codec.decode(contract, b'[{"x":null,"s":null},{"x":1,"s":"a"}]'),
        csv_codec.decode(contract, b"s,x\r\n,\r\na,1\r\n"),
    ):
        assert math.isnan(columns["x"][0])
        assert columns["x"][1] == 1
        assert columns["s"].tolist() == ["", "a"]


def test_too_many_rows_are_refused() -> None:
    for decode, body in ((json_codec.decode, b'[{"n":1,"i":[1,2]}]'), (csv_codec.decode, b"n,i_0,i_1\n1,2,3\n")):
        assert len(decode(TWO, body, max_rows=1)["n"]) == 1
        with pytest.raises(ContractError, match=r"allowed|more than"):
            decode(TWO, body, max_rows=0)


def test_keys_that_are_no_identifiers_are_keys_like_others() -> None:
    contract = Contract((Field("Größe in m²", "float32"), Field("class", "int64")), (Field("value", "float32"),))
    columns = json_codec.decode(contract, '[{"Größe in m²": 1.5, "class": 3, "unknown": {}}]'.encode())
    assert columns["Größe in m²"].tolist() == [1.5]
    assert columns["class"].tolist() == [3]


@pytest.mark.parametrize("name", ["plain", "Größe in m²", 'say "hi"', "back\\slash", "two\nlines", ""])
def test_any_name_of_a_column_is_a_key_of_the_rows(name):
    columns = {name: np.array([1.5, np.nan], np.float32), "other": np.array(["x", "y"])}
    assert json.loads(json_codec.encode(columns)) == [{name: 1.5, "other": "x"}, {name: None, "other": "y"}]
    assert json_codec.encode({}) == b"[]"


def test_csv_is_quoted_as_rfc_4180_says() -> None:
    body = csv_codec.encode({"a,b": np.array(['say "hi"', "two\r\nlines", " kept "])})
    assert body == b'"a,b"\r\n"say ""hi"""\r\n"two\r\nlines"\r\n kept \r\n'
    assert [row[0] for row in csv.reader(io.StringIO(body.decode(), newline=""))][1:] == [
        'say "hi"',
        "two\r\nlines",
        " kept ",
    ]


def test_csv_floats_have_the_fewest_digits_that_read_back() -> None:
    assert csv_codec.encode({"x": np.array([0.1, np.nan], np.float32)}) == b'x\r\n0.1\r\n""\r\n'


def test_a_file_with_a_byte_order_mark_is_read() -> None:
    assert csv_codec.decode(TWO, b"\xef\xbb\xbfn,i_0,i_1\n1,2,3\n")["n"].tolist() == [1]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The contract's proto file, compiled by protoc and imported."""
    folder = tmp_path_factory.mktemp("proto")
    return Compiled(CONTRACT, folder)


class Compiled:
    """A proto file after protoc, in a pool of its own: every contract has a service called Model."""

    def __init__(self, contract: Contract, folder: Path) -> None:
        (folder / "model.proto").write_text(proto.render(contract), encoding="utf-8")
        output = folder / "model.binpb"
        assert protoc.main(["protoc", f"-I{folder}", f"--descriptor_set_out={output}", "model.proto"]) == 0
        files = descriptor_pb2.FileDescriptorSet.FromString(output.read_bytes())
        self.pool = descriptor_pool.DescriptorPool()
        self.pool.Add(files.file[0])
        self.file = self.pool.FindFileByName("model.proto")

    def message(self, name: str) -> Any:
        return message_factory.GetMessageClass(self.pool.FindMessageTypeByName(name))


@given(ROWS)
def test_the_proto_file_compiles_and_carries_every_value(compiled: Any, rows: list[dict[str, Any]]) -> None:
    kind = compiled.message("PredictIn")
    message = kind()
    for row in rows:
        entry = message.rows.add()
        for field, name in zip(ALL, proto.proto_names(ALL), strict=True):
            if field.shape:
                getattr(entry, name).extend(np.array(row[field.name]).ravel().tolist())
            else:
                setattr(entry, name, row[field.name])
    read = kind.FromString(message.SerializeToString())
    for row, entry in zip(rows, read.rows, strict=True):
        for field, name in zip(ALL, proto.proto_names(ALL), strict=True):
            expected = np.array(row[field.name]).ravel().tolist()
            value = getattr(entry, name)
            got = list(value) if field.shape else [value]
            assert np.array_equal(got, expected, equal_nan=field.dtype.startswith("float"))


def test_the_proto_file_has_the_shape_that_acumos_clients_expect(compiled: Any) -> None:
    service = compiled.file.services_by_name["Model"]
    method = service.methods_by_name["predict"]
    assert (method.input_type.name, method.output_type.name) == ("PredictIn", "PredictOut")
    assert method.input_type.fields_by_name["rows"].message_type.name == "PredictInRow"
    assert [field.number for field in compiled.message("PredictInRow").DESCRIPTOR.fields] == list(
        range(1, len(ALL) + 1)
    )
    assert compiled.file.package == ""


def test_the_golden_bytes_of_acumos_come_out(tmp_path: Path) -> None:
    contract = Contract((Field("operand", "int64"),), (Field("value", "int64"),), operation="multiply")
    kind = Compiled(contract, tmp_path).message("MultiplyIn")
    message = json_format.ParseDict({"rows": [{"operand": 2}, {"operand": 7}, {"operand": 8}]}, kind())
    assert message.SerializeToString().hex() == "0a0208020a0208070a020808"


@given(st.lists(st.text(min_size=1, max_size=6), min_size=1, max_size=8, unique=True))
def test_proto_names_are_identifiers_that_differ_in_json_too(names: list[str]) -> None:
    safe = proto.proto_names([Field(name, "bool") for name in names])
    assert all(name.isascii() and name.isidentifier() and not name.startswith("_") for name in safe)
    assert len({name.replace("_", "").lower() for name in safe}) == len(names)


def test_field_numbers_step_over_the_reserved_ones() -> None:
    numbers = proto.field_numbers([Field(str(index), "bool") for index in range(20_000)])
    assert len(set(numbers)) == 20_000
    assert not any(19_000 <= number < 20_000 for number in numbers)


def test_a_row_of_784_values_is_decoded_within_a_millisecond() -> None:
    contract = Contract((Field("image", "uint8", (28, 28)),), (Field("label", "int64"),))
    body = msgspec.json.encode(
        {"rows": [{"image": np.arange(784).reshape(28, 28) % 256}]}, enc_hook=lambda a: a.tolist()
    )
    codec = json_codec.JsonCodec(contract)
    durations = [duration(lambda: codec.decode(body)) for _ in range(50)]
    assert min(durations) < 1e-3


def duration(call: Any) -> float:
    from time import perf_counter

    start = perf_counter()
    call()
    return perf_counter() - start


TEXT = Contract((Field("text", "string"), Field("x", "float32")), (Field("value", "float32"),))


@pytest.mark.parametrize("layout", ["json", "csv"])
def test_one_long_text_among_many_rows_does_not_fill_the_memory(layout: str) -> None:
    texts = ["a"] * 1000 + ["z" * 100_000] + ["a"]
    if layout == "json":
        decode, body = json_codec.decode, msgspec.json.encode({"rows": [{"text": text, "x": 1} for text in texts]})
    else:
        decode, body = csv_codec.decode, "\n".join(["text,x", *(f"{text},1" for text in texts)]).encode()
    with pytest.raises(ContractError, match="takes too much memory") as caught:
        decode(TEXT, body)
    assert caught.value.where == "row 1000, field 'text'"


def test_one_long_text_alone_is_read() -> None:
    columns = json_codec.JsonCodec(TEXT).decode(msgspec.json.encode([{"text": "z" * 1_000_000, "x": 1}]))
    assert len(columns["text"][0]) == 1_000_000


@pytest.mark.parametrize("cell", ["٣", "४.५", "1_000"])
@pytest.mark.parametrize("dtype", ["int64", "float64"])
def test_a_number_of_csv_is_written_in_ascii_digits_alone(cell: str, dtype: str) -> None:
    contract = Contract((Field("x", dtype),), (Field("value", "float32"),))
    with pytest.raises(ContractError) as caught:
        csv_codec.decode(contract, f"x\n1\n{cell}\n".encode())
    assert caught.value.where == "row 1, column 'x'"


def test_an_error_shows_the_beginning_of_a_long_value_alone() -> None:
    contract = Contract((Field("x", "int8"),), (Field("value", "float32"),))
    with pytest.raises(ContractError) as caught:
        csv_codec.decode(contract, b"x\n" + b"z" * 100_000)
    assert len(str(caught.value)) < 300
    with pytest.raises(ContractError) as caught:
        json_codec.JsonCodec(contract).decode(b'[{"x":' + b"9" * 4000 + b"}]")
    assert len(str(caught.value)) < 300


def test_rows_beside_columns_are_refused_as_nobody_knows_which_are_meant():
    codec = json_codec.JsonCodec(Contract(inputs=(Field("x", "int64"),), outputs=(Field("y", "int64"),)))
    with pytest.raises(ContractError, match="`rows` and `columns`"):
        codec.decode(b'{"rows": [{"x": 1}], "columns": {"x": [1.5]}}')
    assert codec.decode(b'{"rows": [{"x": 1}], "columns": null}')["x"].tolist() == [1]
    assert codec.decode(b'{"rows": null, "columns": {"x": [1]}}')["x"].tolist() == [1]
