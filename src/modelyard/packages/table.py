"""Columns that lie side by side in one array."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

__all__ = ["Table"]


class Table(dict[str, NDArray[Any]]):
    """Scalar columns of one dtype, as views of one array: who wants them together need not join them.

    Args:
        names: Of the columns, in order.
        matrix: [rows, columns], row-major; nobody may change it afterwards.
    """

    __slots__ = ("matrix",)

    def __init__(self, names: Sequence[str], matrix: NDArray[Any]) -> None:
        super().__init__(zip(names, matrix.T, strict=True))
        self.matrix = matrix
