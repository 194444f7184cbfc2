from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.issuer import Issuer

from modelyard.serving.logs import Log


@dataclass
class Written:
    """A log, and what stands in it."""

    log: Log
    path: Path

    @property
    def text(self) -> str:
        return self.path.read_text()

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text.splitlines()]


@pytest.fixture
def written(tmp_path):
    path = tmp_path / "log"
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    yield Written(Log("debug", descriptor), path)
    os.close(descriptor)


@pytest.fixture
def issuer():
    found = Issuer()
    yield found
    found.close()
