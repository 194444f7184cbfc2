"""CSV as messages of any schema, with the rules of the Acumos model runner.

A column fills the fields of exactly its name; columns that no field has the name of are ignored; an empty or missing
cell leaves its field unset. Each row is laid over the same message: a repeated message gets one element, a repeated
scalar every same-named cell, a singular field the first same-named cell, so that the last row that has one wins.
Messages inside messages are filled from the same row by the names of their leaves. Rows count from 0, without the
header.
"""

from __future__ import annotations

import base64
import binascii
import csv
import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from modelyard.errors import ContractError
from modelyard.packages.codecs.proto_messages import is_map, new_message, round_single, type_name
from modelyard.packages.contract import limit_rows, shown

__all__ = ["MAXIMUM_ELEMENTS", "MAXIMUM_LEAVES", "CsvReading", "from_csv"]

MAXIMUM_LEAVES = 4096
"""Fields that one row may fill, those of nested messages included: a few lines of proto can name millions."""

MAXIMUM_ELEMENTS = 2**20
"""Elements of repeated messages that a file may make: rows times the repeated messages of one row."""

_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}
_FLOAT_MAXIMUM = float(np.finfo(np.float32).max)

_BY_TEXT = frozenset(
    f"google.protobuf.{name}"
    for name in (
        *("Timestamp", "Duration", "FieldMask", "StringValue", "BytesValue", "BoolValue", "FloatValue"),
        *("DoubleValue", "Int32Value", "Int64Value", "UInt32Value", "UInt64Value"),
    )
)
"""Messages that one cell fills, in the text form that their JSON has."""

_WHOLE = {
    FieldDescriptor.CPPTYPE_INT32: range(-(2**31), 2**31),
    FieldDescriptor.CPPTYPE_INT64: range(-(2**63), 2**63),
    FieldDescriptor.CPPTYPE_UINT32: range(2**32),
    FieldDescriptor.CPPTYPE_UINT64: range(2**64),
}

_Reader = Callable[[str], Any]


@dataclass(frozen=True, slots=True)
class CsvReading:
    """A message made from CSV.

    Args:
        message: Made from every row that fits.
        rows: How many rows the file has.
        refused: Row to what is wrong with it; empty unless row-by-row answers were asked for.
    """

    message: Message
    rows: int
    refused: Mapping[int, ContractError]

    @property
    def kept(self) -> list[int]:
        """The rows that the message is made from: answer `i` of a message of rows is that of row `kept[i]`."""
        return [row for row in range(self.rows) if row not in self.refused]


def from_csv(
    kind: Descriptor,
    body: bytes | bytearray | memoryview,
    *,
    errors: Literal["refuse", "rows"] = "refuse",
    max_rows: int | None = None,
    aligned: bool = False,
) -> CsvReading:
    """Return the message of a kind that a CSV file holds.

    Numbers are in ASCII digits; Booleans are `true`, `false`, `1` or `0`; enums are names or numbers; bytes are Base64
    (either alphabet, with or without padding); a map takes its entries from columns `key` and `value`.

    Args:
        kind: Of the message.
        body: RFC 4180 in UTF-8 with a header; a byte order mark is skipped, and LF reads as CRLF.
        errors: `refuse` the whole file for one bad cell, or leave out the bad `rows` and tell of each.
        max_rows: How many rows a request may have; None for any number.
        aligned: The repeated scalars of the message are columns side by side (`Bridge.aligned`), which an empty cell
            must not shift: it is NaN for floats, the empty text for texts, and an error elsewhere.

    Raises:
        ContractError: It is empty, not UTF-8, not CSV, has too many rows, or a cell does not fit; `where` names row and
            column.
    """
    header, rows = _read(kind, bytes(body), max_rows)
    budget = iter(range(MAXIMUM_LEAVES))
    plan = _plan(kind, _places(header), (), budget)
    if aligned:
        plan = replace(plan, many=tuple(replace(cell, filler=_filler(cell.field)) for cell in plan.many))
    if len(rows) * plan.elements() > MAXIMUM_ELEMENTS:
        raise ContractError(
            f"The file would make more than {MAXIMUM_ELEMENTS} messages.", remedy="Send the rows in several requests."
        )
    message = new_message(kind)
    refused: dict[int, ContractError] = {}
    for index, row in enumerate(rows):
        try:
            if len(row) > len(header):
                raise ContractError(
                    f"The row has {len(row)} cells, and the header has {len(header)}.", where=f"row {index}"
                )
            plan.lay(message, plan.read(index, row))
        except ContractError as error:
            if errors == "refuse":
                raise
            refused[index] = error
    return CsvReading(message, len(rows), refused)


