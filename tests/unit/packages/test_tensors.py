"""Tensors of the Open Inference Protocol become checked columns, in JSON, raw and typed."""

from __future__ import annotations

import math
import struct
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.data import Field
from modelyard.errors import ContractError
from modelyard.packages.codecs import tensor_data, tensors
from modelyard.packages.contract import DTYPES, Contract

VALUE = (Field("value", "float32"),)
X = Contract((Field("x", "float32"),), VALUE)


def body_of(*inputs: dict[str, Any], **more: Any) -> bytes:
    return msgspec.json.encode({"inputs": inputs, **more})


def tensor(name: str, datatype: str, shape: list[int], data: Any = None, size: int | None = None) -> dict[str, Any]:
    made: dict[str, Any] = {"name": name, "datatype": datatype, "shape": shape}
    if size is not None:
        made["parameters"] = {"binary_data_size": size}
    return made if data is None else made | {"data": data}


@st.composite
def answers(draw: Any) -> tuple[Contract, dict[str, Any]]:
    rows = draw(st.integers(0, 4))
    fields, columns = [], {}
    for index, dtype in enumerate(draw(st.lists(st.sampled_from(DTYPES), min_size=1, max_size=4))):
        shape = tuple(draw(st.lists(st.integers(1, 3), max_size=2)))
        size = rows * math.prod(shape)
        if dtype == "string":
            text = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=5)
            flat = np.array(draw(st.lists(text, min_size=size, max_size=size)), dtype=np.str_)
        else:
            raw = draw(st.binary(min_size=size * np.dtype(dtype).itemsize, max_size=size * np.dtype(dtype).itemsize))
            flat = np.frombuffer(bytes(b & 1 for b in raw) if dtype == "bool" else raw, dtype=dtype)
            if flat.dtype.kind == "f":
                # JSON has no infinity.
                flat = np.where(np.isinf(flat), np.nan, flat).astype(dtype)
        fields.append(Field(f"f{index}", dtype, shape))
        columns[f"f{index}"] = flat.reshape(rows, *shape)
    return Contract(tuple(fields), tuple(fields)), columns


def same(expected: dict[str, Any], found: Any) -> bool:
    return all(
        found[name].shape == values.shape and np.array_equal(found[name], values, equal_nan=values.dtype.kind == "f")
        for name, values in expected.items()
    )


@given(answers(), st.data())
def test_an_answer_can_be_sent_as_a_request_in_json_raw_or_both(
    made: tuple[Contract, dict[str, Any]], data: st.DataObject
) -> None:
    contract, columns = made
    asked = tuple(tensors.Asked(name, data.draw(st.booleans())) for name in columns)
    request = tensors.Request(columns, asked, "7")
    body, length = tensors.encode(contract, columns, request, model_name="m", model_version="1")
    assert (length is not None) == any(out.binary for out in asked)
    head = msgspec.json.decode(body if length is None else body[:length])
    assert (head["model_name"], head["model_version"], head["id"]) == ("m", "1", "7")
    sent = msgspec.json.encode({"id": "8", "inputs": head["outputs"]})
    raw = b"" if length is None else body[length:]
    decoded = tensors.decode(contract, sent + raw, None if length is None else len(sent))
    assert decoded.id == "8"
    assert same(columns, decoded.columns)


@given(answers())
def test_json_may_be_nested_and_typed_contents_say_the_same(made: tuple[Contract, dict[str, Any]]) -> None:
    contract, columns = made
    given_tensors = tensors.tensors_of(contract, columns)
    nested = body_of(*(tensor(t.name, t.datatype, list(t.shape), t.data.tolist()) for t in given_tensors))
    assert same(columns, tensors.decode(contract, nested).columns)
    typed = [
        tensor_data.from_typed(t.name, t.datatype, t.shape, tensor_data.to_typed(t.data))
        if t.datatype in tensor_data.CONTENTS
        else tensor_data.from_raw(t.name, t.datatype, t.shape, tensor_data.to_raw(t.data))
        for t in given_tensors
    ]
    assert same(columns, tensors.columns_of(contract, typed))


def test_a_scalar_field_takes_rows_and_rows_by_one_and_nothing_else() -> None:
    for shape, data in (([3], [1, 2, 3]), ([3, 1], [1, 2, 3]), ([3, 1], [[1], [2], [3]])):
        decoded = tensors.decode(X, body_of(tensor("x", "FP32", shape, data)))
        assert decoded.columns["x"].tolist() == [1, 2, 3]
    for shape in ([1, 3], [3, 1, 1]):
        with pytest.raises(ContractError, match=r"\[rows\]"):
            tensors.decode(X, body_of(tensor("x", "FP32", shape, [1, 2, 3])))


def test_many_scalar_fields_are_never_taken_from_one_tensor() -> None:
    two = Contract((Field("a", "float32"), Field("b", "float32")), VALUE)
    for name in ("a", "input", "input-0"):
        with pytest.raises(ContractError):
            tensors.decode(two, body_of(tensor(name, "FP32", [1, 2], [1, 2])))


