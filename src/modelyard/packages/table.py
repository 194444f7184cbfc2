"""Columns that lie side by side in one array."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from numpy.typing import NDArray

__all__ = ["Table"]


class Table(Mapping[str, NDArray[Any]]):
    """Scalar columns of one dtype, as views of one array: who wants them together need not join them.

    Args:
        names: Of the columns, in order.
        matrix: [rows, columns], row-major; nobody may change it afterwards.
    """

    __slots__ = ("matrix", "names")

    def __init__(self, names: tuple[str, ...], matrix: NDArray[Any]) -> None:
        self.names = names
        self.matrix = matrix

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
        return len(self.matrix)

    def part(self, rows: slice) -> Table:
        """Return some of the rows, as a view."""
        return Table(self.names, self.matrix[rows])
