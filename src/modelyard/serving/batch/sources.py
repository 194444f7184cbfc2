"""The rows of a file in pieces of a settled number of rows, read from front to back; never the whole file at once."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import msgspec
import pyarrow as pa
from pyarrow import parquet

from modelyard.errors import ContractError, DataError, InputError
from modelyard.files import storage_error, storage_errors
from modelyard.packages.codecs import csv as csv_codec
from modelyard.packages.codecs.arrays import arrow_type, check_names
from modelyard.packages.contract import Contract
from modelyard.serving.batch.spec import Format

__all__ = ["LONGEST_PIECE", "Piece", "Source", "kept_columns", "open_source"]

LONGEST_PIECE = 64 << 20
"""Bytes after which a piece of text ends, however few its rows are."""

_LONGEST_RECORD = 256 << 20


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows that are predicted together.

    Args:
        number: From 0.
        first: Row of the file that it starts with, from 0.
        line: Line of the file that it starts with, from 1; 0 where the format has none.
        rows: How many.
        end: How far the file is read after it, in the unit of `Source.total`.
        body: An Arrow IPC stream, or lines of text; empty where the piece was only counted.
    """

    number: int
    first: int
    line: int
    rows: int
    end: int
    body: bytes


class Source(Protocol):
    """A file of rows."""

    names: tuple[str, ...]
    """Its columns; for JSON lines, the keys of its first piece."""
    typed: bool
    """Whether its columns have types of their own, which kept ones keep."""
    header: bytes
    """What stands before each piece of a CSV file; else empty."""
    total: int
    """Rows, or bytes where they are not known beforehand."""

    def pieces(self, skip: frozenset[int]) -> Iterator[Piece]:
        """Yield every piece in order; those to skip without their rows."""

    def types(self, names: Sequence[str]) -> dict[str, pa.DataType]:
        """Return the types of its columns."""


def open_source(path: Path, kind: Format, contract: Contract, rows: int, columns: Sequence[str]) -> Source:
    """Open a file of rows.

    Args:
        path: The file.
        kind: Its format.
        contract: Whose inputs it must have.
        rows: Of a piece.
        columns: Wanted beside the contract's; `*` for all.

    Raises:
        DataError: It is damaged, or not of that format.
        ContractError: A column of the contract is missing.
        StorageError: It can't be read.
    """
    try:
        with _reading(path):
            if kind == "csv":
                return _Csv(path, contract, rows)
            if kind == "jsonl":
                return _JsonLines(path, rows)
            opened = _Parquet(path, rows) if kind == "parquet" else _Arrow(path, rows)
            check_names(contract, opened.names)
            wanted = opened.names if "*" in columns else (*(field.name for field in contract.inputs), *columns)
            opened.wanted = [name for name in opened.names if name in wanted]
            return opened
    except ContractError as error:
        place = ", ".join(filter(None, (str(path), error.where)))
        raise ContractError(error.what, where=place, remedy=error.remedy) from error


def kept_columns(source: Source, contract: Contract, columns: Sequence[str], path: Path) -> tuple[pa.Field, ...]:
    """Return the input columns that are written before the answers, with their types.

    Raises:
        InputError: The file has no such column, has it twice, or an answer has its name.
    """
    names = tuple(dict.fromkeys(name for word in columns for name in (source.names if word == "*" else (word,))))
    answers = {field.name for field in contract.outputs}
    for name in names:
        found = source.names.count(name)
        if found != 1 or name in answers:
            what = "is an answer's name too" if found == 1 else "stands twice" if found else "is not there"
            raise InputError(
                f"The column {name!r} {what}.", where=str(path), remedy=f"The file has {', '.join(source.names)}."
            )
    fields = {} if source.typed else {f.name: arrow_type(f) for f in contract.inputs if f.name in names}
    types = source.types([name for name in names if name not in fields]) | fields
    return tuple(pa.field(name, types[name]) for name in names)


