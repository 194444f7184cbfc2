"""A large file's way into the store: the digest is that of the copy, whatever happens to the source meanwhile."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from blake3 import blake3

from modelyard.errors import StorageError
from modelyard.store.intake import PART_BYTES, copy_and_hash
from modelyard.store.store import Store

LARGE = 2 * PART_BYTES


@pytest.mark.parametrize("size", [0, 1, PART_BYTES, LARGE - 1, LARGE, LARGE + 1, 3 * PART_BYTES + 4097])
def test_a_file_is_copied_and_hashed_also_onto_another_file_system(tmp_path: Path, size: int) -> None:
    source = tmp_path / "source"
    source.write_bytes(os.urandom(size))
    expected = blake3(source.read_bytes()).hexdigest()
    for target in (tmp_path / "target", Path(f"/dev/shm/{tmp_path.name}-target")):
        try:
            assert copy_and_hash(source, target) == expected
            assert target.read_bytes() == source.read_bytes()
            assert target.stat().st_mode & 0o777 == 0o444
            # No more blocks stay reserved than the file fills.
            assert target.stat().st_blocks * 512 <= size + (1 << 20)
        finally:
            target.unlink(missing_ok=True)


def test_the_digest_is_the_copys_while_the_source_is_cut_and_grows(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(os.urandom(LARGE + 12_345))
    over = threading.Event()

    def disturb() -> None:
        with source.open("r+b") as file:
            while not over.is_set():
                file.truncate(PART_BYTES + 777)
                file.truncate(LARGE + 54_321)

    thread = threading.Thread(target=disturb)
    thread.start()
    try:
        for number in range(30):
            target = tmp_path / str(number)
            digest = copy_and_hash(source, target)
            assert blake3(target.read_bytes()).hexdigest() == digest
            assert target.stat().st_blocks * 512 <= target.stat().st_size + (1 << 20)
            target.unlink()
    finally:
        over.set()
        thread.join()


def test_a_copy_does_not_overwrite_and_leaves_no_thread(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(os.urandom(LARGE))
    target.write_bytes(b"mine")
    before = threading.active_count()
    with pytest.raises(StorageError):
        copy_and_hash(source, target)
    assert target.read_bytes() == b"mine"
    target.unlink()
    copy_and_hash(source, target)
    assert threading.active_count() == before


def test_a_large_file_that_is_in_the_store_already_is_kept_once(tmp_path: Path) -> None:
    store = Store.open(f"file://{tmp_path}/store")
    for name in ("one", "two"):
        (tmp_path / name).write_bytes(b"0123456789abcdef" * (LARGE // 16))
    assert store.add(tmp_path / "one") == store.add(tmp_path / "two")
    assert len(list(store.objects.list())) == 1
