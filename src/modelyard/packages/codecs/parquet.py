"""Request bodies in Parquet; answers as one row group.

Format: https://parquet.apache.org/docs/file-format/. Rows and columns are counted in the footer before a page is read,
and the headers of the pages are read before one of them is unpacked, because a footer can say what it likes.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
from pyarrow import parquet

from modelyard.contracts import Columns
from modelyard.data import Field
from modelyard.errors import ContractError
from modelyard.packages.codecs.arrays import Limits, check_names, columns_of, record_batch
from modelyard.packages.codecs.parquet_pages import Chunk, Group, PageError, footer, pages
from modelyard.packages.contract import Contract, describe, limit_rows

__all__ = ["MEDIA_TYPE", "Limits", "decode", "encode"]

MEDIA_TYPE = "application/vnd.apache.parquet"
"""Media type (https://www.iana.org/assignments/media-types/application/vnd.apache.parquet)."""

_DELTA_BYTE_ARRAY = 7
_VALUE_BYTES = 8


def decode(
    contract: Contract,
    body: bytes | bytearray | memoryview,
    max_rows: int | None = None,
    limits: Limits | None = None,
) -> Columns:
    """Return the contract's columns from a Parquet file; no other column is read.

    Args:
        contract: What the file must hold.
        body: The file's bytes.
        max_rows: How many rows a request may have; None for any number.
        limits: Of its columns, and of what the contract's ones unpack to; None takes the usual ones.

    Raises:
        ContractError: The body is empty, damaged or cut off, too large, or a value does not fit; `where` names row and
            field.
    """
    limits = limits or Limits()
    remedy = f"Send a Parquet file with {describe(contract.inputs)}."
    if not len(body):
        raise ContractError("The body is empty.", remedy=remedy)
    names = [field.name for field in contract.inputs]
    try:
        buffer = pa.py_buffer(body)
        groups = footer(memoryview(buffer).cast("B"))
        limit_rows(sum(group.rows for group in groups), max_rows)
        limits.check_columns(max((len(group.chunks) for group in groups), default=0))
        filled = [index for index, group in enumerate(groups) if group.rows]
        unpacked = _unpacked(contract, [groups[index] for index in filled], memoryview(buffer).cast("B"))
        limits.check(unpacked, buffer.size)
        paths = {chunk.path for group in groups for chunk in group.chunks}
        texts = [field.name for field in contract.inputs if field.dtype == "string" and field.name in paths]
        # A text that a dictionary holds once stays there once: its rows are counted before they are made.
        with parquet.ParquetFile(pa.BufferReader(buffer), read_dictionary=texts, pre_buffer=False) as file:
            limits.check_columns(file.metadata.num_columns)
            check_names(contract, file.schema_arrow.names)
            table = file.read_row_groups(filled, columns=names, use_threads=False)
        batches = table.to_batches() or [pa.RecordBatch.from_pylist([], schema=table.schema)]
    except (pa.ArrowException, OSError, ValueError, KeyError, NotImplementedError) as error:
        # Arrow reports damaged pages as an OSError without a number, names that are no UTF-8 as a ValueError, and a
        # schema that differs from the columns as a KeyError.
        brief = str(error).splitlines()[0].rstrip(".")[:120] if str(error) else type(error).__name__
        raise ContractError(f"This is not Parquet, or not all of it: {brief}.", remedy=remedy) from error
    return columns_of(contract, batches)


def encode(columns: Columns) -> bytes:
    """Return columns as a Parquet file with one row group, compressed with zstd.

    Args:
        columns: Arrays that share their first dimension; see `codecs.arrays` for the types they are written as.
    """
    sink = pa.BufferOutputStream()
    parquet.write_table(pa.Table.from_batches([record_batch(columns)]), sink, compression="zstd")
    content: bytes = sink.getvalue().to_pybytes()
    return content


def _unpacked(contract: Contract, groups: Sequence[Group], body: memoryview) -> int:
    """Return the bytes that the pages of the contract's columns say they take once unpacked.

    Raises:
        ContractError: A page has an encoding that can't be limited.
        PageError: A page's header can't be read.
    """
    total = 0
    for group in groups:
        for chunk in group.chunks:
            field = _field_of(contract, chunk.path)
            if field is not None:
                total += _chunk_size(field, chunk, body)
    return total


def _field_of(contract: Contract, path: str) -> Field | None:
    """Return the field that a leaf of the schema belongs to; the prefix rule is that of `ParquetFile.read`."""
    return next((f for f in contract.inputs if path == f.name or path.startswith(f"{f.name}.")), None)


def _chunk_size(field: Field, chunk: Chunk, body: memoryview) -> int:
    if chunk.start < 4 or chunk.length < 0 or chunk.start + chunk.length > len(body):
        raise PageError("the footer names bytes outside of the file")
    size, values = 0, 0
    for page in pages(body[chunk.start : chunk.start + chunk.length]):
        size += page.unpacked
        values += page.values
        if page.encoding == _DELTA_BYTE_ARRAY:
            raise ContractError(
                "The column has the encoding DELTA_BYTE_ARRAY, which is not taken in a request.",
                where=f"field {field.name!r}",
                remedy="Write it with a dictionary, or plain.",
            )
    # Run lengths and dictionaries make many values out of few bytes: each is counted as the widest number.
    return size + _VALUE_BYTES * max(values, chunk.values)
