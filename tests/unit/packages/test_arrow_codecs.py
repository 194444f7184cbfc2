"""Arrow IPC and Parquet become checked columns, and hostile bodies become errors before they become memory."""

from __future__ import annotations

import contextlib
import datetime
import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet as pq

from modelyard.data import Field
from modelyard.errors import ContractError
from modelyard.packages.codecs import arrow, parquet
from modelyard.packages.codecs.arrays import Limits, record_batch
from modelyard.packages.contract import DTYPES, Contract

VALUE = (Field("value", "float32"),)
CODECS = [arrow, parquet]


def contract_of(*fields: Field) -> Contract:
    return Contract(fields, VALUE)


def stream(table: pa.Table, **options: Any) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def file(table: pa.Table, **options: Any) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def parquet_file(table: pa.Table, **options: Any) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, **options)
    return sink.getvalue().to_pybytes()


FORMS = {"stream": (arrow, stream), "file": (arrow, file), "parquet": (parquet, parquet_file)}


@st.composite
def tables(draw: Any) -> tuple[Contract, dict[str, Any]]:
    rows = draw(st.integers(0, 5))
    fields, columns = [], {}
    for index in range(draw(st.integers(1, 4))):
        dtype = draw(st.sampled_from(DTYPES))
        shape = tuple(draw(st.lists(st.integers(1, 3), max_size=3)))
        field = Field(f"f{index}", dtype, shape)
        size = rows * math.prod(shape)
        if dtype == "string":
            # NumPy drops NUL at the end of a text.
            text = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=5)
            flat = np.array(draw(st.lists(text, min_size=size, max_size=size)), dtype=np.str_)
        else:
            raw = draw(st.binary(min_size=size * np.dtype(dtype).itemsize, max_size=size * np.dtype(dtype).itemsize))
            flat = np.frombuffer(bytes(b & 1 for b in raw) if dtype == "bool" else raw, dtype=dtype)
        fields.append(field)
        columns[field.name] = flat.reshape(rows, *shape)
    return contract_of(*fields), columns


@pytest.mark.parametrize("codec", CODECS)
@given(given_table=tables())
@settings(max_examples=60, deadline=None)
def test_what_a_codec_writes_it_reads_back(codec: Any, given_table: tuple[Contract, dict[str, Any]]) -> None:
    contract, columns = given_table
    read = codec.decode(contract, codec.encode(columns))
    for field in contract.inputs:
        expected, found = columns[field.name], read[field.name]
        assert found.shape == expected.shape
        assert found.dtype == expected.dtype or field.dtype == "string"
        assert np.array_equal(found, expected, equal_nan=field.dtype.startswith("float"))


@pytest.mark.parametrize("codec", CODECS)
def test_what_a_codec_writes_arrow_itself_reads(codec: Any) -> None:
    columns = {
        "x": np.array([0.5, np.nan], np.float32),
        "text": np.array(["a", "ž"]),
        "image": np.arange(12, dtype=np.uint8).reshape(2, 2, 3),
    }
    body = codec.encode(columns)
    table = pq.read_table(pa.BufferReader(body)) if codec is parquet else pa.ipc.open_stream(body).read_all()
    assert table.schema.field("x").type == pa.float32()
    assert table.column("text").to_pylist() == ["a", "ž"]
    assert table.column("image").combine_chunks().to_numpy_ndarray().tolist() == columns["image"].tolist()


def test_numbers_of_one_record_batch_are_views_of_the_body() -> None:
    body = arrow.encode(
        {"x": np.arange(1000, dtype=np.float64), "i": np.arange(6000, dtype=np.uint8).reshape(-1, 2, 3)}
    )
    columns = arrow.decode(contract_of(Field("x", "float64"), Field("i", "uint8", (2, 3))), body)
    start = np.frombuffer(body, np.uint8).__array_interface__["data"][0]
    for values in columns.values():
        assert start <= values.__array_interface__["data"][0] < start + len(body)
        assert not values.flags.writeable


