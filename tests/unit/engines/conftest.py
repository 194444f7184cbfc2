"""Desks over each executor, and a place for single calls."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.unit.engines.desk import STEPS, Desk

from modelyard.engines.executors import open_executor
from modelyard.store.store import Store
from modelyard.testing.executor import Workplace


@pytest.fixture(params=["inline", "processes"])
def desk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Desk]:
    """The same desk over each executor."""
    yield from _desk(tmp_path, request.param)


@pytest.fixture
def inline_desk(tmp_path: Path) -> Iterator[Desk]:
    yield from _desk(tmp_path, "inline")


@pytest.fixture
def process_desk(tmp_path: Path) -> Iterator[Desk]:
    yield from _desk(tmp_path, "processes")


def _desk(folder: Path, name: str) -> Iterator[Desk]:
    (folder / "project").mkdir()
    (folder / "project" / "work.py").write_text(STEPS)
    store = Store.open(f"file://{folder}/store")
    with open_executor(name, workers=2, store=store) as executor:
        yield Desk(folder, executor, store)


@pytest.fixture
def place(tmp_path: Path) -> Workplace:
    return Workplace(tmp_path)
