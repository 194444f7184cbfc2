"""What a caller has in hand, rows, columns, a table or an array, as the body of a request."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from modelyard.client.errors import InvalidRequestError

__all__ = ["JSON", "Data", "Table", "encode_json", "named"]

JSON = "application/json"


class Table(Protocol):
    """What a data frame of pandas or Polars and a table of Arrow have in common."""

    @property
    def columns(self) -> Any:
        """The columns' names; for Arrow the columns, whose names are `column_names`."""

    def __getitem__(self, name: Any, /) -> Any:
        """Return a column, of which NumPy can make an array."""


Data = Iterable[Mapping[str, Any]] | Mapping[str, Any] | Table | NDArray[Any]
"""What can be predicted: rows, columns, a table, a structured array, or the array of a model's only field."""


def named(data: Data) -> Mapping[str, Any] | list[Mapping[str, Any]] | NDArray[Any]:
    """Return data as columns by name or as a list of rows; an array without names is returned as it is.

    Args:
        data: What the caller has in hand.

    Raises:
        InvalidRequestError: It is nothing that has rows.
    """
    if isinstance(data, Mapping):
        return data
    if isinstance(data, np.ndarray):
        return {name: data[name] for name in data.dtype.names} if data.dtype.names else data
    # Arrow calls them column_names, and its `columns` are the columns themselves; pandas and Polars have no such name.
    names: Iterable[Any] | None = getattr(data, "column_names", None)
    names = getattr(data, "columns", None) if names is None else names
    if names is not None:
        return _table(data, [*names])
    if isinstance(data, Iterable) and not isinstance(data, str | bytes | bytearray | memoryview):
        rows = list(data)
        if all(isinstance(row, Mapping) for row in rows):
            return rows
    raise InvalidRequestError(
        f"A {type(data).__name__} has no rows that can be sent.",
        remedy="Give a list of mappings, a mapping of columns, a data frame, a table or an array.",
        sent=False,
    )


def encode_json(data: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> bytes:
    """Return named data as the JSON body of a request. NaN becomes null, which stands for what is missing.

    Args:
        data: Columns by name, or rows.

    Raises:
        InvalidRequestError: A number is infinite, which JSON can't say, or a value is of a type that it does not know.
    """
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


def _table(data: Any, names: list[Any]) -> dict[str, Any]:
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
