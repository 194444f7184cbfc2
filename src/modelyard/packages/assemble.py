"""How several named columns become the one array that a network or an estimator takes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelyard.contracts import Columns
from modelyard.data import Field
from modelyard.errors import ContractError, DataError
from modelyard.packages.table import Table

__all__ = ["assemble", "input_shape", "join", "narrowed"]

_LARGEST = str(np.finfo(np.float32).max)


def input_shape(fields: Sequence[Field], *, flat: bool = False) -> tuple[int, ...]:
    """Return the shape of one row of the array that `assemble` makes.

    Args:
        fields: The model's inputs.
        flat: As for `assemble`.

    Raises:
        DataError: A column is text, or an array stands beside other columns and `flat` is not set.
    """
    for field in fields:
        if field.dtype == "string":
            raise DataError(
                f"The column {field.name!r} is text, and a model takes numbers.",
                remedy="Use a transform of type one_hot, or leave it out of the importer's columns.",
            )
    if flat:
        return (sum(math.prod(field.shape) for field in fields),)
    if len(fields) == 1 and fields[0].shape:
        return fields[0].shape
    arrays = [field.name for field in fields if field.shape]
    if arrays:
        raise DataError(
            f"A network takes one array or several scalars; {arrays[0]!r} is an array among {len(fields)} columns.",
            remedy="Join them by a transform of type stack.",
        )
    return (len(fields),)


def assemble(fields: Sequence[Field], columns: Columns, *, flat: bool = False, first: int = 0) -> NDArray[np.float32]:
    """Join a model's input columns into one float32 array with the rows first.

    A single array column is taken as it is; scalar columns are stacked in the order of the fields.

    Args:
        fields: The model's inputs.
        columns: One array for each field.
        flat: Flatten array columns and join them with the scalars into one row vector: what scikit-learn takes.
        first: Number of the first row, for errors.

    Raises:
        DataError: As for `input_shape`.
        ContractError: A finite number would become infinite; `where` names row and field.
    """
    if isinstance(columns, Table) and columns.matrix.dtype == np.float32:
        return join(fields, columns, flat=flat)
    return narrowed(lambda given: join(fields, given, flat=flat), fields, columns, first)


def narrowed(
    make: Callable[[Columns], NDArray[np.float32]], fields: Sequence[Field], columns: Columns, first: int = 0
) -> NDArray[np.float32]:
    """Return the float32 array that `make` makes of columns, if no finite number becomes infinite in it.

    Args:
        make: Answers each row by itself.
        fields: Of the columns.
        columns: One array for each field.
        first: Number of the first row, for errors.

    Raises:
        ContractError: A number would; `where` names row and field.
    """
    try:
        with np.errstate(over="raise"):
            return make(columns)
    except FloatingPointError:
        raise _overflow(make, fields, columns, first) from None


def join(fields: Sequence[Field], columns: Columns, *, flat: bool = False) -> NDArray[np.float32]:
    """Do as `assemble`, for whoever looks after numbers that are too large himself: see `narrowed`."""
    if isinstance(columns, Table) and columns.names == tuple(field.name for field in fields):
        return columns.matrix.astype(np.float32, copy=False)
    shape = input_shape(fields, flat=flat)
    if len(fields) == 1:
        values = columns[fields[0].name]
        return np.ascontiguousarray(values.reshape(len(values), *shape), dtype=np.float32)
    rows = len(columns[fields[0].name])
    joined = np.empty((rows, *shape), dtype=np.float32)
    start = 0
    for field in fields:
        width = math.prod(field.shape)
        joined[:, start : start + width] = columns[field.name].reshape(rows, width)
        start += width
    return joined


def _overflow(
    make: Callable[[Columns], NDArray[np.float32]], fields: Sequence[Field], columns: Columns, first: int
) -> ContractError:
    """Return the error that names the first row and the first field with a number that is too large."""

    def overflows(given: Mapping[str, NDArray[Any]]) -> bool:
        try:
            with np.errstate(over="raise"):
                make(given)
        except FloatingPointError:
            return True
        return False

    low, high = 0, len(columns[fields[0].name])
    while high - low > 1:
        middle = (low + high) // 2
        if overflows({name: values[low:middle] for name, values in columns.items()}):
            high = middle
        else:
            low = middle
    row = {name: values[low:high] for name, values in columns.items()}
    for field in reversed([field for field in fields if field.dtype != "string"]):
        values = row[field.name]
        row[field.name] = np.zeros_like(values)
        if not overflows(row):
            # It was the last of those that are too large, and so it is the first one in the row.
            return _too_large(field, values[0], first + low)
    return ContractError("The row has a number that is too large for float32.", where=f"row {first + low}")


def _too_large(field: Field, values: NDArray[Any], row: int) -> ContractError:
    sizes = np.where(np.isfinite(values), np.abs(values.astype(np.float64)), 0.0)
    place = np.unravel_index(int(sizes.argmax()), values.shape)
    inside = f" at {[int(index) for index in place]}" if field.shape else ""
    return ContractError(
        f"Expected a number that the model can compute with in float32; got {values[place]}.",
        where=f"row {row}, field {field.name!r}{inside}",
        remedy=f"Give {field.name!r} nearer to 0: float32 ends at {_LARGEST}.",
    )
