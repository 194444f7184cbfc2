"""A step's context that keeps what the step tells, to test step functions by calling them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["RecordedContext"]


@dataclass
class RecordedContext:
    """What a step may know and tell, kept in lists.

    >>> context = RecordedContext(project=Path("."), workdir=Path("work"))
    >>> context.log("hello")
    >>> context.lines
    ['hello']

    Args:
        project: The project folder; make it first.
        workdir: The step's work folder; make it first.
        seed: For random numbers.
        cores: CPU cores that the step asked for; one keeps tests repeatable.
        outputs: Names of the outputs that the step must produce.
    """

    project: Path
    workdir: Path
    seed: int = 0
    cores: float | None = 1
    outputs: tuple[str, ...] = ()
    lines: list[str] = field(default_factory=list)
    metrics: list[tuple[str, float, int | None]] = field(default_factory=list)
    progressed: list[tuple[float, float, str]] = field(default_factory=list)

    def log(self, message: str) -> None:
        """Keep a line."""
        self.lines.append(message)

    def metric(self, name: str, value: float, step: int | None = None) -> None:
        """Keep a metric."""
        self.metrics.append((name, value, step))

    def progress(self, done: float, total: float, unit: str = "") -> None:
        """Keep how far the step is."""
        self.progressed.append((done, total, unit))