@pytest.mark.parametrize("form", FORMS)
def test_the_ways_that_libraries_write_a_column_are_all_read(form: str) -> None:
    codec, write = FORMS[form]
    table = pa.table(
        {
            "small": pa.array([1, 2, 3], pa.int8()),
            "text": pa.array(["a", "b", None]).dictionary_encode(),
            "large": pa.array(["a", None, "c"], pa.large_string()),
            "view": pa.array(["a", "a text of more than twelve", "c"], pa.string_view()),
            "day": pa.array([datetime.date(2026, 1, 2)] * 3),
            "list": pa.array([[1, 2], [3, None], [5, 6]], pa.list_(pa.float32())),
            "fixed": pa.array([[[1, 2]], [[3, 4]], [[5, 6]]], pa.list_(pa.list_(pa.int16(), 2), 1)),
            "gap": pa.array([1, None, 3], pa.int64()),
            "flag": pa.array([True, False, True]),
            "other": pa.array([{"a": 1}] * 3),
        }
    )
    contract = contract_of(
        Field("small", "int64"), Field("text", "string"), Field("large", "string"), Field("view", "string"),
        Field("day", "string"), Field("list", "float64", (2,)), Field("fixed", "float32", (1, 2)),
        Field("gap", "float32"), Field("flag", "bool"),
    )  # fmt: skip
    columns = codec.decode(contract, write(pa.concat_tables([table, table])))
    assert columns["small"].tolist() == [1, 2, 3] * 2
    assert columns["text"].tolist() == ["a", "b", ""] * 2
    assert columns["large"].tolist() == ["a", "", "c"] * 2
    assert columns["view"].tolist() == ["a", "a text of more than twelve", "c"] * 2
    assert columns["day"].tolist() == ["2026-01-02"] * 6
    assert np.array_equal(columns["list"], [[1, 2], [3, math.nan], [5, 6]] * 2, equal_nan=True)
    assert columns["fixed"].tolist() == [[[1, 2]], [[3, 4]], [[5, 6]]] * 2
    assert np.array_equal(columns["gap"], [1, math.nan, 3] * 2, equal_nan=True)
    assert columns["flag"].tolist() == [True, False, True] * 2


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("values", "field", "where"),
    [
        (pa.array([1, None]), Field("x", "int64"), "row 1, field 'x'"),
        (pa.array([True, None]), Field("x", "bool"), "row 1, field 'x'"),
        (pa.array([1, 300]), Field("x", "int8"), "row 1, field 'x'"),
        (pa.array([1.0, 1.5]), Field("x", "int64"), "row 1, field 'x'"),
        (pa.array(["a", "b"]), Field("x", "float32"), "row 0, field 'x'"),
        (pa.array([1, 2]), Field("x", "string"), "row 0, field 'x'"),
        (pa.array([1, 2]), Field("x", "float32", (2,)), "row 0, field 'x'"),
        (pa.array([[1, 2], [1]]), Field("x", "float32", (2,)), "row 1, field 'x'"),
        (pa.array([[1, 2], None]), Field("x", "float32", (2,)), "row 1, field 'x'"),
        (pa.array([[1, 2], [3, None]]), Field("x", "int64", (2,)), "row 1, field 'x'"),
        (pa.array([[1, 2, 3]] * 2, pa.list_(pa.int64(), 3)), Field("x", "int64", (2,)), "row 0, field 'x'"),
        (pa.array([[1, 2]] * 2), Field("x", "int64"), "row 0, field 'x'"),
        (pa.array([[[1], [2]], [[3], [4, 5]]]), Field("x", "int64", (2, 1)), "row 1, field 'x'"),
        (pa.array([["a"], ["b"]]), Field("x", "string"), "row 0, field 'x'"),
        (pa.array([b"a", b"b"]), Field("x", "string"), "row 0, field 'x'"),
        (pa.array(["1", None]).dictionary_encode(), Field("x", "int64"), "row 1, field 'x'"),
    ],
)  # fmt: skip
def test_errors_name_row_and_field(form: str, values: pa.Array, field: Field, where: str) -> None:
    codec, write = FORMS[form]
    with pytest.raises(ContractError) as caught:
        codec.decode(contract_of(field), write(pa.table({"x": values})))
    assert caught.value.where == where


def test_a_bad_row_of_a_later_batch_is_named_by_its_place_in_the_body() -> None:
    table = pa.table({"x": pa.chunked_array([[1, 2], [3, None]])})
    with pytest.raises(ContractError, match="row 3, field 'x'"):
        arrow.decode(contract_of(Field("x", "int64")), stream(table))


