"""The Objects contract, over local folders and over fsspec."""

from __future__ import annotations

import os
import stat
import uuid
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from modelyard.contracts import Objects
from modelyard.store.remote import build_parts
from modelyard.store.store import Store
from modelyard.testing.objects import ObjectsConformance


def flip_bit(path: Path) -> None:
    path.chmod(stat.S_IRUSR | stat.S_IWUSR)
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))


class TestLocalObjects(ObjectsConformance):
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.folder = tmp_path / "not" / "yet"

    def new_objects(self) -> Objects:
        return Store.open(f"file://{self.folder}").objects

    def flip(self, objects: Objects, digest: str) -> None:
        flip_bit(self.folder / "objects" / digest[:2] / digest[2:])


class TestObjectsOfAGroup(TestLocalObjects):
    """Small objects that share files."""

    @pytest.fixture
    def objects(self) -> Iterator[Objects]:
        store = Store.open(f"file://{self.folder}")
        with store.group():
            yield store.objects


class TestObjectsInMemory(ObjectsConformance):
    def new_objects(self) -> Objects:
        self.name = uuid.uuid4().hex
        return Store.open(f"memory://{self.name}").objects

    def flip(self, objects: Objects, digest: str) -> None:
        system = fsspec.filesystem("memory")
        key = f"/{self.name}/objects/{digest[:2]}/{digest[2:]}"
        data = bytearray(system.cat_file(key))
        data[len(data) // 2] ^= 1
        system.pipe_file(key, bytes(data))

    def test_a_bit_that_flips_between_two_fetches_is_noticed(self, objects: Objects) -> None:
        # A fetched object is in the local cache, which is what can change under a reader.
        data = os.urandom(300_000)
        digest = objects.put(data)
        flip_bit(objects.fetch(digest))
        assert objects.fetch(digest).read_bytes() == data


class TestObjectsBehindFsspec(TestObjectsInMemory):
    """A local folder, reached through fsspec's general interface."""

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.folder = tmp_path

    def new_objects(self) -> Objects:
        return build_parts(fsspec.filesystem("file"), str(self.folder / "store"), self.folder / "cache").objects

    def flip(self, objects: Objects, digest: str) -> None:
        flip_bit(self.folder / "store" / "objects" / digest[:2] / digest[2:])
