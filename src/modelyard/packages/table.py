"""Columns that lie side by side in one array."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Table"]


class Table(Mapping[str, NDArray[Any]]):
    """Scalar columns of one dtype, as views of one array: who wants them together need not join them.

    Args:
        names: Of the columns, in order.
        matrix: [rows, columns], row-major; nobody may change it afterwards.
    """

    __slots__ = ("_dtype", "_matrix", "_rows", "names")

    def __init__(self, names: tuple[str, ...], matrix: NDArray[Any]) -> None:
        self.names = names
        self._matrix: NDArray[Any] | None = matrix
        self._dtype = matrix.dtype
        self._rows: list[Sequence[Any]] = []

    @classmethod
    def of_rows(cls, names: tuple[str, ...], rows: list[Sequence[Any]], dtype: np.dtype[Any]) -> Table:
        """Return a table of lists, which become an array when somebody wants it: joined with others, it is one array.

        Args:
            names: Of the columns, in order.
            rows: At least one, each with a value for each column; None is NaN.
            dtype: Of all values.
        """
        table = cls.__new__(cls)
        table.names = names
        table._matrix = None
        table._dtype = dtype
        table._rows = rows
        return table

    @classmethod
    def joined(cls, tables: Sequence[Table]) -> Table:
        """Return the rows of several tables with the same columns, one table after the other."""
        first = tables[0]
        if all(table._matrix is None for table in tables):
            return cls.of_rows(first.names, [*chain.from_iterable(table._rows for table in tables)], first._dtype)
        return cls(first.names, np.concatenate([table.matrix for table in tables]))

    @property
    def matrix(self) -> NDArray[Any]:
        """[rows, columns], row-major; nobody may change it."""
        if self._matrix is None:
            self._matrix = np.array(self._rows, dtype=self._dtype)
        return self._matrix

    def __getitem__(self, name: str) -> NDArray[Any]:
        try:
            column: NDArray[Any] = self.matrix[:, self.names.index(name)]
        except ValueError:
            raise KeyError(name) from None
        return column

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def rows(self) -> int:
        """How many."""
        return len(self._rows) if self._matrix is None else len(self._matrix)

    def part(self, rows: slice) -> Table:
        """Return some of the rows, as a view."""
        return Table(self.names, self.matrix[rows])