def test_raw_tensors_are_views_of_the_body_where_they_lie_on_whole_words() -> None:
    head = body_of(tensor("x", "FP32", [1000], size=4000))
    for padding in range(8):
        sent = head + b" " * padding
        body = sent + np.arange(1000, dtype="<f4").tobytes()
        values = tensors.decode(X, body, len(sent)).columns["x"]
        start = np.frombuffer(body, np.uint8).__array_interface__["data"][0]
        inside = start <= values.__array_interface__["data"][0] < start + len(body)
        assert inside == ((start + len(sent)) % 4 == 0)
        assert values.flags.aligned
        assert values.tolist() == list(range(1000))


def test_half_and_brain_floats_are_read() -> None:
    half = tensor_data.from_raw("x", "FP16", [2], np.array([1.5, -2], "<f2").tobytes())
    assert tensors.columns_of(X, [half])["x"].tolist() == [1.5, -2]
    brain = tensor_data.from_raw("x", "BF16", [2], struct.pack("<HH", 0x3FC0, 0xC000))
    assert tensors.columns_of(X, [brain])["x"].tolist() == [1.5, -2]
    with pytest.raises(ContractError, match="raw_input_contents"):
        tensor_data.from_typed("x", "BF16", [1], [1.0])


def test_bytes_have_their_length_before_them() -> None:
    contract = Contract((Field("s", "string"),), VALUE)
    raw = b"\x02\0\0\0ab\0\0\0\0\x02\0\0\0\xc5\xa1"
    head = body_of(tensor("s", "BYTES", [3], size=len(raw)))
    assert tensors.decode(contract, head + raw, len(head)).columns["s"].tolist() == ["ab", "", "š"]
    assert tensor_data.to_raw(np.array(["ab", "", "š"])) == raw


HUGE = 2**62


@pytest.mark.parametrize(
    ("given_input", "where"),
    [
        (tensor("x", "FP32", [1], ["1"]), "tensor 'x', row 0"),
        (tensor("x", "FP32", [2], [1, True]), "tensor 'x', row 1"),
        (tensor("x", "FP32", [2, 1], [[1], ["a"]]), "tensor 'x', row 1"),
        (tensor("x", "FP32", [2], [1, 1e39]), "tensor 'x', row 1"),
        (tensor("x", "FP64", [2], [1, 1e39]), "tensor 'x', row 1"),
        (tensor("x", "INT8", [2], [1, 200]), "tensor 'x', row 1"),
        (tensor("x", "INT64", [2], [1, 2**70]), "tensor 'x', row 1"),
        (tensor("x", "INT64", [2], [1, 1.5]), "tensor 'x', row 1"),
        (tensor("x", "UINT64", [1], [-1]), "tensor 'x', row 0"),
        (tensor("x", "INT32", [1], [2**24 + 1]), "tensor 'x', row 0"),
        (tensor("x", "BYTES", [1], ["a"]), "tensor 'x', row 0"),
        (tensor("x", "BOOL", [1], [True]), "tensor 'x', row 0"),
        (tensor("x", "FP32", [2], [1]), "tensor 'x'"),
        (tensor("x", "FP32", [1], [1, 2]), "tensor 'x'"),
        (tensor("x", "FP32", [1], [[1]]), "tensor 'x'"),
        (tensor("x", "FP32", [2, 1], [[1], []]), "tensor 'x'"),
        (tensor("x", "FP32", [2, 1], [[1, 2]]), "tensor 'x'"),
        (tensor("x", "FP32", [], [1]), "tensor 'x'"),
        (tensor("x", "FP32", [-1], [1]), "tensor 'x'"),
        (tensor("x", "FP32", [-1, -1], [1]), "tensor 'x'"),
        (tensor("x", "FP32", [HUGE, 4], []), "tensor 'x'"),
        (tensor("x", "FP32", [HUGE, HUGE, HUGE], [1]), "tensor 'x'"),
        (tensor("x", "FP32", [HUGE, 0], []), "tensor 'x'"),
        (tensor("x", "FP32", [2**63], []), "tensor 'x'"),
        (tensor("x", "FP32", [1] * 40, [1]), "tensor 'x'"),
        (tensor("x", "FP99", [1], [1]), "tensor 'x'"),
        (tensor("x", "FP32", [1], {"a": 1}), "tensor 'x'"),
        (tensor("x", "FP32", [1]), "tensor 'x'"),
        (tensor("x", "FP32", [1], size=4), "tensor 'x'"),
        (tensor("y", "FP32", [1], [1]), "tensor 'y'"),
        (tensor("x", "FP32", [1], [1]) | {"parameters": {"shared_memory_region": "r"}}, "tensor 'x'"),
    ],
)
def test_errors_name_tensor_and_row(given_input: dict[str, Any], where: str) -> None:
    with pytest.raises(ContractError) as caught:
        tensors.decode(X, body_of(given_input))
    assert caught.value.where == where


