"""Every metric equals scikit-learn's."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn import metrics as reference

from modelyard.errors import DataError
from modelyard.steps import metrics

CLASS_SETS: list[tuple[Any, ...]] = [tuple(range(5)), ("a", "b", "cc"), (False, True), (-3, 0, 7, 100)]


@st.composite
def answers(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, tuple[Any, ...]]:
    classes = draw(st.sampled_from(CLASS_SETS))
    size = draw(st.integers(1, 60))
    places = st.lists(st.integers(0, len(classes) - 1), min_size=size, max_size=size)
    known = np.array(classes)
    return known[draw(places)], known[draw(places)], classes


numbers = st.floats(-1e6, 1e6).map(lambda value: round(value, 3))


@st.composite
def values(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    size = draw(st.integers(2, 50))
    many = hnp.arrays(np.float64, size, elements=numbers)
    return draw(many), draw(many)


@given(answers())
def test_confusion_matrix_accuracy_and_f1_equal_scikit_learns(
    given_answers: tuple[np.ndarray, np.ndarray, tuple[Any, ...]],
) -> None:
    true, predicted, classes = given_answers
    matrix = metrics.confusion_matrix(true, predicted, classes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert np.array_equal(matrix, reference.confusion_matrix(true, predicted, labels=list(classes)))
        assert metrics.accuracy(matrix) == pytest.approx(reference.accuracy_score(true, predicted))
        assert metrics.f1_macro(matrix) == pytest.approx(reference.f1_score(true, predicted, average="macro"))


@given(answers(), st.integers(0, 1000), st.sampled_from([np.float32, np.float64]), st.booleans())
def test_log_loss_equals_scikit_learns(
    given_answers: tuple[np.ndarray, np.ndarray, tuple[Any, ...]], seed: int, dtype: Any, certain: bool
) -> None:
    true, _, classes = given_answers
    raw = np.random.default_rng(seed).random((len(true), len(classes)))
    probabilities = (raw / raw.sum(axis=1, keepdims=True)).astype(dtype)
    if certain:
        probabilities = np.eye(len(classes), dtype=dtype)[probabilities.argmax(axis=1)]
    expected = reference.log_loss(true, probabilities, labels=list(classes))
    assert metrics.log_loss(true, probabilities, classes) == pytest.approx(expected, rel=1e-4, abs=1e-6)


@given(values())
def test_errors_of_a_regression_equal_scikit_learns(given_values: tuple[np.ndarray, np.ndarray]) -> None:
    true, predicted = given_values
    assert metrics.mae(true, predicted) == pytest.approx(reference.mean_absolute_error(true, predicted))
    assert metrics.rmse(true, predicted) == pytest.approx(reference.root_mean_squared_error(true, predicted))
    assert metrics.mean_relative_error(true, predicted) == pytest.approx(
        reference.mean_absolute_percentage_error(true, predicted)
    )


@given(values())
def test_r2_equals_scikit_learns(given_values: tuple[np.ndarray, np.ndarray]) -> None:
    true, predicted = given_values
    # Where all true values are as good as equal, the quotient is rounding noise in both.
    assume(np.ptp(true) == 0 or np.ptp(true) > 1e-6 * max(1.0, np.abs(true).max()))
    assert metrics.r2(true, predicted) == pytest.approx(reference.r2_score(true, predicted), rel=1e-6, abs=1e-9)


def test_a_label_outside_the_classes_is_told() -> None:
    with pytest.raises(DataError, match="label 7 is none of the model's 2 classes"):
        metrics.confusion_matrix(np.array([0, 7]), np.array([0, 1]), (0, 1))
    with pytest.raises(DataError, match="label zebra"):
        metrics.confusion_matrix(np.array(["a", "zebra"]), np.array(["a", "b"]), ("a", "b"))