@pytest.mark.parametrize("form", FORMS)
def test_a_missing_column_too_many_rows_and_an_empty_body_are_refused(form: str) -> None:
    codec, write = FORMS[form]
    contract = contract_of(Field("x", "int64"))
    body = write(pa.table({"x": [1, 2]}))
    assert codec.decode(contract, body, 2)["x"].tolist() == [1, 2]
    with pytest.raises(ContractError, match="more than 1 rows"):
        codec.decode(contract, body, 1)
    for dtype in ("int64", "string"):
        with pytest.raises(ContractError, match="'y' is missing"):
            codec.decode(contract_of(Field("y", dtype)), body)
    with pytest.raises(ContractError, match="empty"):
        codec.decode(contract, b"")
    with pytest.raises(ContractError, match="2 columns"):
        codec.decode(contract, write(pa.table({"x": [1], "y": [1]})), limits=Limits(columns=1))


@pytest.mark.parametrize("form", FORMS)
def test_a_body_without_rows_has_columns_without_rows(form: str) -> None:
    codec, write = FORMS[form]
    contract = contract_of(Field("x", "int64"), Field("i", "uint8", (2, 3)), Field("s", "string"))
    empty = pa.Table.from_batches([record_batch({"x": np.zeros(0, np.int64), "i": np.zeros((0, 2, 3), np.uint8),
                                                 "s": np.zeros(0, "<U1")})])  # fmt: skip
    assert {name: values.shape for name, values in codec.decode(contract, write(empty)).items()} == {
        "x": (0,), "i": (0, 2, 3), "s": (0,),
    }  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_a_body_cut_off_anywhere_is_refused(form: str) -> None:
    codec, write = FORMS[form]
    contract = contract_of(Field("x", "int64"), Field("s", "string"))
    body = write(pa.table({"x": range(50), "s": ["ab"] * 50}))
    ends = body.rindex(b"\xff\xff\xff\xff") if form == "stream" else len(body)
    for size in range(0, ends, 3):
        with pytest.raises(ContractError):
            codec.decode(contract, body[:size])


@pytest.mark.parametrize("form", FORMS)
@given(place=st.floats(0, 1, exclude_max=True), byte=st.integers(0, 255), more=st.binary(max_size=8))
@settings(max_examples=150, deadline=None)
def test_a_damaged_body_is_read_or_refused_and_nothing_else(form: str, place: float, byte: int, more: bytes) -> None:
    codec, write = FORMS[form]
    contract = contract_of(Field("x", "int64"), Field("s", "string"), Field("l", "float32", (2,)))
    table = pa.table({"x": range(20), "s": pa.array(["ab"] * 20).dictionary_encode(), "l": [[1.0, 2.0]] * 20})
    body = bytearray(write(table, compression="zstd"))
    at = int(place * len(body))
    body[at : at + 1 + len(more)] = bytes([byte]) + more
    with contextlib.suppress(ContractError):
        assert len(codec.decode(contract, bytes(body), 1000)["x"]) <= 1000


def test_a_tensor_of_another_shape_or_turned_is_refused() -> None:
    storage = pa.array([[1, 2, 3, 4, 5, 6]] * 2, pa.list_(pa.int64(), 6))
    turned = pa.fixed_shape_tensor(pa.int64(), (2, 3), permutation=[1, 0])
    for kind in (pa.fixed_shape_tensor(pa.int64(), (3, 2)), turned):
        table = pa.table({"x": pa.ExtensionArray.from_storage(kind, storage)})
        with pytest.raises(ContractError, match="row 0, field 'x'"):
            arrow.decode(contract_of(Field("x", "int64", (2, 3))), stream(table))


def test_a_footer_that_ends_the_process_in_arrow_is_refused() -> None:
    """Arrow aborts where its accessors meet a damaged histogram: so none of them is asked."""
    body = bytearray(parquet_file(pa.table({"x": [[1.0, 2.0]] * 3, "s": ["a"] * 3})))
    contract = contract_of(Field("x", "float32", (2,)), Field("s", "string"))
    start = len(body) - 8 - int.from_bytes(body[-8:-4], "little")
    for at in range(start, len(body) - 8):
        kept = body[at]
        for value in (kept ^ 1, kept ^ 0x10, 0, 0xFF):
            body[at] = value
            with contextlib.suppress(ContractError):
                parquet.decode(contract, bytes(body), 1000)
        body[at] = kept


