"""Joins the parts into the output, which then appears at once."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from modelyard.errors import IntegrityError
from modelyard.files import durable_rename, storage_errors
from modelyard.serving.batch.convert import csv_header
from modelyard.serving.batch.spec import Format
from modelyard.serving.batch.workfolder import part_file

__all__ = ["assemble"]

_GROUP_ROWS = 131_072
_GROUP_BYTES = 64 << 20


def assemble(
    folder: Path, parts: int, output: Path, kind: Format, schema: pa.Schema, wrote: Callable[[int], None]
) -> None:
    """Join parts in order, and rename the result to the output once it is durable.

    Args:
        folder: Where the parts lie, and where the result is written: on the output's file system.
        parts: How many.
        output: Where the result goes.
        kind: Its format.
        schema: Its columns.
        wrote: Is told of each part.

    Raises:
        StorageError: The disk is full, or the folder can't be written; the output is untouched, and the parts stay.
        IntegrityError: A part was changed by something else.
    """
    temp = folder / "output.tmp"
    try:
        with storage_errors(output):
            with temp.open("wb") as file:
                if kind in ("csv", "jsonl"):
                    file.write(csv_header(schema) if kind == "csv" else b"")
                    for number in range(parts):
                        with part_file(folder, number).open("rb") as part:
                            shutil.copyfileobj(part, file, 1 << 20)
                        wrote(number)
                else:
                    _write_table(folder, parts, file, kind, schema, wrote)
                file.flush()
                os.fsync(file.fileno())
            durable_rename(temp, output)
    except pa.ArrowException as error:
        raise IntegrityError(
            f"A part can't be read: {error}.", where=str(folder), remedy="Remove the folder, and start again."
        ) from error
    finally:
        temp.unlink(missing_ok=True)


def _write_table(
    folder: Path, parts: int, file: Any, kind: Format, schema: pa.Schema, wrote: Callable[[int], None]
) -> None:
    if kind == "parquet":
        with parquet.ParquetWriter(file, schema, compression="zstd") as writer:
            for table in _groups(folder, parts, schema, wrote):
                writer.write_table(table, row_group_size=max(table.num_rows, 1))
        return
    new = pa.ipc.new_file if kind == "arrow" else pa.ipc.new_stream
    with new(file, schema) as ipc:
        for table in _groups(folder, parts, schema, wrote):
            ipc.write_table(table.combine_chunks())


def _groups(folder: Path, parts: int, schema: pa.Schema, wrote: Callable[[int], None]) -> Iterator[pa.Table]:
    """Yield the parts' rows in tables that are worth a row group."""
    held: list[pa.RecordBatch] = []
    for number in range(parts):
        with part_file(folder, number).open("rb") as part, pa.ipc.open_stream(part) as reader:
            held.extend(reader)
        wrote(number)
        if sum(b.num_rows for b in held) >= _GROUP_ROWS or sum(b.nbytes for b in held) >= _GROUP_BYTES:
            yield pa.Table.from_batches(held, schema)
            held = []
    if held:
        yield pa.Table.from_batches(held, schema)
