"""Turn Arrow tables into columns: what the readers of CSV, Parquet and JSON lines share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from modelyard.errors import DataError
from modelyard.steps.readers.request import Request, cast_columns

__all__ = ["arrow_type", "arrow_types", "table_columns"]

_ARROW = {
    "bool": pa.bool_(), "int8": pa.int8(), "int16": pa.int16(), "int32": pa.int32(), "int64": pa.int64(),
    "uint8": pa.uint8(), "uint16": pa.uint16(), "uint32": pa.uint32(), "uint64": pa.uint64(),
    "float16": pa.float32(), "float32": pa.float32(), "float64": pa.float64(), "string": pa.string(),
}  # fmt: skip
# float16 passes through float32, since Arrow's CSV reader knows no half floats; NumPy narrows it afterwards.

WIDE_COLUMN = 2**28
"""Characters (1 GiB) up to which a column of text may be widened without a question."""

WIDER_THAN_TEXT = 64
"""How many times larger than its text a larger column may be."""


def arrow_type(dtype: str) -> pa.DataType:
    """Return the Arrow type to read a column as that shall have this dtype."""
    return _ARROW[dtype]


def arrow_types(dtypes: Mapping[str, str]) -> dict[str, pa.DataType]:
    """Return the Arrow type for each column that has a dtype asked for."""
    return {name: _ARROW[dtype] for name, dtype in dtypes.items()}


def table_columns(table: pa.Table, request: Request, *, header: int = 0) -> dict[str, NDArray[Any]]:
    """Return a table's columns as NumPy arrays.

    A missing number becomes NaN, and makes its column float64; a missing text becomes the empty text; dates and
    times become text as ISO 8601; lists of equal length become further dimensions.

    Args:
        table: The columns wanted, in order.
        request: What was asked for.
        header: Lines of the file before its first row, so that errors can name the line.

    Raises:
        DataError: A column has a type or a shape that no array has, a value does not fit `dtypes`, or the target of
            a row is missing.
    """
    columns = {}
    for name in table.column_names:
        where = f"{request.name}, column {name!r}"
        values = _plain(table.column(name).combine_chunks())
        dtype = request.dtypes.get(name)
        if values.null_count and (name == request.target or _needs_values(dtype)):
            row = int(pc.index(pc.is_null(values), True).as_py())
            raise DataError(
                "The value is missing.",
                where=f"{where}, row {row + 1}" + (f" (line {row + 1 + header})" if header else ""),
                remedy="Fill it in, or remove the row." if name == request.target else "Choose a float dtype.",
            )
        if dtype is not None:
            values = _as_asked(values, dtype, where)
        columns[name] = _array(values, where)
    return cast_columns(columns, request)


def _needs_values(dtype: str | None) -> bool:
    return dtype is not None and dtype != "string" and not dtype.startswith("float")


def _plain(values: Any) -> pa.Array:
    # A combined column may still come as one chunk of a ChunkedArray.
    if isinstance(values, pa.ChunkedArray):
        values = pa.concat_arrays(values.chunks) if values.num_chunks else pa.array([], values.type)
    return values.dictionary_decode() if pa.types.is_dictionary(values.type) else values


def _as_asked(values: pa.Array, dtype: str, where: str) -> pa.Array:
    if _is_list(values.type):
        return values
    try:
        return values.cast(arrow_type(dtype))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise DataError(
            f"The values can't be read as {dtype}: {error}.", where=where, remedy="Choose another dtype for it."
        ) from error


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _array(values: pa.Array, where: str) -> NDArray[Any]:
    kind = values.type
    if pa.types.is_null(kind):
        return np.full(len(values), np.nan)
    if _is_list(kind):
        return _nested(values, where)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_temporal(kind):
        strings = values.cast(pa.large_string()).fill_null("")
        _check_widest(strings, where)
        return np.asarray(strings.to_numpy(zero_copy_only=False), dtype=np.str_)
    if pa.types.is_decimal(kind) or (values.null_count and (pa.types.is_integer(kind) or pa.types.is_boolean(kind))):
        # Arrow casts no bool to float64 in one step.
        through = values.cast(pa.uint8()) if pa.types.is_boolean(kind) else values
        values = through.cast(pa.float64(), safe=False)
        kind = values.type
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind):
        return np.asarray(values.to_numpy(zero_copy_only=False))
    raise DataError(
        f"A column can't have the type {kind}.",
        where=where,
        remedy="Leave it out of `columns`, or store it as numbers.",
    )


def _check_widest(strings: pa.Array, where: str) -> None:
    """Refuse a text that makes its column hugely larger than the file: every row gets room for the widest text."""
    lengths = pc.utf8_length(strings)
    widest, total = (pc.max(lengths).as_py() or 0), (pc.sum(lengths).as_py() or 0)
    if len(strings) * widest > max(WIDE_COLUMN, WIDER_THAN_TEXT * total):
        row = int(pc.index(lengths, pa.scalar(widest, lengths.type)).as_py())
        raise DataError(
            f"The text has {widest:,} characters, and every row of the column would take that much memory.",
            where=f"{where}, row {row + 1}",
            remedy="Shorten it, or leave the column out of `columns`.",
        )


def _nested(values: pa.Array, where: str) -> NDArray[Any]:
    if values.null_count:
        row = int(pc.index(pc.is_null(values), True).as_py())
        raise DataError("The list is missing.", where=f"{where}, row {row + 1}", remedy="Give every row a list.")
    lengths = values.value_lengths().to_numpy(zero_copy_only=False) if not _fixed(values.type) else None
    length = int(values.type.list_size) if lengths is None else int(lengths[0]) if len(lengths) else 0
    if lengths is not None and (lengths != length).any():
        row = int(np.argmax(lengths != length))
        raise DataError(
            f"The list has {int(lengths[row])} values, the first row's has {length}.",
            where=f"{where}, row {row + 1}",
            remedy="Give every row a list of one length.",
        )
    inner = _array(values.flatten(), where)
    return inner.reshape(len(values), length, *inner.shape[1:])


def _fixed(kind: pa.DataType) -> bool:
    return bool(pa.types.is_fixed_size_list(kind))
