"""Cut rows into a training and a test part: seeded, stratified, the same on every platform."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelyard.errors import DataError

__all__ = ["pick_rows", "shuffled", "split_rows"]


def shuffled(rows: int, seed: int) -> NDArray[np.intp]:
    """Return the numbers 0 … rows-1 in an order that depends on the seed alone.

    It sorts raw PCG64 output, the part of NumPy's random numbers that never changes between versions (NEP 19).
    """
    return np.argsort(np.random.PCG64(seed).random_raw(rows), kind="stable")


def pick_rows(rows: int, limit: int | None, seed: int) -> NDArray[np.intp] | None:
    """Return `limit` row numbers, drawn without repetition and in rising order; None where all rows stay."""
    if limit is None or limit >= rows:
        return None
    return np.sort(shuffled(rows, seed)[:limit])


def split_rows(
    labels: NDArray[Any], test: float, seed: int, stratify: bool
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Cut rows into two parts that share no row and together have all.

    Args:
        labels: The target, a value a row. Classes are kept in proportion where it is one-dimensional and not of a
            float type; each class's rows in the test part then differ from its exact share by less than one.
        test: Share of rows in the test part, between 0 and 1. Both parts have one row at least.
        seed: Same seed, same parts; on every platform and in every version.
        stratify: Whether classes are kept in proportion. A class of one row goes to training where another can
            take its place in the test part.

    Returns:
        Row numbers of the training part and of the test part, each in rising order.

    Raises:
        DataError: There are fewer than two rows.
    """
    rows = len(labels)
    if rows < 2:
        raise DataError(
            f"{rows} row{'s' * (rows != 1)} can't be split into a training and a test part.",
            remedy="Give more data, or a `test_data` source of its own.",
        )
    total = min(max(round(rows * test), 1), rows - 1)
    order = shuffled(rows, seed)
    if not stratify or labels.ndim != 1 or labels.dtype.kind not in "biuU":
        chosen = order[:total]
    else:
        chosen = _stratified(labels, test, total, order)
    mask = np.zeros(rows, dtype=bool)
    mask[chosen] = True
    return np.flatnonzero(~mask), np.flatnonzero(mask)


def _stratified(labels: NDArray[Any], share: float, total: int, order: NDArray[np.intp]) -> NDArray[np.intp]:
    _, inverse, counts = np.unique(labels, return_inverse=True, return_counts=True)
    exact = counts * share
    quota = np.floor(exact).astype(np.intp)
    # Largest remainder: the rows still due go to the classes that lost most by rounding down; lone rows come last.
    remainder = exact - quota
    by_need = np.lexsort((-remainder, counts == 1, remainder == 0))
    quota[by_need[: total - int(quota.sum())]] += 1
    by_class = order[np.argsort(inverse[order], kind="stable")]
    starts = np.cumsum(counts) - counts
    rank = np.arange(len(labels)) - np.repeat(starts, counts)
    return by_class[rank < np.repeat(quota, counts)]