@pytest.mark.parametrize(
    ("datatype", "shape", "raw", "where"),
    [
        ("FP32", [2], b"\0" * 7, "tensor 'x'"),
        ("FP32", [2], b"\0" * 12, "tensor 'x'"),
        ("FP32", [HUGE, HUGE], b"", "tensor 'x'"),
        ("FP32", [2**62, 4], b"", "tensor 'x'"),
        ("FP32", [HUGE, 0], b"", "tensor 'x'"),
        ("BOOL", [2], b"\1\2", "tensor 'x', row 1"),
        ("BYTES", [HUGE], b"\0\0\0\0", "tensor 'x'"),
        ("BYTES", [1], b"\xff\xff\xff\xffa", "tensor 'x', row 0"),
        ("BYTES", [2], b"\1\0\0\0a\1\0\0\0", "tensor 'x', row 1"),
        ("BYTES", [2], b"\0\0\0\0\1\0\0\0\xff", "tensor 'x', row 1"),
        ("BYTES", [1], b"\0\0\0\0a", "tensor 'x'"),
    ],
)
def test_raw_tensors_that_do_not_fit_are_refused(datatype: str, shape: list[int], raw: bytes, where: str) -> None:
    head = body_of(tensor("x", datatype, shape, size=len(raw)))
    with pytest.raises(ContractError) as caught:
        tensors.decode(X, head + raw, len(head))
    assert caught.value.where == where


def test_the_length_of_the_json_and_the_sizes_behind_it_must_agree_with_the_body() -> None:
    head = body_of(tensor("x", "FP32", [1], size=4))
    for body, length in (
        (head + b"\0\0\0", len(head)), (head + b"\0" * 5, len(head)), (head, -1), (head, 0), (head, len(head) + 1),
        (head + b"\0\0\0\0", len(head) - 1), (head + b"\0\0\0\0", None),
    ):  # fmt: skip
        with pytest.raises(ContractError):
            tensors.decode(X, body, length)
    for size in (-4, 4.0, "4", True):
        wrong = body_of(tensor("x", "FP32", [1]) | {"parameters": {"binary_data_size": size}})
        with pytest.raises(ContractError, match="count of bytes"):
            tensors.decode(X, wrong + b"\0\0\0\0", len(wrong))


@given(st.binary(max_size=200), st.none() | st.integers(-5, 300))
def test_no_bytes_do_more_than_be_refused(body: bytes, length: int | None) -> None:
    with pytest.raises(ContractError):
        tensors.decode(X, body, length)


@pytest.mark.parametrize(
    "body", [b"[" * 100_000, b'{"inputs":[' + b'{"a":' * 100_000, b"{}", b"null", b'{"inputs":{}}']
)
def test_bodies_of_another_kind_are_refused(body: bytes) -> None:
    with pytest.raises(ContractError):
        tensors.decode(X, body)
    deep = b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1],"data":' + body + b"}]}"
    with pytest.raises(ContractError):
        tensors.decode(X, deep)


def test_too_many_rows_a_tensor_twice_and_one_missing_are_refused() -> None:
    given_input = tensor("x", "FP32", [2], [1, 2])
    assert len(tensors.decode(X, body_of(given_input), max_rows=2).columns["x"]) == 2
    with pytest.raises(ContractError, match="more than 1 rows"):
        tensors.decode(X, body_of(given_input), max_rows=1)
    with pytest.raises(ContractError, match="twice"):
        tensors.decode(X, body_of(given_input, given_input))
    with pytest.raises(ContractError, match="missing"):
        tensors.decode(X, body_of())


def test_a_request_names_the_outputs_it_wants_and_which_of_them_raw() -> None:
    contract = Contract(X.inputs, (Field("label", "string"), Field("probabilities", "float32", (2,))))
    given_input = tensor("x", "FP32", [1], [1])

    def asked(**more: Any) -> list[tuple[str, bool]]:
        return [(out.name, out.binary) for out in tensors.decode(contract, body_of(given_input, **more)).outputs]

    assert asked() == [("label", False), ("probabilities", False)]
    assert asked(parameters={"binary_data_output": True}) == [("label", True), ("probabilities", True)]
    wanted = [{"name": "probabilities"}, {"name": "label", "parameters": {"binary_data": False}}]
    assert asked(outputs=wanted, parameters={"binary_data_output": True}) == [("probabilities", True), ("label", False)]
    for outputs in (
        [{"name": "other"}], [{"name": "label"}] * 2, [{"name": "label", "parameters": {"classification": 2}}],
        [{"name": "label", "parameters": {"binary_data": "yes"}}],
    ):  # fmt: skip
        with pytest.raises(ContractError):
            asked(outputs=outputs)


def test_metadata_names_every_datatype_with_the_rows_first() -> None:
    fields = tuple(Field(dtype, dtype, (2,)) for dtype in DTYPES)
    told = tensors.describe_tensors(fields)
    assert [entry["shape"] for entry in told] == [[-1, 2]] * len(DTYPES)
    assert [tensor_data.DTYPES_OF[entry["datatype"]] for entry in told] == list(DTYPES)
