"""Semantic versions (https://semver.org): their order, and the next one."""

from __future__ import annotations

import re

__all__ = ["VERSION", "bare", "next_minor_or_major", "order"]

VERSION = (
    r"(?:0|[1-9]\d*)\.(?:0|[1-9]\d*)\.(?:0|[1-9]\d*)"
    r"(?:-(?:0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*)(?:\.(?:0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*))*)?"
    r"(?:\+[0-9a-zA-Z-]+(?:\.[0-9a-zA-Z-]+)*)?"
)
"""A semantic version without its `v`, as a regular expression."""

Order = tuple[int, int, int, bool, tuple[tuple[bool, int, str], ...], str]


def bare(version: str) -> str:
    """Return a version without the `v` it may start with: `v1.2.0` is `1.2.0`."""
    return version[1:] if re.match(r"v\d", version) else version


def order(version: str) -> Order:
    """Return a key that sorts versions by precedence; build metadata only breaks ties.

    Args:
        version: A version that matches `VERSION`.
    """
    if "-" not in version and "+" not in version:
        major, minor, patch = version.split(".")
        return (int(major), int(minor), int(patch), True, (), "")
    core, _, build = version.partition("+")
    numbers, _, pre = core.partition("-")
    major, minor, patch = numbers.split(".")
    # A number sorts before a word, and a version with a pre-release before the one without.
    parts = tuple((not part.isdigit(), int(part) if part.isdigit() else 0, part) for part in pre.split("."))
    return (int(major), int(minor), int(patch), not pre, parts if pre else (), build)


def next_minor_or_major(previous: str | None, *, major: bool) -> str:
    """Return the version after `previous`: the first is 1.0.0, a changed contract raises the major number."""
    if previous is None:
        return "1.0.0"
    numbers = order(previous)
    return f"{numbers[0] + 1}.0.0" if major else f"{numbers[0]}.{numbers[1] + 1}.0"
