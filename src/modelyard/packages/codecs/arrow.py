"""Bodies in Arrow IPC, as a stream or as a file; answers as a stream.

Format: https://arrow.apache.org/docs/format/Columnar.html#serialization-and-interprocess-communication-ipc. A file is
read as the stream that lies in it, so that its footer can't name a block twice. What compressed buffers say of their
size is added up, message by message, before one of them is unpacked.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pyarrow as pa

from modelyard.contracts import Columns
from modelyard.errors import ContractError
from modelyard.packages.codecs.arrays import Limits, check_names, columns_of, record_batch
from modelyard.packages.contract import Contract, describe, limit_rows

__all__ = ["FILE_TYPE", "STREAM_TYPE", "Limits", "decode", "encode"]

STREAM_TYPE = "application/vnd.apache.arrow.stream"
"""Media type of the stream (https://www.iana.org/assignments/media-types/application/vnd.apache.arrow.stream)."""

FILE_TYPE = "application/vnd.apache.arrow.file"
"""Media type of the file."""

_MAGIC = b"ARROW1"
_DICTIONARY_BATCH, _RECORD_BATCH = 2, 3


def decode(
    contract: Contract,
    body: bytes | bytearray | memoryview,
    max_rows: int | None = None,
    limits: Limits | None = None,
) -> Columns:
    """Return the contract's columns from an Arrow IPC stream or file.

    Numbers without nulls in a body of one record batch are views of the body: they are read-only, and keep it alive.

    Args:
        contract: What the body must hold; columns that it does not name are ignored.
        body: The bytes; a file starts with `ARROW1`.
        max_rows: How many rows a request may have; None for any number.
        limits: Of what it unpacks to; None takes the usual ones.

    Raises:
        ContractError: The body is empty, damaged or cut off, too large, or a value does not fit; `where` names row and
            field.
    """
    limits = limits or Limits()
    remedy = f"Send an Arrow IPC stream or file with {describe(contract.inputs)}."
    if not len(body):
        raise ContractError("The body is empty.", remedy=remedy)
    stream = _stream_of(pa.py_buffer(body), remedy)
    try:
        limits.check(_unpacked(stream), stream.size)
        with pa.ipc.open_stream(stream) as reader:
            limits.check_columns(len(reader.schema))
            check_names(contract, reader.schema.names)
            batches = list(_batches(reader, max_rows)) or [pa.RecordBatch.from_pylist([], schema=reader.schema)]
    except (pa.ArrowException, OSError, ValueError, NotImplementedError, struct.error, IndexError) as error:
        # Arrow reports a body that ends too soon as an OSError without a number, and names that are no UTF-8 as a
        # ValueError.
        raise ContractError(f"This is not Arrow IPC, or not all of it: {_brief(error)}.", remedy=remedy) from error
    return columns_of(contract, batches)


def encode(columns: Columns) -> bytes:
    """Return columns as an Arrow IPC stream with one record batch, not compressed.

    Args:
        columns: Arrays that share their first dimension; see `codecs.arrays` for the types they are written as.
    """
    batch = record_batch(columns)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def _stream_of(body: pa.Buffer, remedy: str) -> pa.Buffer:
    if body[: len(_MAGIC)].to_pybytes() != _MAGIC:
        return body
    # magic, padding to 8, the stream, its end, the footer, four bytes of the footer's length, magic.
    if body.size < 24 or body[body.size - len(_MAGIC) :].to_pybytes() != _MAGIC:
        raise ContractError("The Arrow file is cut off.", remedy=remedy)
    return body[8:]


def _batches(reader: pa.RecordBatchStreamReader, max_rows: int | None) -> Iterator[pa.RecordBatch]:
    rows = 0
    for batch in reader:
        rows += batch.num_rows
        limit_rows(rows, max_rows)
        yield batch


def _unpacked(stream: pa.Buffer) -> int:
    """Return the bytes that the stream's buffers say they take once unpacked.

    Raises:
        pa.ArrowException, OSError: The stream is damaged.
        struct.error: A message's table points outside of it.
    """
    total = 0
    for message in pa.ipc.MessageReader.open_stream(stream):
        metadata = memoryview(message.metadata).cast("B")
        body = memoryview(message.body).cast("B") if message.body is not None else memoryview(b"")
        total += sum(_sizes(metadata, body))
    return total


def _sizes(metadata: memoryview, body: memoryview) -> Iterator[int]:
    """Yield what each buffer of a message unpacks to: read from Arrow's flatbuffers Message.fbs."""
    message = _u32(metadata, 0)
    header = _slot(metadata, message, 2)
    kind_at = _slot(metadata, message, 1)
    kind = metadata[kind_at] if kind_at else 0
    if not header or kind not in (_DICTIONARY_BATCH, _RECORD_BATCH):
        return
    batch = header + _u32(metadata, header)
    if kind == _DICTIONARY_BATCH:
        data = _slot(metadata, batch, 1)
        if not data:
            return
        batch = data + _u32(metadata, data)
    buffers = _slot(metadata, batch, 2)
    if not buffers:
        return
    start = buffers + _u32(metadata, buffers)
    compressed = bool(_slot(metadata, batch, 3))
    for index in range(_u32(metadata, start)):
        offset, length = struct.unpack_from("<qq", metadata, start + 4 + 16 * index)
        if offset < 0 or length < 0 or offset + length > len(body):
            raise pa.ArrowInvalid("a buffer lies outside of its message")
        stated = struct.unpack_from("<q", body, offset)[0] if compressed and length >= 8 else -1
        # -1 stands for a buffer that is not compressed.
        yield length if stated == -1 else max(stated, 0)


def _slot(data: memoryview, table: int, number: int) -> int:
    """Return where a field of a flatbuffers table lies, or 0 where it is left out."""
    vtable = table - struct.unpack_from("<i", data, table)[0]
    if vtable < 0:
        raise pa.ArrowInvalid("a table points outside of its message")
    size = struct.unpack_from("<H", data, vtable)[0]
    place = 4 + 2 * number
    offset: int = struct.unpack_from("<H", data, vtable + place)[0] if place < size else 0
    return table + offset if offset else 0


def _u32(data: memoryview, place: int) -> int:
    value: int = struct.unpack_from("<I", data, place)[0]
    return value


def _brief(error: Exception) -> str:
    return str(error).splitlines()[0].rstrip(".")[:120] if str(error) else type(error).__name__