@given(st.binary(max_size=200))
def test_no_bytes_do_more_than_be_refused(body: bytes) -> None:
    for codec in CODECS:
        for prefix in (b"", b"ARROW1\0\0", b"PAR1"):
            with pytest.raises(ContractError):
                codec.decode(contract_of(Field("x", "int64")), prefix + body)


@pytest.mark.parametrize("form", FORMS)
def test_a_bomb_is_refused_by_its_ratio_and_by_its_size_before_it_is_unpacked(form: str) -> None:
    codec, write = FORMS[form]
    contract = contract_of(Field("x", "float64"))
    options = {"compression": "zstd"} | ({"use_dictionary": False} if codec is parquet else {})
    body = write(pa.table({"x": np.zeros(4_000_000)}), **options)
    assert len(body) < 100_000
    before = pa.total_allocated_bytes()
    peak = pa.default_memory_pool().max_memory()
    with pytest.raises(ContractError, match="200 times"):
        codec.decode(contract, body)
    with pytest.raises(ContractError, match="are allowed"):
        codec.decode(contract, body, limits=Limits(total_bytes=1 << 20))
    assert pa.total_allocated_bytes() - before < 1 << 20
    assert pa.default_memory_pool().max_memory() - peak < 8 << 20
    assert len(codec.decode(contract, body, limits=Limits(ratio=1e9))["x"]) == 4_000_000


def test_a_long_text_in_a_dictionary_is_not_made_once_for_each_row() -> None:
    table = pa.table({"s": pa.DictionaryArray.from_arrays(np.zeros(1_000_000, np.int8), ["long" * 250_000])})
    contract = contract_of(Field("s", "string"))
    plain = pa.table({"s": pa.array(["long" * 250_000]).take(pa.array([0] * 500))})
    for codec, body in ((arrow, stream(table)), (parquet, parquet_file(plain))):
        with pytest.raises(ContractError, match="too much memory"):
            codec.decode(contract, body, limits=Limits(ratio=1e9))


def test_a_footer_that_understates_its_pages_is_not_believed() -> None:
    """The page says how much it unpacks to; the footer's own figure for the column is never used."""
    honest = parquet_file(pa.table({"x": np.zeros(3_000_000)}), compression="zstd", use_dictionary=False)
    metadata = pq.read_metadata(pa.BufferReader(honest))
    stated = metadata.row_group(0).column(0).total_uncompressed_size

    def varint(number: int) -> bytes:
        out = b""
        number = number << 1
        while number > 127:
            out += bytes([number & 127 | 128])
            number >>= 7
        return out + bytes([number])

    lying = honest.replace(varint(stated), varint(1 << 21)[: len(varint(stated))])
    assert pq.read_metadata(pa.BufferReader(lying)).row_group(0).column(0).total_uncompressed_size < stated
    with pytest.raises(ContractError, match="200 times"):
        parquet.decode(contract_of(Field("x", "float64")), lying)


def test_prefixes_that_unfold_are_not_taken_in_a_request() -> None:
    table = pa.table({"s": ["shared prefix " + str(index) for index in range(100)]})
    body = parquet_file(table, use_dictionary=False, column_encoding={"s": "DELTA_BYTE_ARRAY"})
    with pytest.raises(ContractError, match="DELTA_BYTE_ARRAY"):
        parquet.decode(contract_of(Field("s", "string")), body)


def test_every_page_version_codec_and_size_is_walked() -> None:
    contract = contract_of(Field("s", "string"), Field("l", "float32", (3,)))
    table = pa.table(
        {"s": ["ab", "c"] * 500, "l": pa.array([[1, 2, 3]] * 1000, pa.list_(pa.float32())), "z": [1] * 1000}
    )
    for options in (
        {}, {"data_page_version": "2.0"}, {"use_dictionary": False}, {"compression": "snappy"}, {"data_page_size": 100},
        {"compression": "gzip", "row_group_size": 7}, {"write_page_checksum": True},
    ):  # fmt: skip
        columns = parquet.decode(contract, parquet_file(table, **options))
        assert columns["s"].tolist() == ["ab", "c"] * 500
        assert columns["l"].tolist() == [[1, 2, 3]] * 1000
