"""A context that keeps what a step tells, in a project folder of its own."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest


@dataclass
class Told:
    project: Path
    workdir: Path
    seed: int = 0
    cores: float | None = 1
    outputs: tuple[str, ...] = ()
    lines: list[str] = field(default_factory=list)
    metrics: list[tuple[str, float, int | None]] = field(default_factory=list)
    progressed: list[tuple[float, float, str]] = field(default_factory=list)

    def log(self, message: str) -> None:
        self.lines.append(message)

    def metric(self, name: str, value: float, step: int | None = None) -> None:
        self.metrics.append((name, value, step))

    def progress(self, done: float, total: float, unit: str = "") -> None:
        self.progressed.append((done, total, unit))


@pytest.fixture
def context(tmp_path: Path) -> Told:
    (tmp_path / "project").mkdir()
    (tmp_path / "work").mkdir()
    return Told(project=tmp_path / "project", workdir=tmp_path / "work")
