"""The split: no row twice, none lost, classes in proportion, the same everywhere."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.errors import DataError
from modelyard.steps.splitting import pick_rows, shuffled, split_rows

labels = st.lists(st.integers(0, 6), min_size=2, max_size=300).map(np.array)
shares = st.floats(0.001, 0.999)
seeds = st.integers(0, 2**32)


@given(labels, shares, seeds, st.booleans())
def test_parts_share_no_row_and_together_have_all(values: np.ndarray, share: float, seed: int, stratify: bool) -> None:
    train, test = split_rows(values, share, seed, stratify)
    assert len(train)
    assert len(test)
    assert np.array_equal(np.sort(np.concatenate([train, test])), np.arange(len(values)))


@given(labels, shares, seeds)
def test_each_class_keeps_its_share_within_one_row(values: np.ndarray, share: float, seed: int) -> None:
    _, test = split_rows(values, share, seed, stratify=True)
    clamped = len(test) != round(len(values) * share)
    for label in np.unique(values):
        exact = (values == label).sum() * share
        # Where the share would leave a part empty, the one row it is given tips one class over.
        assert abs((values[test] == label).sum() - exact) < (2 if clamped else 1)


@given(labels, shares, seeds)
def test_the_test_part_has_its_share_of_all_rows(values: np.ndarray, share: float, seed: int) -> None:
    _, test = split_rows(values, share, seed, stratify=True)
    assert len(test) == min(max(round(len(values) * share), 1), len(values) - 1)


@given(labels, shares, seeds, st.booleans())
def test_equal_seeds_give_equal_parts(values: np.ndarray, share: float, seed: int, stratify: bool) -> None:
    first, second = split_rows(values, share, seed, stratify), split_rows(values.copy(), share, seed, stratify)
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_other_seeds_give_other_parts() -> None:
    values = np.arange(200) % 3
    assert not np.array_equal(split_rows(values, 0.5, 0, True)[1], split_rows(values, 0.5, 1, True)[1])


def test_another_process_draws_the_same_rows() -> None:
    code = (
        "import numpy as np; from modelyard.steps.splitting import split_rows;"
        "print(split_rows(np.arange(100) % 7, 0.2, 42, True)[1].tolist())"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == str(split_rows(np.arange(100) % 7, 0.2, 42, True)[1].tolist())


def test_the_order_is_pinned_for_ever() -> None:
    # A change here would change every data set that was ever split.
    assert shuffled(10, 0).tolist() == [3, 2, 1, 8, 6, 0, 7, 4, 5, 9]
    assert shuffled(10, 42).tolist() == [4, 8, 1, 9, 3, 6, 0, 7, 2, 5]


def test_text_and_booleans_are_stratified_too() -> None:
    for values in (np.array(["a"] * 90 + ["b"] * 10), np.array([True] * 90 + [False] * 10)):
        _, test = split_rows(values, 0.2, 0, True)
        assert (values[test] == values[-1]).sum() == 2


def test_a_lone_row_of_a_class_is_learnt_from_where_another_can_be_tested() -> None:
    values = np.array([0] * 13 + [1])
    for seed in range(20):
        train, _ = split_rows(values, 0.25, seed, True)
        assert 13 in train


def test_floats_are_split_at_random() -> None:
    train, test = split_rows(np.linspace(0, 1, 10), 0.3, 0, True)
    assert (len(train), len(test)) == (7, 3)


def test_one_row_cannot_be_split() -> None:
    with pytest.raises(DataError, match="1 row can't be split"):
        split_rows(np.array([1]), 0.5, 0, True)


def test_a_limit_draws_rows_without_repetition_in_rising_order() -> None:
    rows = pick_rows(100, 10, 3)
    assert rows is not None
    assert len(np.unique(rows)) == 10
    assert (np.diff(rows) > 0).all()
    assert pick_rows(10, 10, 0) is None
    assert pick_rows(10, None, 0) is None
