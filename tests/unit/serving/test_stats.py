from __future__ import annotations

import math

import msgspec
import pytest

from modelyard.serving.stats import LONGEST_SAMPLES, Observation, Stats, quantile, step_of


def test_what_was_counted_is_handed_over_once():
    stats = Stats()
    stats.answered(200, 0.001)
    stats.answered(422, 0.002)
    stats.answered(503, 0.004)
    seen = stats.collect()
    assert (seen.requests, seen.errors, sum(seen.seconds.values())) == (3, 1, 3)
    assert stats.collect() is None


@pytest.mark.parametrize("seconds", [0.0, 1e-9, 1e-5, 3e-5, 0.001, 0.0123, 1.0, 77.0])
def test_a_duration_is_told_within_five_percent_and_never_too_long(seconds):
    told = quantile({step_of(seconds): 1}, 0.99)
    assert told <= seconds * (1 + 1e-9)
    assert told >= seconds / 1.051 or seconds < 1.06e-5


def test_the_quantile_is_the_duration_that_the_share_did_not_pass():
    stats = Stats()
    for _ in range(99):
        stats.answered(200, 0.001)
    stats.answered(200, 1.0)
    assert quantile(stats.collect().seconds, 0.99) < 0.0011
    for _ in range(98):
        stats.answered(200, 0.001)
    for _ in range(2):
        stats.answered(200, 1.0)
    assert quantile(stats.collect().seconds, 0.99) > 0.9
    assert quantile({}, 0.99) == 0.0


def test_observations_add_up_and_travel_as_json():
    first, second = Stats(), Stats()
    for stats in (first, second):
        stats.answered(200, 0.001)
        stats.compared(5, {"score": 0.25, "label": None})
        stats.compared(5, {})
        stats.dropped()
    both = first.collect() + second.collect()
    assert (both.requests, both.compared, both.differing, both.largest, both.dropped) == (2, 4, 2, 0.25, 2)
    assert msgspec.json.decode(msgspec.json.encode(both), type=Observation) == both
    assert len(both.differences) == 4


def test_of_many_differences_only_the_first_few_are_kept():
    stats = Stats()
    for number in range(100):
        stats.compared(1, {"score": math.sqrt(number)})
    seen = stats.collect()
    assert len(seen.differences) == LONGEST_SAMPLES
    assert seen.differing == 100
    assert seen.largest == math.sqrt(99)
