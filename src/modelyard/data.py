"""The two values that every room knows: a field's type, and a table of named arrays."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from modelyard.errors import DataError

__all__ = ["Dataset", "Field", "dtype_name", "schema_of"]


class Field(msgspec.Struct, frozen=True):
    """One named, typed column.

    Args:
        name: The column's name.
        dtype: `bool`, `int8` … `int64`, `uint8` … `uint64`, `float16`, `float32`, `float64` or `string`.
        shape: Of one row; empty for a scalar.
    """

    name: str
    dtype: str
    shape: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """Rows of named columns, one of which may be the target.

    Args:
        columns: Arrays that share their first dimension. Text is a NumPy unicode array (`<U…`), never an object array.
        target: The column to predict, or None.
        classes: For classification: the distinct target values in sorted order, over train and test together.
    """

    columns: Mapping[str, NDArray[Any]]
    target: str | None = None
    classes: tuple[Any, ...] | None = field(default=None)

    def __post_init__(self) -> None:
        lengths = {name: len(values) for name, values in self.columns.items()}
        if len(set(lengths.values())) > 1:
            raise DataError(f"The columns differ in length: {lengths}.")
        if self.target is not None and self.target not in self.columns:
            raise DataError(
                f"The target column {self.target!r} is missing.", remedy=f"The columns are {', '.join(self.columns)}."
            )
        for name, values in self.columns.items():
            if values.dtype == object:
                raise DataError(f"Column {name!r} mixes types.", remedy="Give every row of it one type.")

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()))) if self.columns else 0

    @property
    def features(self) -> dict[str, NDArray[Any]]:
        """Every column but the target, in order."""
        return {name: values for name, values in self.columns.items() if name != self.target}

    @property
    def labels(self) -> NDArray[Any]:
        """The target column; raises DataError where there is none."""
        if self.target is None:
            raise DataError("The data set has no target column.", remedy="Name it in the importer's `target`.")
        return self.columns[self.target]


def dtype_name(dtype: np.dtype[Any]) -> str:
    """Return the name that contracts use for a NumPy dtype; every text dtype is `string`."""
    return "string" if dtype.kind == "U" else _name(dtype)


@functools.lru_cache(maxsize=64)
def _name(dtype: np.dtype[Any]) -> str:
    # NumPy makes the name anew each time, which takes as long as everything else that is asked of a small column.
    return dtype.name


def schema_of(columns: Mapping[str, NDArray[Any]]) -> tuple[Field, ...]:
    """Return the fields that describe the columns."""
    return tuple(Field(name, dtype_name(values.dtype), tuple(values.shape[1:])) for name, values in columns.items())
