"""The Bus contract, over the two implementations that come with Modelyard."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelyard.contracts import Bus
from modelyard.releases import FileBus, MemoryBus
from modelyard.testing.bus import BusConformance


class TestFileBus(BusConformance):
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.folder = tmp_path / "not" / "yet"

    def new_bus(self) -> Bus:
        return FileBus(self.folder)

    def reopened(self, bus: Bus) -> Bus:
        return FileBus(self.folder)


class TestMemoryBus(BusConformance):
    def new_bus(self) -> Bus:
        return MemoryBus()
