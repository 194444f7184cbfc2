"""Metrics in NumPy alone, each equal to scikit-learn's of the same meaning (tests prove it)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelyard.errors import DataError

__all__ = [
    "CLASSIFICATION",
    "LOWER_IS_BETTER",
    "REGRESSION",
    "accuracy",
    "confusion_matrix",
    "f1_macro",
    "log_loss",
    "mae",
    "mean_relative_error",
    "r2",
    "rmse",
]

_Labels = NDArray[Any]
_Values = NDArray[Any]


def confusion_matrix(true: _Labels, predicted: _Labels, classes: Sequence[Any]) -> NDArray[np.int64]:
    """Count rows by true class (first axis) and predicted class (second), in the order of `classes`.

    Args:
        true: Labels, one a row; each is one of `classes`.
        predicted: The same.
        classes: Sorted, distinct.

    Raises:
        DataError: A label is none of the classes.
    """
    size = len(classes)
    places = _places(true, classes) * size + _places(predicted, classes)
    return np.bincount(places, minlength=size * size).reshape(size, size).astype(np.int64)


def _places(labels: _Labels, classes: Sequence[Any]) -> NDArray[np.intp]:
    known = np.asarray(classes)
    places = np.minimum(np.searchsorted(known, labels), len(known) - 1)
    unknown = known[places] != labels
    if unknown.any():
        raise DataError(
            f"The label {labels[unknown][0]} is none of the model's {len(known)} classes.",
            where="test",
            remedy="Train and test on data with the same classes.",
        )
    return places


def accuracy(matrix: NDArray[np.int64]) -> float:
    """Return the share of rows on the diagonal of a confusion matrix."""
    return float(np.trace(matrix) / matrix.sum())


def f1_macro(matrix: NDArray[np.int64]) -> float:
    """Return the mean of each class's F1, the harmonic mean of precision and recall.

    A class that is neither true nor predicted anywhere does not count, as in scikit-learn.
    """
    hits = np.diag(matrix).astype(np.float64)
    seen = matrix.sum(axis=0) + matrix.sum(axis=1)
    there = seen > 0
    return float(np.mean(2 * hits[there] / seen[there]))


def log_loss(true: _Labels, probabilities: _Values, classes: Sequence[Any]) -> float:
    """Return the mean negative logarithm of the probability given to the true class.

    Args:
        true: Labels, one a row.
        probabilities: Rows x classes, each row's sum 1. They are kept from 0 and 1 by the smallest step of their
            dtype, so that one confident mistake is not infinite.
        classes: Sorted, distinct; the columns' order.
    """
    smallest = np.finfo(probabilities.dtype).eps
    chosen = probabilities[np.arange(len(true)), _places(true, classes)]
    return float(-np.mean(np.log(np.clip(chosen, smallest, 1 - smallest)), dtype=np.float64))


def mae(true: _Values, predicted: _Values) -> float:
    """Return the mean absolute error, in the target's unit."""
    return float(np.mean(np.abs(predicted - true)))


def rmse(true: _Values, predicted: _Values) -> float:
    """Return the root of the mean squared error, in the target's unit."""
    return float(np.sqrt(np.mean((predicted - true) ** 2)))


def mean_relative_error(true: _Values, predicted: _Values) -> float:
    """Return the mean of |predicted - true| / |true|; a true value of 0 counts as the smallest step of float64."""
    return float(np.mean(np.abs(predicted - true) / np.maximum(np.abs(true), np.finfo(np.float64).eps)))


def r2(true: _Values, predicted: _Values) -> float:
    """Return the coefficient of determination: 1 is perfect, 0 as good as always saying the mean.

    Where all true values are equal it is 1 if every prediction is right, else 0.
    """
    missed = float(np.sum((true - predicted) ** 2))
    spread = float(np.sum((true - np.mean(true)) ** 2))
    if spread == 0.0:
        return 1.0 if missed == 0.0 else 0.0
    return 1.0 - missed / spread


REGRESSION: Mapping[str, Callable[[_Values, _Values], float]] = {
    "mean_relative_error": mean_relative_error,
    "mae": mae,
    "rmse": rmse,
    "r2": r2,
}
"""Metrics of predicted against true values, by the blueprint's name."""

CLASSIFICATION = ("accuracy", "f1_macro", "log_loss")
"""Metrics of predicted classes, by the blueprint's name."""

LOWER_IS_BETTER = frozenset({"log_loss", "mean_relative_error", "mae", "rmse"})
"""Metrics whose `minimum` in a blueprint is a maximum."""
