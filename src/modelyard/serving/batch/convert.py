"""A piece of the input to checked columns, and answers to the bytes of a part."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from modelyard.contracts import Columns
from modelyard.errors import ContractError, DataError, ModelyardError
from modelyard.packages.codecs import csv as csv_codec
from modelyard.packages.codecs import json as json_codec
from modelyard.packages.codecs.arrays import columns_of, record_batch
from modelyard.packages.contract import Contract
from modelyard.serving.batch.spec import Format

__all__ = ["csv_header", "decode", "encode", "rebased"]

Kept = Mapping[str, Any]
"""Columns of the input to write before the answers: Arrow arrays by name."""

_ROW = re.compile(r"^row (\d+)")
_LINE = re.compile(r"^line (\d+)")


def decode(
    contract: Contract, kind: Format, header: bytes, body: bytes, rows: int, kept: pa.Schema
) -> tuple[Columns, Kept]:
    """Return the contract's columns of a piece, and the columns to keep.

    Args:
        contract: What the piece must hold.
        kind: Format of the input.
        header: Of a CSV file; else empty.
        body: The piece.
        rows: How many it has.
        kept: Names and types of what to keep.

    Raises:
        ContractError: A value does not fit; `where` names row and field, counted in the piece.
        DataError: A kept value does not fit its column's type, or rows and lines disagree.
    """
    if kind == "csv":
        return _csv(contract, header, body, rows, kept)
    if kind == "jsonl":
        return _json_lines(contract, body, rows, kept)
    with pa.ipc.open_stream(body) as reader:
        table = reader.read_all()
    return columns_of(contract, table.to_batches()), {
        field.name: _plain(table.column(field.name).combine_chunks(), field.type) for field in kept
    }


def encode(kind: Format, kept: Kept, outputs: Columns, schema: pa.Schema) -> bytes:
    """Return the bytes of a part: an Arrow IPC stream, or lines of CSV without the header, or JSON lines.

    Args:
        kind: Format of the output.
        kept: Columns of the input.
        outputs: The model's answer.
        schema: Of the output.
    """
    if kind == "csv":
        text = csv_codec.encode({name: _cells(values) for name, values in kept.items()} | dict(outputs))
        return text[len(csv_header(schema)) :]
    if kind == "jsonl":
        lists = [values.to_pylist() for values in kept.values()] + [values.tolist() for values in outputs.values()]
        names = (*kept, *outputs)
        rows = [dict(zip(names, row, strict=True)) for row in zip(*lists, strict=True)]
        return msgspec.json.Encoder(enc_hook=str).encode_lines(rows)
    answers = record_batch(outputs)
    batch = pa.RecordBatch.from_arrays([*kept.values(), *answers.columns], schema=schema)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_batch(batch)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def csv_header(schema: pa.Schema) -> bytes:
    """Return the header of a CSV file: array columns that the contract knows take one cell for each element."""
    columns = {}
    for field in schema:
        shape = _shape(field.type)
        columns[field.name] = np.empty((0, *shape), dtype=np.float32)
    return csv_codec.encode(columns)


def rebased(error: ModelyardError, place: str, first: int, line: int) -> ModelyardError:
    """Return an error about a piece as one about the file.

    Args:
        error: `where` counts rows and lines in the piece.
        place: The file.
        first: The file's row that the piece starts with.
        line: The file's line that the piece starts with; the piece has one line more before it, the header.
    """
    where = error.where or ""
    where = _ROW.sub(lambda match: f"row {int(match[1]) + first}", where)
    where = _LINE.sub(lambda match: f"line {int(match[1]) + line - 2}", where)
    return type(error)(error.what, where=", ".join(filter(None, (place, where))), remedy=error.remedy)


def _csv(contract: Contract, header: bytes, body: bytes, rows: int, kept: pa.Schema) -> tuple[Columns, Kept]:
    columns = csv_codec.decode(contract, header + body)
    if len(next(iter(columns.values()))) != rows:
        raise DataError(
            "A quote stands inside a cell that is not quoted, so that rows can't be told apart.",
            where="row 0",
            remedy="Quote the cell, and double the quotes in it.",
        )
    wanted = [field.name for field in kept if field.name not in columns]
    texts: dict[str, list[str]] = {}
    if wanted:
        reader = csv.reader(io.StringIO((header + body).decode(), newline=""))
        names = next(reader)
        places = [names.index(name) for name in wanted]
        found = [[row[place] for place in places] for row in reader if row]
        texts = {name: list(cells) for name, cells in zip(wanted, zip(*found, strict=True), strict=True)}
    return columns, _kept(columns, texts, kept)


def _json_lines(contract: Contract, body: bytes, rows: int, kept: pa.Schema) -> tuple[Columns, Kept]:
    lines = body.splitlines()
    for row, line in enumerate(lines):
        text = line.strip()
        if not (text.startswith(b"{") and text.endswith(b"}")):
            raise DataError("The line is no JSON object.", where=f"row {row}")
    columns = json_codec.decode(contract, b"[" + b",".join(lines) + b"]")
    if len(lines) != rows or len(next(iter(columns.values()))) != rows:
        raise DataError("A line does not hold one JSON object.", where="row 0", remedy="Write one object on a line.")
    wanted = [field.name for field in kept if field.name not in columns]
    found: dict[str, list[Any]] = {}
    if wanted:
        decoded = [msgspec.json.decode(line) for line in lines]
        found = {name: [row.get(name) for row in decoded] for name in wanted}
    return columns, _kept(columns, found, kept)


def _kept(columns: Columns, found: Mapping[str, Sequence[Any]], kept: pa.Schema) -> Kept:
    arrays = {}
    for field in kept:
        if field.name in columns:
            arrays[field.name] = record_batch({field.name: columns[field.name]}).column(0)
            continue
        try:
            arrays[field.name] = pa.array(found[field.name], type=field.type)
        except (pa.ArrowException, TypeError, OverflowError) as error:
            row = next(i for i, value in enumerate(found[field.name]) if not _fits(value, field.type))
            raise DataError(
                f"The column is {field.type} where the file begins, and here it is not.",
                where=f"row {row}, column {field.name!r}",
                remedy="Leave it out of --columns.",
            ) from error
    return arrays


def _fits(value: Any, kind: pa.DataType) -> bool:
    try:
        pa.array([value], type=kind)
    except (pa.ArrowException, TypeError, OverflowError):
        return False
    return True


def _plain(array: Any, kind: pa.DataType) -> pa.Array:
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], array.type)
    return array if array.type == kind else array.cast(kind)


def _shape(kind: pa.DataType) -> tuple[int, ...]:
    if isinstance(kind, pa.FixedShapeTensorType):
        return tuple(kind.shape)
    if pa.types.is_fixed_size_list(kind):
        return (kind.list_size, *_shape(kind.value_type))
    return ()


def _cells(array: Any) -> Any:
    """Return a kept column for CSV: numbers and fixed arrays as they are, everything else as text."""
    kind = array.type
    if isinstance(kind, pa.FixedShapeTensorType) and not array.null_count and len(array):
        return array.to_numpy_ndarray()
    shape = _shape(kind)
    if shape and not array.null_count:
        flat = array
        for _ in shape:
            flat = flat.flatten() if not isinstance(flat, pa.ExtensionArray) else flat.storage.flatten()
        return _cells(flat).reshape(len(array), *shape)
    number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    if number and not array.null_count:
        return array.to_numpy(zero_copy_only=False)
    if shape:
        raise ContractError("A list is missing, and CSV has no word for that.", where="row 0")
    return np.array([_text(value) for value in array.to_pylist()], dtype=np.str_).reshape(len(array))


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    return msgspec.json.encode(value, enc_hook=str).decode() if isinstance(value, list | dict) else str(value)
