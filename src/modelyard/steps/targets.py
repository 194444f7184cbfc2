"""What trainers take from a data set's target: positions of classes, or numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelyard.data import Dataset, dtype_name
from modelyard.errors import DataError

__all__ = ["class_positions", "regression_values"]


def class_positions(train: Dataset) -> tuple[NDArray[np.int64], tuple[Any, ...]]:
    """Return each row's class as its position in the classes, and the classes.

    Raises:
        DataError: There are no rows, the target has no classes, or there is but one class.
    """
    labels = _labels(train)
    if train.classes is None:
        raise DataError(
            f"The target {train.target!r} is {dtype_name(labels.dtype)}{list(labels.shape[1:]) or ''}, and classes are "
            "integers, booleans or text.",
            where="input train",
            remedy="Give it another type in the importer's `dtypes`, or set `prediction_type: regression`.",
        )
    if len(train.classes) < 2:
        raise DataError(
            f"Every row has the same class, {train.classes[0]!r}: there is nothing to learn.",
            where="input train",
            remedy="Give data with two classes at least.",
        )
    return np.searchsorted(np.asarray(train.classes), labels).astype(np.int64), train.classes


def regression_values(train: Dataset) -> NDArray[np.float64]:
    """Return the target as one number a row.

    Raises:
        DataError: There are no rows, or the target is text or has several numbers a row.
    """
    labels = _labels(train)
    if labels.dtype.kind not in "biuf" or labels.size != len(labels):
        raise DataError(
            f"The target {train.target!r} is {dtype_name(labels.dtype)}{list(labels.shape[1:]) or ''}, and regression "
            "needs one number a row.",
            where="input train",
            remedy="Name another target, or set `prediction_type: classification`.",
        )
    return labels.astype(np.float64).reshape(-1)


def _labels(train: Dataset) -> NDArray[Any]:
    labels = train.labels
    if len(labels) == 0:
        raise DataError("There are no rows to train on.", where="input train")
    if not train.features:
        raise DataError("There is no column to learn from.", where="input train", remedy="Keep one in `columns`.")
    return labels
