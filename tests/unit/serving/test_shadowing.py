from __future__ import annotations

import numpy as np
import pytest

from modelyard.serving.shadowing import differences


@pytest.mark.parametrize(
    ("expected", "given", "found"),
    [
        ([1.0, 2.0], [1.0, 2.5], {"y": 0.5}),
        ([1, 2], [1, 2], {}),
        ([np.nan, np.inf], [np.nan, np.inf], {}),
        ([1.0], [np.nan], {"y": np.finfo(np.float64).max}),
        (["a", "b"], ["a", "c"], {"y": 1.0}),
        ([True], [False], {"y": 1.0}),
        ([1.0, 2.0], [1.0], {"y": None}),
    ],
)
def test_what_differs_is_named_with_its_largest_difference(expected, given, found):
    assert differences({"y": np.array(expected)}, {"y": np.array(given)}) == found


def test_a_missing_field_differs_and_a_further_one_does_not():
    one = np.array([1.0])
    assert differences({"y": one}, {"z": one}) == {"y": None}
    assert differences({"y": one}, {"y": one, "z": one}) == {}