class _Tables:
    """What Parquet and Arrow share: batches of any size become pieces of one size."""

    typed = True
    header = b""

    def __init__(self, path: Path, rows: int) -> None:
        self._path = path
        self._rows = rows
        self.wanted: list[str] = []
        self.names: tuple[str, ...] = ()
        self.total = 0
        self.schema: pa.Schema = pa.schema([])

    def types(self, names: Sequence[str]) -> dict[str, pa.DataType]:
        """Return types as the file has them, dictionaries unfolded."""
        found = {name: self.schema.field(name).type for name in names}
        return {name: kind.value_type if pa.types.is_dictionary(kind) else kind for name, kind in found.items()}

    def pieces(self, skip: frozenset[int]) -> Iterator[Piece]:
        count = -(-self.total // self._rows)
        number = next((index for index in range(count) if index not in skip), count)
        for done in range(number):
            first, end = done * self._rows, min((done + 1) * self._rows, self.total)
            yield Piece(done, first, 0, end - first, end, b"")
        waiting: list[pa.RecordBatch] = []
        held = 0
        with _reading(self._path):
            for batch in self._batches(number * self._rows):
                waiting.append(batch)
                held += batch.num_rows
                while held >= self._rows:
                    piece, waiting = _cut(waiting, self._rows)
                    held -= self._rows
                    yield self._piece(number, piece, self._rows, number in skip)
                    number += 1
        if held:
            yield self._piece(number, waiting, held, number in skip)

    def _batches(self, start: int) -> Iterator[pa.RecordBatch]:
        raise NotImplementedError

    def _piece(self, number: int, batches: list[pa.RecordBatch], rows: int, counted: bool) -> Piece:
        first = number * self._rows
        if counted:
            return Piece(number, first, 0, rows, first + rows, b"")
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, batches[0].schema) as writer:
            for batch in batches:
                writer.write_batch(batch)
        return Piece(number, first, 0, rows, first + rows, sink.getvalue().to_pybytes())


class _Parquet(_Tables):
    def __init__(self, path: Path, rows: int) -> None:
        super().__init__(path, rows)
        # A small buffer for each column: a row group may be larger than memory.
        self._file = parquet.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20)
        self.schema = self._file.schema_arrow
        self.names = tuple(self.schema.names)
        self.total = self._file.metadata.num_rows

    def _batches(self, start: int) -> Iterator[pa.RecordBatch]:
        groups: list[int] = []
        drop = start
        for index in range(self._file.num_row_groups):
            rows = self._file.metadata.row_group(index).num_rows
            if groups or drop < rows:
                groups.append(index)
            else:
                drop -= rows
        size = min(self._rows, 65_536)
        for batch in self._file.iter_batches(size, row_groups=groups, columns=self.wanted) if groups else ():
            left = max(0, drop - batch.num_rows)
            if batch.num_rows > drop:
                yield batch.slice(drop).select(self.wanted)
            drop = left


