"""Versions sort as https://semver.org says."""

from __future__ import annotations

import re

import pytest
import semver
from hypothesis import given
from hypothesis import strategies as st

from modelyard.center.versions import VERSION, bare, next_minor_or_major, order

numbers = st.integers(0, 30).map(str)
words = st.one_of(numbers, st.sampled_from(["alpha", "beta", "rc", "x-1", "-"]))


def written(core: tuple[str, ...], pre: list[str], build: list[str]) -> str:
    return ".".join(core) + (f"-{'.'.join(pre)}" if pre else "") + (f"+{'.'.join(build)}" if build else "")


versions = st.builds(
    written,
    st.tuples(numbers, numbers, numbers),
    st.lists(words, max_size=3),
    st.lists(words, max_size=2),
)


@given(versions, versions)
def test_precedence_agrees_with_the_semver_library(one: str, other: str) -> None:
    assert re.fullmatch(VERSION, one)
    expected = semver.Version.parse(one).compare(other)
    ours = (order(one)[:-1] > order(other)[:-1]) - (order(one)[:-1] < order(other)[:-1])
    assert ours == expected


@pytest.mark.parametrize("text", ["1.0", "01.0.0", "1.0.0.0", "v1.0.0", "1.0.0-", "1.0.0-01", "", "1.0.0\n"])
def test_what_is_no_semantic_version_is_not_taken_for_one(text: str) -> None:
    assert re.fullmatch(VERSION, text) is None


@pytest.mark.parametrize(
    ("previous", "major", "expected"),
    [(None, False, "1.0.0"), (None, True, "1.0.0"), ("1.4.2", False, "1.5.0"), ("1.4.2", True, "2.0.0")],
)
def test_the_next_version_follows_the_contract(previous: str | None, major: bool, expected: str) -> None:
    assert next_minor_or_major(previous, major=major) == expected


def test_a_version_may_be_written_with_its_v() -> None:
    assert [bare("v1.2.0"), bare("1.2.0"), bare("vx")] == ["1.2.0", "1.2.0", "vx"]
