"""A context in a project folder of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelyard.testing.context import RecordedContext


@pytest.fixture
def context(tmp_path: Path) -> RecordedContext:
    (tmp_path / "project").mkdir()
    (tmp_path / "work").mkdir()
    return RecordedContext(project=tmp_path / "project", workdir=tmp_path / "work")
