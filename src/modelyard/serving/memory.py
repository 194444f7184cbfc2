"""Whether a package still fits into memory, asked before it is loaded: a refusal is better than a killed process."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from modelyard.errors import RefusedError
from modelyard.serving.logs import Log
from modelyard.serving.state import GenerationRecord

__all__ = ["FACTOR", "FLOOR", "RESERVE", "Memory", "available", "private_bytes"]

FACTOR = 3.0
"""Bytes of memory for each byte of a package's files, while nothing was measured: the bytes read, the parsed model,
and the runtime's own copy of the weights."""

FLOOR = 8 * 1024 * 1024
"""The least that a model is taken to need: an allocator grows by such steps, and a small growth can't be measured."""

RESERVE = 64 * 1024 * 1024
"""What stays free for requests in flight and for everything else on the machine."""

_PAGE = os.sysconf("SC_PAGE_SIZE")


class Memory:
    """Estimates what a generation needs, and refuses what does not fit.

    Args:
        limit: Bytes that the service's processes may take together; None: what machine and control group have left;
            0: nothing is checked.
        processes: Returns the ids of the service's processes.
        log: The supervisor's.
        left: Returns the bytes that machine and control group have left, or None where nobody says.
    """

    def __init__(
        self, limit: int | None, processes: Callable[[], Iterable[int]], log: Log, left: Callable[[], int | None]
    ) -> None:
        self._limit = limit
        self._processes = processes
        self._log = log
        self._left = left
        self._growth: dict[str, float] = {}
        self._known: dict[str, int] = {}

    def estimate(self, generation: GenerationRecord) -> int:
        """Return the bytes that one worker needs for a generation.

        What the first worker measured of this package; else the size of its files times what was measured of the last
        package of its kind (the suffix of its largest file) for each byte, else times `FACTOR`.
        """
        known = self._known.get(generation.package)
        if known is not None:
            return max(known, FLOOR)
        kind, size = _sized(Path(generation.folder))
        return max(int(size * self._growth.get(kind, FACTOR)), FLOOR)

    def learn(self, generation: GenerationRecord, growth: int) -> None:
        """Take down by how much a worker grew when it loaded a generation; it had others loaded before, maybe freed."""
        if generation.package not in self._known or growth > self._known[generation.package]:
            self._known[generation.package] = growth
            kind, size = _sized(Path(generation.folder))
            # A package of a few kilobytes says nothing of how models of its kind grow.
            if size > FLOOR:
                self._growth[kind] = max(growth / size, 1.0)

    def check(self, generation: GenerationRecord, workers: int) -> None:
        """Refuse a generation that does not fit.

        Args:
            generation: Staged already.
            workers: How many have yet to load it.

        Raises:
            RefusedError: It does not fit; it says what is needed and what there is.
        """
        left = self.left()
        if left is None:
            return
        each = self.estimate(generation)
        if each * workers > left:
            self._log.error("memory-short", model=generation.model, needed=each * workers, left=left)
            raise RefusedError(
                f"There is not enough memory for {generation.model} {generation.version}: {workers} "
                f"x {_megabytes(each)} are needed, {_megabytes(left)} are left.",
                remedy="Serve it with fewer workers or on a larger machine, or end a canary, shadow or label.",
            )

    def short(self, siblings: Iterable[int], workers: int) -> tuple[int, int] | None:
        """Return what as many workers need and what is left, where that is less; else None.

        A worker that replaces another will hold what those beside it hold, so it is taken to need what the smallest of
        them has.

        Args:
            siblings: Process ids of workers that hold what is committed.
            workers: How many have yet to load it.
        """
        left = self.left()
        needed = workers * min((private_bytes(process) for process in siblings), default=0)
        return (needed, left) if left is not None and needed > left else None

    def left(self) -> int | None:
        """Return the bytes that may still be taken, less the reserve; None where nothing is checked."""
        if self._limit == 0:
            return None
        if self._limit is not None:
            return max(0, self._limit - sum(private_bytes(process) for process in self._processes()))
        left = self._left()
        return None if left is None else max(0, left - RESERVE)


def private_bytes(process: int | str = "self") -> int:
    """Return the bytes of a process that no file backs and no other process shares; 0 where it is gone."""
    try:
        resident, shared = Path(f"/proc/{process}/statm").read_text().split()[1:3]
    except OSError:
        return 0
    return (int(resident) - int(shared)) * _PAGE


def available(proc: Path = Path("/proc"), groups: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Return the bytes that this process and its children may still take, or None where the kernel does not say.

    It is the least of MemAvailable and of what each control group above this process has left, where memory that the
    kernel can take back at once (inactive files) counts as left (https://docs.kernel.org/admin-guide/cgroup-v2.html).

    Args:
        proc: Where the kernel tells of processes.
        groups: Where it tells of control groups.
    """
    found = [*_of_machine(proc), *_of_groups(proc, groups)]
    return min(found, default=None)


def _of_machine(proc: Path) -> Iterator[int]:
    for line in _lines(proc / "meminfo"):
        if line.startswith("MemAvailable:"):
            yield int(line.split()[1]) * 1024


def _of_groups(proc: Path, groups: Path) -> Iterator[int]:
    for line in _lines(proc / "self" / "cgroup"):
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root, limit, usage, inactive = groups, "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            root, limit, usage = groups / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
            inactive = "total_inactive_file"
        else:
            continue
        folder = root / path.lstrip("/")
        # In a container the path is the host's, and its own group stands at the root.
        for place in (folder, *folder.parents):
            if not place.is_relative_to(root):
                break
            most, used = _number(place / limit), _number(place / usage)
            if most is not None and used is not None:
                yield max(0, most - used + _statistic(place / "memory.stat", inactive))


def _number(file: Path) -> int | None:
    text = "".join(_lines(file))
    return int(text) if text.isdigit() else None


def _statistic(file: Path, name: str) -> int:
    return next((int(line.split()[1]) for line in _lines(file) if line.startswith(f"{name} ")), 0)


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text().splitlines()
    except OSError:
        return []


def _sized(folder: Path) -> tuple[str, int]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    largest = max(files, key=lambda path: path.stat().st_size, default=None)
    return (largest.suffix if largest else "", sum(path.stat().st_size for path in files))


def _megabytes(size: int) -> str:
    return f"{size / 1024 / 1024:,.0f} MiB"
