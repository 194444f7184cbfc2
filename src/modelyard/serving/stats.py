"""What a worker counts of a canary's or a shadow's answers, and what of it goes to the supervisor."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping

import msgspec

__all__ = ["LONGEST_SAMPLES", "Difference", "Observation", "Stats", "quantile", "step_of"]

_FIRST = 1e-5
_GROWTH = math.log(1.05)
LONGEST_SAMPLES = 8


class Difference(msgspec.Struct, frozen=True):
    """That a shadow answered something else, without anything of what was asked or answered.

    Args:
        rows: Of the request.
        field: Whose values differ.
        difference: The largest; 1 where the values are no numbers, None where they can't be compared.
    """

    rows: int
    field: str
    difference: float | None


class Observation(msgspec.Struct, frozen=True):
    """What was counted since the observation before.

    Args:
        requests: Answered.
        errors: Of these, with status 5xx, or for a shadow those it could not answer.
        seconds: How many took how long, by step: each is 5 % longer than the one before, from 10 us on.
        compared: Requests whose answers were compared with the shadow's.
        differing: Of these, with any difference.
        largest: The largest difference of all.
        dropped: Requests that the shadow was too slow to see.
        differences: The first few.
    """

    requests: int = 0
    errors: int = 0
    seconds: dict[int, int] = {}
    compared: int = 0
    differing: int = 0
    largest: float = 0.0
    dropped: int = 0
    differences: tuple[Difference, ...] = ()

    def quantile(self, share: float) -> float:
        """Return the duration that this share of the answers did not pass, up to 5 % too little."""
        return quantile(self.seconds, share)

    def __add__(self, other: Observation) -> Observation:
        seconds = dict(self.seconds)
        for step, count in other.seconds.items():
            seconds[step] = seconds.get(step, 0) + count
        return Observation(
            self.requests + other.requests,
            self.errors + other.errors,
            seconds,
            self.compared + other.compared,
            self.differing + other.differing,
            max(self.largest, other.largest),
            self.dropped + other.dropped,
            (*self.differences, *other.differences)[:LONGEST_SAMPLES],
        )


class Stats:
    """Counts in a worker. The event loop and the shadow's thread add, the observer takes what is there."""

    __slots__ = ("_differences", "_lock", "_now")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._clear()

    def _clear(self) -> None:
        # requests, errors, compared, differing, largest, dropped
        self._now: tuple[list[float], dict[int, int]] = ([0, 0, 0, 0, 0.0, 0], {})
        self._differences: list[Difference] = []

    def answered(self, status: int, seconds: float) -> None:
        """Count an answer.

        Args:
            status: Of HTTP; 5xx are errors, all others are not the model's fault.
            seconds: From the request's head to its answer.
        """
        step = step_of(seconds)
        with self._lock:
            counts, steps = self._now
            counts[0] += 1
            counts[1] += status >= 500
            steps[step] = steps.get(step, 0) + 1

    def compared(self, rows: int, differences: Mapping[str, float | None]) -> None:
        """Count a comparison of a shadow's answer with the one that was given.

        Args:
            rows: Of the request.
            differences: The largest of each field that differs; empty where nothing does.
        """
        with self._lock:
            counts, _ = self._now
            counts[2] += 1
            counts[3] += bool(differences)
            for field, difference in differences.items():
                counts[4] = max(counts[4], difference or 0.0)
                if len(self._differences) < LONGEST_SAMPLES:
                    self._differences.append(Difference(rows, field, difference))

    def dropped(self) -> None:
        """Count a request that the shadow had no time for."""
        with self._lock:
            self._now[0][5] += 1

    def collect(self) -> Observation | None:
        """Return what was counted since the last time, and begin anew; None where there is nothing."""
        with self._lock:
            (requests, errors, compared, differing, largest, dropped), steps = self._now
            if not (requests or compared or dropped):
                return None
            observation = Observation(
                int(requests), int(errors), steps, int(compared), int(differing), largest, int(dropped),
                tuple(self._differences),
            )  # fmt: skip
            self._clear()
        return observation


def step_of(seconds: float) -> int:
    """Return the step that a duration falls into."""
    return max(0, int(math.log(seconds / _FIRST) / _GROWTH)) if seconds > _FIRST else 0


def quantile(seconds: dict[int, int], share: float) -> float:
    """Return the duration that this share of all did not pass: the lower end of its step, so up to 5 % too little.

    Args:
        seconds: How many took how long, by step.
        share: Such as 0.99.
    """
    rank = math.ceil(share * sum(seconds.values()))
    for step, count in sorted(seconds.items()):
        rank -= count
        if rank <= 0:
            return _FIRST * math.exp(step * _GROWTH) if step else 0.0
    return 0.0
