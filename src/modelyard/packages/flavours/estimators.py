"""Fitted estimators with scikit-learn's interface: what they are, and how they are asked."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, is_classifier, is_regressor

from modelyard.contracts import Columns
from modelyard.errors import DataError
from modelyard.packages.flavours.heads import INPUT, SCORES, Head, probe

__all__ = ["EstimatorPredictor", "estimator_facts", "head_of_estimator", "scores_of"]


class EstimatorPredictor:
    """Predicts with a fitted estimator.

    Args:
        estimator: A classifier or regressor.
    """

    def __init__(self, estimator: Any) -> None:
        self._estimator = estimator
        self._head = head_of_estimator(estimator)

    def predict(self, columns: Columns) -> Columns:
        """Return `scores` for the rows of `input`."""
        return {SCORES: scores_of(self._estimator, self._head, columns[INPUT])}


def estimator_facts(model: Any) -> dict[str, Any]:
    """Return what a flavour's `save` says of an estimator.

    Raises:
        DataError: It is neither a fitted classifier nor a fitted regressor.
    """
    if not (isinstance(model, BaseEstimator) and (is_classifier(model) or is_regressor(model))):
        raise DataError(f"A {type(model).__name__} is neither a classifier nor a regressor of scikit-learn.")
    features = getattr(model, "n_features_in_", None)
    if features is None:
        raise DataError(f"The {type(model).__name__} is not fitted.", remedy="Call its fit first.")
    head = head_of_estimator(model)
    facts: dict[str, Any] = {"head": head, "flat": True, "input_shape": [int(features)]}
    if head is Head.VALUE:
        with warnings.catch_warnings():
            # The probe's numbers are none that the estimator was made for.
            warnings.simplefilter("ignore")
            facts["outputs"] = int(np.size(model.predict(probe((features,), 1))))
    else:
        facts["classes"] = np.asarray(model.classes_).tolist()
    return facts


def head_of_estimator(model: Any) -> Head:
    """Return what an estimator's raw scores are."""
    if not is_classifier(model):
        return Head.VALUE
    return Head.PROBABILITIES if hasattr(model, "predict_proba") else Head.LABELS


def scores_of(model: Any, head: Head, values: NDArray[Any]) -> NDArray[Any]:
    """Return an estimator's raw scores for rows."""
    scores = np.asarray(model.predict_proba(values) if head is Head.PROBABILITIES else model.predict(values))
    return scores if head is Head.LABELS else scores.astype(np.float32)
