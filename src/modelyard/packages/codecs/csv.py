"""CSV after RFC 4180: a header, quoted cells where needed, CRLF (LF is read too), UTF-8.

A column fills the field of exactly its name, in any order; columns that the contract does not name are ignored. An
array field takes one column for each element, in row-major order, named `image_0`, `image_1`, … An empty cell stands
for what is missing: NaN in a float field, the empty text in a text field; elsewhere it is an error. A Boolean is
`true`, `false`, `1` or `0`. Rows count from 0, without the header.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelyard.contracts import Columns
from modelyard.data import Field
from modelyard.errors import ContractError
from modelyard.packages.contract import Contract, coerce, describe, limit_rows, shown, text_array, type_text

__all__ = ["cell_names", "decode", "encode"]

_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}


def cell_names(field: Field) -> tuple[str, ...]:
    """Return the columns of a field: its name, or `name_0`, `name_1`, … for an array."""
    if not field.shape:
        return (field.name,)
    return tuple(f"{field.name}_{index}" for index in range(math.prod(field.shape)))


def decode(contract: Contract, body: bytes | bytearray | memoryview, max_rows: int | None = None) -> Columns:
    """Return the contract's columns from a CSV file.

    Args:
        contract: What the file must hold.
        body: The file's bytes; a byte order mark is skipped.
        max_rows: How many rows a request may have; None for any number.

    Raises:
        ContractError: The body is empty, not UTF-8, not CSV, lacks a column, is too large, or a cell does not fit;
            `where` names row and column.
    """
    header, rows = _read(contract, bytes(body), max_rows)
    places = _places(contract, header)
    cells = list(zip(*rows, strict=True)) if rows else [()] * len(header)
    columns = {}
    for field in contract.inputs:
        parts = [_parse(field, name, cells[places[name]]) for name in cell_names(field)]
        values = parts[0] if not field.shape else np.stack(parts, axis=1).reshape(len(rows), *field.shape)
        columns[field.name] = coerce(field, values)
    return contract.check(columns)


def encode(columns: Columns) -> bytes:
    """Return columns as CSV with a header and CRLF; floats in the fewest digits that read back as the same number.

    Args:
        columns: Arrays that share their first dimension; an array column takes one CSV column for each element.
    """
    header: list[str] = []
    cells: list[list[str]] = []
    for name, values in columns.items():
        field = Field(name, str(values.dtype), tuple(values.shape[1:]))
        header += cell_names(field)
        flat = values.reshape(len(values), math.prod(field.shape))
        cells += [_texts(flat[:, index]) for index in range(flat.shape[1])]
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(header)
    writer.writerows(zip(*cells, strict=True))
    return text.getvalue().encode()


def _read(contract: Contract, body: bytes, max_rows: int | None) -> tuple[list[str], list[list[str]]]:
    remedy = f"Send a header line and rows with {describe(contract.inputs)}."
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ContractError(
            f"The body is not UTF-8: byte {error.start} is wrong.", remedy="Save it as UTF-8."
        ) from error
    if not text.strip():
        raise ContractError("The body is empty.", remedy=remedy)
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows: list[list[str]] = []
    try:
        header = next(reader)
        for row in reader:
            if not row:
                continue
            if len(row) != len(header):
                raise ContractError(
                    f"The row has {len(row)} cells, and the header has {len(header)}.", where=f"row {len(rows)}"
                )
            rows.append(row)
            limit_rows(len(rows), max_rows)
    except csv.Error as error:
        raise ContractError(f"This is not CSV: {error}.", where=f"line {reader.line_num}", remedy=remedy) from error
    return header, rows


def _places(contract: Contract, header: Sequence[str]) -> dict[str, int]:
    wanted = [name for field in contract.inputs for name in cell_names(field)]
    places: dict[str, int] = {}
    known = set(wanted)
    for index, name in enumerate(header):
        if name in known and name in places:
            raise ContractError(f"The column {name!r} stands twice in the header.", where=f"column {name!r}")
        places[name] = index
    missing = [name for name in wanted if name not in places]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ContractError(
            f"The column {missing[0]!r}{more} is missing.",
            where="header",
            remedy=f"The contract asks for {describe(contract.inputs)}.",
        )
    return places


def _parse(field: Field, name: str, cells: Sequence[str]) -> NDArray[Any]:
    if field.dtype == "string":
        return text_array(field, cells) if cells else np.empty(0, dtype="<U1")
    if field.dtype == "bool":
        return np.array([_one(field, name, row, cell) for row, cell in enumerate(cells)], dtype=np.bool_)
    kind: Any = np.float64
    if not field.dtype.startswith("float"):
        kind = np.uint64 if field.dtype == "uint64" else np.int64
    read: Any = float if kind is np.float64 else int
    try:
        if not all(map(_plain, cells)):
            raise ValueError
        return np.array([read(cell) for cell in cells], dtype=kind)
    except (ValueError, OverflowError):
        return np.array([_one(field, name, row, cell) for row, cell in enumerate(cells)], dtype=kind)


def _one(field: Field, name: str, row: int, cell: str) -> bool | int | float:
    """Read one cell with care; used where the fast way has failed."""
    text = cell.strip()
    value: bool | int | float | None = None
    if field.dtype == "bool":
        value = _BOOLEANS.get(text.lower())
    elif field.dtype.startswith("float"):
        value = _number(text) if text else math.nan
    else:
        value = _whole(text)
        limits = np.iinfo(field.dtype)
        if value is not None and not limits.min <= value <= limits.max:
            value = None
    if value is None:
        raise ContractError(
            f"Expected {field.dtype}; got {shown(cell)}." if cell else f"Expected {field.dtype}; the cell is empty.",
            where=f"row {row}, column {name!r}",
            remedy=f"Give {field.name!r} as {type_text(field)}.",
        )
    return value


def _plain(text: str) -> bool:
    """Say whether a text can be a number of CSV; Python would also read `1_000`, and the digits of any script."""
    return text.isascii() and "_" not in text


def _number(text: str) -> float | None:
    try:
        return float(text) if _plain(text) else None
    except ValueError:
        return None


def _whole(text: str) -> int | None:
    try:
        return int(text) if _plain(text) else None
    except ValueError:
        number = _number(text)
        return int(number) if number is not None and math.isfinite(number) and number == int(number) else None


def _texts(values: NDArray[Any]) -> list[str]:
    if values.dtype.kind == "b":
        return ["true" if value else "false" for value in values]
    if values.dtype.kind == "f":
        return ["" if np.isnan(value) else str(value) for value in values]
    return [str(value) for value in values]