class _Arrow(_Tables):
    def __init__(self, path: Path, rows: int) -> None:
        super().__init__(path, rows)
        with self._open() as reader:
            self.schema = reader.schema
            self.names = tuple(self.schema.names)
        # Counted with no column at all: a compressed one is not unpacked for it.
        self.total = sum(batch.num_rows for batch in self._read([]))

    def _open(self, options: pa.ipc.IpcReadOptions | None = None) -> Any:
        mapped = pa.memory_map(str(self._path))
        is_file = mapped.read(6) == b"ARROW1"
        mapped.seek(0)
        return (pa.ipc.open_file if is_file else pa.ipc.open_stream)(mapped, options=options)

    def _read(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        # An empty list would mean all columns; one column is the least that can be read.
        places = sorted(self.names.index(name) for name in columns) or [0]
        with self._open(pa.ipc.IpcReadOptions(included_fields=places)) as reader:
            if hasattr(reader, "get_batch"):
                yield from (reader.get_batch(index) for index in range(reader.num_record_batches))
            else:
                yield from reader

    def _batches(self, start: int) -> Iterator[pa.RecordBatch]:
        for batch in self._read(self.wanted):
            if batch.num_rows > start:
                yield batch.slice(start).select(self.wanted)
            start = max(0, start - batch.num_rows)


class _Lines:
    """What CSV and JSON lines share: records, each one line or more."""

    typed = False
    header = b""
    names: tuple[str, ...] = ()

    def __init__(self, path: Path, rows: int) -> None:
        self._path = path
        self._rows = rows
        self.total = path.stat().st_size
        self._start = 0
        self._first_line = 1

    def pieces(self, skip: frozenset[int]) -> Iterator[Piece]:
        number, first, count, size = 0, 0, 0, 0
        line, next_line = self._first_line, self._first_line
        end = self._start
        held: list[bytes] = []
        with storage_errors(self._path), self._path.open("rb") as file:
            file.seek(self._start)
            for record, lines in self._records(file):
                end += len(record)
                next_line += lines
                if record in (b"\n", b"\r\n"):
                    continue
                held.append(record if record.endswith(b"\n") else record + b"\n")
                count += 1
                size += len(record)
                if count == self._rows or size >= LONGEST_PIECE:
                    yield Piece(number, first, line, count, end, b"" if number in skip else b"".join(held))
                    number, first, count, size = number + 1, first + count, 0, 0
                    line = next_line
                    held = []
        if count:
            yield Piece(number, first, line, count, end, b"" if number in skip else b"".join(held))

    def _records(self, file: io.BufferedReader) -> Iterator[tuple[bytes, int]]:
        raise NotImplementedError


class _Csv(_Lines):
    def __init__(self, path: Path, contract: Contract, rows: int) -> None:
        super().__init__(path, rows)
        with path.open("rb") as file:
            header, lines = next(self._records(file), (b"", 0))
        csv_codec.decode(contract, header)
        self._start, self._first_line = len(header), lines + 1
        self.header = header.removeprefix(b"\xef\xbb\xbf")
        if not self.header.endswith(b"\n"):
            self.header += b"\n"
        self.names = tuple(next(csv.reader(io.StringIO(self.header.decode(), newline=""))))

    def types(self, names: Sequence[str]) -> dict[str, pa.DataType]:
        """Return text for every column: what a cell means is known for the contract's columns alone."""
        return {name: pa.string() for name in names}

    def _records(self, file: io.BufferedReader) -> Iterator[tuple[bytes, int]]:
        parts: list[bytes] = []
        size = 0
        within = False
        for line in file:
            within ^= bool(line.count(b'"') & 1)
            parts.append(line)
            size += len(line)
            if size > _LONGEST_RECORD:
                raise DataError("A row has no end: a quote may be left open.", where=str(self._path))
            if not within:
                yield b"".join(parts), len(parts)
                parts, size = [], 0
        if parts:
            yield b"".join(parts), len(parts)


class _JsonLines(_Lines):
    def __init__(self, path: Path, rows: int) -> None:
        super().__init__(path, rows)
        self._sample: list[dict[str, Any]] = []
        # Only column names and types are taken from here; the workers read the rows, and tell what is wrong with them.
        for piece in self.pieces(frozenset()):
            decoded = []
            with suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                decoded = [msgspec.json.decode(line) for line in piece.body.splitlines()]
            self._sample = [row for row in decoded if isinstance(row, dict)]
            break
        self.names = tuple(dict.fromkeys(name for row in self._sample for name in row))

    def types(self, names: Sequence[str]) -> dict[str, pa.DataType]:
        """Return the types that the first piece's values have."""
        found = {}
        for name in names:
            try:
                kind = pa.array([row.get(name) for row in self._sample]).type
            except (pa.ArrowException, OverflowError) as error:
                raise DataError(
                    f"The column {name!r} mixes types.", where=str(self._path), remedy="Leave it out of --columns."
                ) from error
            found[name] = pa.string() if pa.types.is_null(kind) else kind
        return found

    def _records(self, file: io.BufferedReader) -> Iterator[tuple[bytes, int]]:
        for line in file:
            if len(line) > _LONGEST_RECORD:
                raise DataError("A line has no end.", where=str(self._path))
            yield line, 1


def _cut(batches: list[pa.RecordBatch], rows: int) -> tuple[list[pa.RecordBatch], list[pa.RecordBatch]]:
    taken: list[pa.RecordBatch] = []
    for index, batch in enumerate(batches):
        if batch.num_rows >= rows:
            rest = [batch.slice(rows)] if batch.num_rows > rows else []
            return [*taken, batch.slice(0, rows)], [*rest, *batches[index + 1 :]]
        taken.append(batch)
        rows -= batch.num_rows
    return taken, []


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Tell a file that is damaged from one that can't be read: what Arrow finds wrong in it has no error number."""
    try:
        yield
    except pa.ArrowException as error:
        raise _damaged(path, error) from error
    except OSError as error:
        raise (_damaged(path, error) if error.errno is None else storage_error(path, error)) from error


def _damaged(path: Path, error: Exception) -> DataError:
    brief = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
    return DataError(f"The file can't be read: {brief}.", where=str(path), remedy="Get the file again.")