@dataclass(frozen=True, slots=True)
class _Cell:
    """Where the cells of one field stand, and how they are read."""

    field: FieldDescriptor
    header: str
    columns: tuple[int, ...]
    reader: _Reader
    filler: _Reader | None = None
    """What an empty cell stands for; None leaves it out."""

    def values(self, index: int, row: Sequence[str]) -> list[Any]:
        """Return what the row's cells hold; raises ContractError for one that does not fit."""
        values = []
        for column in self.columns:
            cell = row[column] if column < len(row) else ""
            reader = self.reader if cell else self.filler
            if reader is not None:
                try:
                    values.append(reader(cell))
                except (ValueError, OverflowError):
                    raise ContractError(
                        f"Expected {type_name(self.field)}; got {shown(cell)}.",
                        where=f"row {index}, column {self.header!r}",
                        remedy=f"Give {self.header!r} as {type_name(self.field)}.",
                    ) from None
        return values


@dataclass(frozen=True, slots=True)
class _Plan:
    """What one row does to a message: its own fields, and the plans of the messages inside."""

    one: tuple[_Cell, ...]
    many: tuple[_Cell, ...]
    texts: tuple[_Cell, ...]
    maps: tuple[tuple[str, _Cell, _Cell], ...]
    inner: tuple[tuple[FieldDescriptor, _Plan], ...]

    def elements(self) -> int:
        """Return how many elements of repeated messages one row makes."""
        return sum(field.is_repeated + plan.elements() for field, plan in self.inner)

    def read(self, index: int, row: Sequence[str]) -> Any:
        """Return the values of a row, so that a bad cell is found before anything is laid down."""
        return (
            [values[0] if (values := cell.values(index, row)) else None for cell in self.one],
            [cell.values(index, row) for cell in self.many],
            [values[0] if (values := cell.values(index, row)) else None for cell in self.texts],
            [(key.values(index, row), value.values(index, row)) for _, key, value in self.maps],
            [plan.read(index, row) for _, plan in self.inner],
        )

    def lay(self, message: Message, values: Any) -> None:
        """Lay the values of a row over a message."""
        one, many, texts, maps, inner = values
        for cell, value in zip(self.one, one, strict=True):
            if value is not None:
                setattr(message, cell.field.name, value)
        for cell, value in zip(self.many, many, strict=True):
            if value:
                getattr(message, cell.field.name).extend(value)
        for cell, value in zip(self.texts, texts, strict=True):
            if value is not None:
                getattr(message, cell.field.name).CopyFrom(value)
        for (name, _, _), (keys, entries) in zip(self.maps, maps, strict=True):
            if keys and entries:
                getattr(message, name)[keys[0]] = entries[0]
        for (field, plan), value in zip(self.inner, inner, strict=True):
            if field.is_repeated:
                plan.lay(getattr(message, field.name).add(), value)
            elif _filled(value):
                plan.lay(getattr(message, field.name), value)


def _filled(values: Any) -> bool:
    """Say whether a row has anything for a singular message, which else stays unset."""
    one, many, texts, maps, inner = values
    return (
        any(value is not None for value in one)
        or any(many)
        or any(value is not None for value in texts)
        or any(keys and entries for keys, entries in maps)
        or any(map(_filled, inner))
    )


def _plan(
    kind: Descriptor, places: Mapping[str, tuple[int, ...]], above: tuple[str, ...], budget: Iterator[int]
) -> _Plan:
    one: list[_Cell] = []
    many: list[_Cell] = []
    texts: list[_Cell] = []
    maps: list[tuple[str, _Cell, _Cell]] = []
    inner: list[tuple[FieldDescriptor, _Plan]] = []
    path = (*above, kind.full_name)
    for field in kind.fields:
        if next(budget, None) is None:
            raise ContractError(
                f"A row of the message {kind.name} has more than {MAXIMUM_LEAVES} fields.",
                remedy="Send the message in protobuf's format or in JSON.",
            )
        if is_map(field):
            key, value = (field.message_type.fields_by_name[name] for name in ("key", "value"))
            if value.message_type is None and "key" in places and "value" in places:
                maps.append((field.name, _cell(key, places), _cell(value, places)))
        elif field.message_type is None:
            if field.name in places:
                (many if field.is_repeated else one).append(_cell(field, places))
        elif field.message_type.full_name in _BY_TEXT and not field.is_repeated:
            if field.name in places:
                texts.append(_cell(field, places))
        elif field.message_type.full_name not in path:
            # A message inside itself would never end; it stays unset.
            inner.append((field, _plan(field.message_type, places, path, budget)))
    return _Plan(tuple(one), tuple(many), tuple(texts), tuple(maps), tuple(inner))


