"""The swap benchmark sees what it is there to see: a failure, a mixed answer, an old generation, a wait of grace."""

from __future__ import annotations

from typing import Any

import pytest
from benchmarks.openloop import Sample
from benchmarks.swaps import Story, phases, promises


@pytest.fixture
def story() -> Story:
    """At 10 the first version, at 20 another one, at 30 one with another contract."""
    told = Story(expected={"a": 1, "b": 2, "c": 3})
    for moment, package, contract in ((10.0, "a", 0), (20.0, "b", 0), (30.0, "c", 1)):
        told.acknowledged.append((moment, told.begin(package, contract)))
        told.took.append(0.01)
    return told


def sample(begun: float, version: str = "v1", content: int = 1, **more: Any) -> Sample:
    given = {"due": begun, "begun": begun, "ended": begun + 0.001, "kind": 0, "status": 200, "tries": 1, **more}
    return Sample(version=version, content=content, **given)


@pytest.mark.parametrize(
    ("seen", "counted"),
    [
        (sample(15), None),
        (sample(15, "v2", 2), None),
        (sample(19.999), None),
        (sample(21, status=503), "failed"),
        (sample(21, "v2", 2, status=0), "failed"),
        (sample(15, content=2), "mixed"),
        (sample(15, "v9", 1), "mixed"),
        (sample(21, "v1", 1), "stale"),
        (sample(31, "v2", 2), "grace"),
        (sample(31, "v2", 2, kind=1), "stale"),
        (sample(31, "v3", 3, kind=1), None),
        (sample(15, tries=2), "sent again"),
    ],
)
def test_each_answer_is_counted_as_what_it_is(story: Story, seen: Sample, counted: str | None) -> None:
    counts = story.judge([seen])
    wrong = {name for name in ("failed", "mixed", "stale", "grace", "sent again") if counts[name]}
    assert wrong == ({counted} if counted else set())
    assert counts["requests"] == 1


def test_phases_count_what_was_due_in_them() -> None:
    seen = [sample(begun, ended=begun + wait) for begun, wait in ((1.0, 0.01), (2.0, 0.03), (3.0, 0.02))]
    told = phases(seen, {"before": (0.5, 1.5), "during": (1.5, 2.5), "after": (2.5, 3.5)})
    assert told["p99 during"] == pytest.approx(0.03)
    assert told["p99 steady"] == pytest.approx(0.02, rel=0.02)
    assert told["over steady"] == pytest.approx(0.03 / told["p99 steady"])


def test_what_failed_breaks_the_promise(story: Story) -> None:
    results = {"modelyard": {**story.judge([sample(21, status=503)]), "injected": 0, "over steady": {"median": 1.0}}}
    kept = {promise.what: promise.kept for promise in promises(results)}
    assert kept["Requests that fail"] is False
    assert kept["Answers whose content is not their version's"] is True
