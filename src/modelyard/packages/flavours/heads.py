"""What a model's raw scores mean: every flavour's predictor takes `input` and gives `scores`."""

from __future__ import annotations

import enum

import numpy as np
from numpy.typing import NDArray

from modelyard.errors import DataError

__all__ = ["INPUT", "SCORES", "Head", "close", "head_of", "probe", "softmax"]

INPUT = "input"
"""The one column that a flavour's predictor takes: float32, rows first."""

SCORES = "scores"
"""The one column that it gives."""


class Head(enum.StrEnum):
    """What the scores are."""

    LOGITS = "logits"
    """Float [n, k]; the softmax of a row are the probabilities of k classes."""
    PROBABILITIES = "probabilities"
    """Float [n, k], each row of which sums to 1."""
    LABELS = "labels"
    """[n], the predicted class itself; the model has no probabilities."""
    VALUE = "value"
    """Float [n] or [n, 1], a regression's answer."""


def head_of(scores: NDArray[np.generic]) -> Head:
    """Return what the scores of a probe are; raises DataError where they can be neither classes nor a value."""
    if scores.ndim == 1 or (scores.ndim == 2 and scores.shape[1] == 1):
        return Head.VALUE
    if scores.ndim != 2:
        raise DataError(f"The ONNX model's output has {scores.ndim} dimensions; one or two are needed.")
    sums_to_one = np.allclose(scores.sum(axis=1), 1.0, atol=1e-4) and scores.min() >= 0
    return Head.PROBABILITIES if sums_to_one else Head.LOGITS


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the softmax of each row in float32; large logits do not overflow."""
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    result: NDArray[np.float32] = shifted / shifted.sum(axis=1, keepdims=True)
    return result


def probe(shape: tuple[int, ...], rows: int) -> NDArray[np.float32]:
    """Return rows of the same random numbers every time, to compare two runtimes on."""
    return np.random.default_rng(20).standard_normal((rows, *shape)).astype(np.float32)


def close(first: NDArray[np.generic], second: NDArray[np.generic]) -> bool:
    """Say whether two runtimes gave the same scores: labels equal, numbers within 0.1 % or 0.0001 of the largest."""
    if first.shape != second.shape:
        return False
    if first.dtype.kind not in "fc" or second.dtype.kind not in "fc":
        return bool(np.array_equal(first, second))
    scale = max(1.0, float(np.abs(first).max(initial=0.0)))
    return bool(np.allclose(first, second, rtol=1e-3, atol=1e-4 * scale, equal_nan=True))
