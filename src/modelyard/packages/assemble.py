"""How several named columns become the one array that a network or an estimator takes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from modelyard.contracts import Columns
from modelyard.data import Field
from modelyard.errors import DataError
from modelyard.packages.table import Table

__all__ = ["assemble", "input_shape"]


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


def assemble(fields: Sequence[Field], columns: Columns, *, flat: bool = False) -> NDArray[np.float32]:
    """Join a model's input columns into one float32 array with the rows first.

    A single array column is taken as it is; scalar columns are stacked in the order of the fields.

    Args:
        fields: The model's inputs.
        columns: One array for each field.
        flat: Flatten array columns and join them with the scalars into one row vector: what scikit-learn takes.

    Raises:
        DataError: As for `input_shape`.
    """
    if isinstance(columns, Table) and columns.matrix.dtype == np.float32:
        matrix: NDArray[np.float32] = columns.matrix
        if columns.names == tuple(field.name for field in fields):
            return matrix
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
