"""What a caller has in hand, rows, columns, a table or an array, as the body of a request."""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterable, Mapping
from typing import Any, Literal, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from modelyard.client.errors import InvalidRequestError

__all__ = ["ARROW", "JSON", "Data", "Encoding", "Named", "Table", "encode", "named", "usual"]

JSON = "application/json"
ARROW = "application/vnd.apache.arrow.stream"

ARROW_BYTES = 4096
"""From this size on arrays are quicker as Arrow than as JSON on both sides, by measurement."""

Encoding = Literal["json", "arrow"]
"""How data is written: JSON for people and small requests, Arrow for tables."""


class Table(Protocol):
    """What a data frame of pandas or Polars and a table of Arrow have in common."""

    @property
    def columns(self) -> Any:
        """The columns' names; for Arrow the columns, whose names are `column_names`."""

    def __getitem__(self, name: Any, /) -> Any:
        """Return a column, of which NumPy can make an array."""


Data = Iterable[Mapping[str, Any]] | Mapping[str, Any] | Table | NDArray[Any]
"""What can be predicted: rows, columns, a table, a structured array, or the array of a model's only field."""


Named = Mapping[str, Any] | list[Mapping[str, Any]] | Table
"""Data whose fields have names: columns, rows, or a table of Arrow."""


def named(data: Data) -> Named | NDArray[Any]:
    """Return data as columns by name or as a list of rows; an Arrow table, and an array without names, stay as given.

    Args:
        data: What the caller has in hand.

    Raises:
        InvalidRequestError: It is nothing that has rows.
    """
    if isinstance(data, Mapping):
        return data
    if isinstance(data, np.ndarray):
        return {name: data[name] for name in data.dtype.names} if data.dtype.names else data
    given: Any = data
    if hasattr(given, "column_names"):
        arrow: Table = given
        return arrow
    if hasattr(given, "columns"):
        return _columns(given, [*given.columns])
    if isinstance(given, Iterable) and not isinstance(given, str | bytes | bytearray | memoryview):
        rows = list(given)
        if all(isinstance(row, Mapping) for row in rows):
            return rows
    raise InvalidRequestError(
        f"A {type(data).__name__} has no rows that can be sent.",
        remedy="Give a list of mappings, a mapping of columns, a data frame, a table or an array.",
        sent=False,
    )


def usual(data: Named) -> Encoding:
    """Return the encoding that data is quicker in: Arrow for its own tables and for large arrays."""
    if isinstance(data, list):
        return "json"
    if isinstance(data, Mapping):
        size = sum(values.nbytes for values in data.values() if isinstance(values, np.ndarray))
        return "arrow" if size >= ARROW_BYTES else "json"
    return "arrow"


def encode(data: Named, encoding: Encoding) -> tuple[str, bytes]:
    """Return named data as the media type and body of a request.

    In JSON NaN becomes null, which stands for what is missing.

    Args:
        data: Columns by name, rows, or an Arrow table.
        encoding: How to write it.

    Raises:
        InvalidRequestError: A value is of a type that the encoding does not know; in JSON also an infinite number.
    """
    if encoding == "arrow":
        return ARROW, importlib.import_module("modelyard.client.arrow").encode(data)
    if encoding != "json":
        raise InvalidRequestError(
            f"There is no encoding {encoding!r}.", remedy="Ask for `json` or `arrow`, or for none.", sent=False
        )
    return JSON, _encode_json(data)


def _encode_json(data: Named) -> bytes:
    if not isinstance(data, Mapping | list):
        table: Any = data
        data = _columns(table, [*table.column_names])
    if isinstance(data, Mapping):
        columns = {name: _values(name, values) for name, values in data.items()}
    else:
        names = tuple(data[0]) if data else ()
        if not names or any(row.keys() != data[0].keys() for row in data):
            # The service names the row in which a field is missing.
            for number, row in enumerate(data):
                _refuse_infinity(list(row.values()), f"row {number}")
            return _json({"rows": data})
        columns = {name: _values(name, [row[name] for row in data]) for name in names}
    return _json({"columns": columns})


def _columns(data: Any, names: list[Any]) -> dict[str, Any]:
    if len(set(map(str, names))) < len(names):
        raise InvalidRequestError("Two columns of the table have one name.", remedy="Rename one.", sent=False)
    return {str(name): np.asarray(data[name]) for name in names}


def _values(name: str, values: Any) -> Any:
    """Return a column as lists, after a look at its numbers."""
    # A series of pandas or Polars, or an array of Arrow or of another library.
    given = np.asarray(values) if hasattr(values, "__array__") else values
    try:
        array = np.asarray(given)
    except (ValueError, OverflowError):
        array = np.empty(0, dtype=object)
    where = f"field {name!r}"
    if array.dtype == object:
        _refuse_infinity(given, where)
    elif array.dtype.kind == "f" and (infinite := np.isinf(array)).any():
        raise _infinite(f"row {int(np.nonzero(infinite)[0][0]) if array.ndim else 0}, {where}")
    # An array of its own would be of one type: 1 beside 'a' would pass for text.
    return given.tolist() if isinstance(given, np.ndarray) else given


def _refuse_infinity(values: Any, where: str) -> None:
    if isinstance(values, np.ndarray):
        values = values.tolist()
    if isinstance(values, float):
        if math.isinf(values):
            raise _infinite(where)
    elif isinstance(values, list | tuple):
        for value in values:
            _refuse_infinity(value, where)


def _infinite(where: str) -> InvalidRequestError:
    return InvalidRequestError(
        "JSON has no infinite numbers.", where=where, remedy="Give a finite number, or NaN for what is missing.",
        sent=False,
    )  # fmt: skip


def _json(body: Any) -> bytes:
    try:
        return msgspec.json.encode(body, enc_hook=_plain)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidRequestError(
            f"The data can't be written as JSON: {error}.",
            remedy="Give numbers, texts, true or false, and lists of them, under names that are texts.",
            sent=False,
        ) from error


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"a value is of the type {type(value).__name__}")