def _cell(field: FieldDescriptor, places: Mapping[str, tuple[int, ...]]) -> _Cell:
    columns = places[field.name]
    return _Cell(field, field.name, columns if field.is_repeated else columns[:1], _reader(field))


def _filler(field: FieldDescriptor) -> _Reader:
    if field.type == FieldDescriptor.TYPE_STRING:
        return str
    if field.cpp_type in (FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE):
        return lambda _: math.nan
    return _refuse


def _places(header: Sequence[str]) -> dict[str, tuple[int, ...]]:
    places: dict[str, tuple[int, ...]] = {}
    for index, name in enumerate(header):
        places[name] = (*places.get(name, ()), index)
    return places


def _read(kind: Descriptor, body: bytes, max_rows: int | None) -> tuple[list[str], list[list[str]]]:
    remedy = f"Send a header with names of fields of {kind.name}, and rows."
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ContractError("The body is not UTF-8.", where=f"byte {error.start}", remedy="Save it as UTF-8.") from None
    if not text.strip():
        raise ContractError("The body is empty.", remedy=remedy)
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows: list[list[str]] = []
    try:
        header = [name.strip() for name in next(reader)]
        for row in reader:
            if row:
                rows.append(row)
            limit_rows(len(rows), max_rows)
    except csv.Error as error:
        raise ContractError(f"This is not CSV: {error}.", where=f"line {reader.line_num}", remedy=remedy) from None
    return header, rows


def _reader(field: FieldDescriptor) -> _Reader:
    """Return what turns a cell into the value of a field, or raises ValueError."""
    if field.message_type is not None:
        return _reader_of_text(field.message_type)
    if field.enum_type is not None:
        return _reader_of_enum(field)
    kind = field.cpp_type
    if kind in _WHOLE:
        limits = _WHOLE[kind]
        return lambda text: _whole(text, limits)
    if field.type == FieldDescriptor.TYPE_BYTES:
        return _bytes
    readers: dict[int, _Reader] = {
        FieldDescriptor.CPPTYPE_BOOL: _boolean,
        FieldDescriptor.CPPTYPE_FLOAT: _single,
        FieldDescriptor.CPPTYPE_DOUBLE: _number,
        FieldDescriptor.CPPTYPE_STRING: str,
    }
    return readers[kind]


def _reader_of_enum(field: FieldDescriptor) -> _Reader:
    kind = field.enum_type
    numbers = {name: value.number for name, value in kind.values_by_name.items()}
    limits = _WHOLE[FieldDescriptor.CPPTYPE_INT32]

    def read(text: str) -> int:
        if text.strip() in numbers:
            return int(numbers[text.strip()])
        number = _whole(text, limits)
        if kind.is_closed and number not in kind.values_by_number:
            raise ValueError(text)
        return number

    return read


def _reader_of_text(kind: Descriptor) -> _Reader:
    def read(text: str) -> Message:
        message = new_message(kind)
        if kind.name.endswith("Value"):
            message.value = _reader(kind.fields_by_name["value"])(text)
        else:
            try:
                json_format.ParseDict(text.strip(), message)
            except json_format.Error as error:
                raise ValueError(text) from error
        return message

    return read


def _refuse(text: str) -> Any:
    raise ValueError(text)


def _number(text: str) -> float:
    if not text.isascii() or "_" in text:
        raise ValueError(text)  # Python would read `1_000`, and the digits of any script.
    return float(text)


def _single(text: str) -> float:
    value = round_single(_number(text))
    if math.isfinite(value) and abs(value) > _FLOAT_MAXIMUM:
        raise ValueError(text)
    return value


def _whole(text: str, limits: range) -> int:
    if not text.isascii() or "_" in text:
        raise ValueError(text)
    try:
        value = int(text)
    except ValueError:
        number = float(text)
        value = int(number)
        if value != number:
            raise
    if value not in limits:
        raise ValueError(text)
    return value


def _boolean(text: str) -> bool:
    value = _BOOLEANS.get(text.strip().lower())
    if value is None:
        raise ValueError(text)
    return value


def _bytes(text: str) -> bytes:
    plain = text.strip().translate(str.maketrans("-_", "+/")).rstrip("=")
    try:
        return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except binascii.Error as error:
        raise ValueError(text) from error
