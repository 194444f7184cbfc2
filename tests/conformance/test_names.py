"""The Names contract, over local folders and over fsspec, and over a space."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from modelyard.contracts import Names
from modelyard.store.remote import build_parts
from modelyard.store.spaces import Space, Visitor
from modelyard.store.store import Store
from modelyard.testing.names import NamesConformance


class TestLocalNames(NamesConformance):
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.folder = tmp_path

    def new_names(self) -> Names:
        return Store.open(f"file://{self.folder}").names

    def reopened(self, names: Names) -> Names:
        return Store.open(f"file://{self.folder}").names


class TestNamesOfAGroup(TestLocalNames):
    """Names that share files."""

    @pytest.fixture
    def names(self) -> Iterator[Names]:
        store = Store.open(f"file://{self.folder}")
        with store.group():
            yield store.names


class TestNamesInMemory(NamesConformance):
    def new_names(self) -> Names:
        self.url = f"memory://{uuid.uuid4().hex}"
        return Store.open(self.url).names

    def reopened(self, names: Names) -> Names:
        return Store.open(self.url).names


class TestNamesBehindFsspec(NamesConformance):
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.folder = tmp_path

    def new_names(self) -> Names:
        return build_parts(fsspec.filesystem("file"), str(self.folder / "store"), self.folder / "cache").names


class TestNamesOfASpace(NamesConformance):
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.folder = tmp_path

    def new_names(self) -> Names:
        names = Store.open(f"file://{self.folder}").names
        Space(names, "private/bob", Visitor("bob")).set("a", "ab" * 32)
        return Space(names, "private/ann", Visitor("ann"))
