"""What a worker counts of the requests it answered, and how the workers' counts come together.

Counting is two additions to a list of this process. A tenth of a second later the counts are in a file of the worker's
own, from which whoever is asked for metrics adds them up, also those of workers that have died.
"""

from __future__ import annotations

import asyncio
import os
from bisect import bisect_left
from collections.abc import Iterable
from pathlib import Path

import msgspec

from modelyard.files import storage_errors

__all__ = ["BUCKETS", "Counts", "Key", "Tally"]

BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
"""Upper bounds in seconds; a last bucket has no bound."""

DELAY = 0.1

Key = tuple[str, str, int]
"""Model, version, status."""


class Counts(msgspec.Struct):
    """Of one key.

    Args:
        seconds: The sum of all latencies.
        buckets: How many were at most as slow as each bound and slower than the one before.
    """

    seconds: float = 0.0
    buckets: list[int] = msgspec.field(default_factory=lambda: [0] * (len(BUCKETS) + 1))

    def add(self, other: Counts) -> None:
        """Add the counts of another worker."""
        self.seconds += other.seconds
        self.buckets = [one + two for one, two in zip(self.buckets, other.buckets, strict=True)]

    @property
    def requests(self) -> int:
        """How many in all."""
        return sum(self.buckets)


class Tally:
    """The counts of one worker; it belongs to the event loop's thread.

    Args:
        folder: Shared by the workers of a service, and by nobody else.
    """

    def __init__(self, folder: Path) -> None:
        self._file = folder / f"{os.getpid()}.counts"
        self._counts: dict[Key, Counts] = {}
        self._later: asyncio.TimerHandle | None = None

    def count(self, model: str, version: str, status: int, seconds: float) -> None:
        """Count a request."""
        counts = self._counts.get((model, version, status))
        if counts is None:
            counts = self._counts[model, version, status] = Counts()
        counts.seconds += seconds
        counts.buckets[bisect_left(BUCKETS, seconds)] += 1
        if self._later is None:
            self._later = asyncio.get_running_loop().call_later(DELAY, self._write)

    def _write(self) -> None:
        self._later = None
        temporary = self._file.with_suffix(".new")
        try:
            # Renamed so that nobody reads a part; not synced, as counts begin anew with each service.
            temporary.write_bytes(msgspec.msgpack.encode(list(self._counts.items())))
            temporary.replace(self._file)
        except OSError:
            # A full disk must not fail requests; the next count tries again.
            temporary.unlink(missing_ok=True)

    def together(self) -> dict[Key, Counts]:
        """Return the counts of all workers, those of others a tenth of a second old at most.

        Raises:
            StorageError: Their files can't be read.
        """
        total: dict[Key, Counts] = {}
        _add(total, list(self._counts.items()))
        folder = self._file.parent
        with storage_errors(folder):
            others = [file for file in folder.glob("*.counts") if file != self._file]
            for file in others:
                _add(total, msgspec.msgpack.decode(file.read_bytes(), type=list[tuple[Key, Counts]]))
        return total


def _add(total: dict[Key, Counts], part: Iterable[tuple[Key, Counts]]) -> None:
    for key, counts in part:
        total.setdefault(key, Counts()).add(counts)
