"""What every Materializer promises, as tests. Subclass `MaterializerConformance`, and give the hooks."""

from __future__ import annotations

import pickletools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from modelyard.contracts import Materializer
from modelyard.files import blake3_file
from modelyard.store.materializers import Packer

__all__ = ["MaterializerConformance"]


class MaterializerConformance:
    """Tests over one implementation; a class of yours derives from it, with the hooks below."""

    def new_materializer(self) -> Materializer:
        """Return the materializer."""
        raise NotImplementedError

    def values(self, folder: Path) -> Sequence[Any]:
        """Return values it accepts, made anew on each call but equal; `folder` is there for values that are files."""
        raise NotImplementedError

    def others(self) -> Sequence[Any]:
        """Return values it does not accept."""
        return (object(), lambda: None, {1, 2})

    def same(self, saved: Any, loaded: Any) -> bool:
        """Say whether a loaded value equals the one that was saved."""
        return bool(saved == loaded)

    @pytest.fixture
    def materializer(self) -> Materializer:
        """The materializer."""
        return self.new_materializer()

    def test_it_is_a_materializer_with_a_name(self, materializer: Materializer) -> None:
        assert isinstance(materializer, Materializer)
        assert materializer.name

    def test_it_accepts_its_values_and_no_others(self, materializer: Materializer, tmp_path: Path) -> None:
        assert all(materializer.accepts(value) for value in self.values(tmp_path))
        assert not any(materializer.accepts(value) for value in self.others())

    def test_a_saved_value_loads_as_it_was(self, materializer: Materializer, tmp_path: Path) -> None:
        for number, value in enumerate(self.values(tmp_path)):
            folder = tmp_path / f"saved{number}"
            folder.mkdir()
            materializer.save(value, folder)
            assert any(path.is_file() for path in folder.rglob("*"))
            assert self.same(value, materializer.load(folder)), repr(value)

    def test_the_summary_is_small_json(self, materializer: Materializer, tmp_path: Path) -> None:
        for number, value in enumerate(self.values(tmp_path)):
            folder = tmp_path / f"saved{number}"
            folder.mkdir()
            assert len(msgspec.json.encode(dict(materializer.save(value, folder)))) < 10_000

    def test_equal_values_give_equal_files(self, materializer: Materializer, tmp_path: Path) -> None:
        written = []
        for attempt in ("first", "second"):
            source = tmp_path / attempt
            source.mkdir()
            digests = []
            for number, value in enumerate(self.values(source)):
                folder = tmp_path / f"{attempt}{number}"
                folder.mkdir()
                materializer.save(value, folder)
                files = sorted(path for path in folder.rglob("*") if path.is_file())
                digests.append([(str(path.relative_to(folder)), blake3_file(path)) for path in files])
            written.append(digests)
        assert written[0] == written[1]

    def test_what_it_packs_in_memory_is_what_it_saves(self, materializer: Materializer, tmp_path: Path) -> None:
        if not isinstance(materializer, Packer):
            pytest.skip("It has no `pack`.")
        for number, value in enumerate(self.values(tmp_path)):
            folder = tmp_path / f"saved{number}"
            folder.mkdir()
            summary = materializer.save(value, folder)
            files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
            assert materializer.pack(value) == (files, summary)
            assert self.same(value, materializer.unpack(files)), repr(value)

    def test_nothing_is_pickled(self, materializer: Materializer, tmp_path: Path) -> None:
        for number, value in enumerate(self.values(tmp_path)):
            folder = tmp_path / f"saved{number}"
            folder.mkdir()
            materializer.save(value, folder)
            for path in (path for path in folder.rglob("*") if path.is_file()):
                assert not _is_pickle(path.read_bytes())


def _is_pickle(data: bytes) -> bool:
    # Protocol 2 and later; the older ones are text, and so is `1.5`, which reads as one of them.
    try:
        return data[:1] == b"\x80" and bool(list(pickletools.genops(data)))
    except Exception:  # what reading foreign bytes as opcodes raises depends on the bytes
        return False
