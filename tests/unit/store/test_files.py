"""Durable files and digests."""

from __future__ import annotations

import errno
import hashlib
import subprocess
from pathlib import Path

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from modelyard.errors import StorageError
from modelyard.files import (
    blake3_bytes,
    blake3_file,
    canonical_json,
    clone_file,
    sha256_file,
    storage_errors,
    write_atomically,
)

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


def reordered(value: object) -> object:
    if isinstance(value, dict):
        return {key: reordered(item) for key, item in reversed(value.items())}
    return [reordered(item) for item in value] if isinstance(value, list) else value


@given(value=json_values)
def test_equal_values_have_one_canonical_text(value: object) -> None:
    assert canonical_json(value) == canonical_json(reordered(value))


def test_canonical_json_is_sorted_and_without_spaces() -> None:
    assert canonical_json({"b": [1, 2.5, None], "a": "größe"}) == '{"a":"größe","b":[1,2.5,null]}'.encode()


def test_a_written_file_replaces_the_old_one_and_makes_its_folder(tmp_path: Path) -> None:
    path = tmp_path / "not" / "yet" / "file"
    write_atomically(path, b"old")
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert [entry.name for entry in path.parent.iterdir()] == ["file"]


def test_a_file_that_can_not_be_written_leaves_the_old_one_and_nothing_beside_it(tmp_path: Path) -> None:
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(tmp_path)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"mounting is refused here: {done.stderr.strip()}")
    try:
        path = tmp_path / "file"
        write_atomically(path, b"old")
        with pytest.raises(StorageError, match="disk is full") as caught:
            write_atomically(path, b"x" * 1_000_000)
        assert str(path) in str(caught.value)
        assert caught.value.remedy
        assert path.read_bytes() == b"old"
        assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
    finally:
        subprocess.run(["umount", "-l", str(tmp_path)], check=True)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EIO, errno.EXDEV])
def test_an_error_of_the_operating_system_is_told_with_place_and_remedy(number: int) -> None:
    with pytest.raises(StorageError) as caught, storage_errors("/some/place"):
        raise OSError(number, "in its own words")
    assert caught.value.where == "/some/place"
    assert caught.value.what
    assert caught.value.remedy


@pytest.mark.parametrize("size", [0, 1, 1000, 5_000_000])
def test_digests_of_files_are_those_of_their_bytes(tmp_path: Path, size: int) -> None:
    data = bytes(range(256)) * (size // 256 + 1)
    (tmp_path / "file").write_bytes(data[:size])
    assert blake3_file(tmp_path / "file") == blake3_bytes(data[:size]) == blake3(data[:size]).hexdigest()
    assert sha256_file(tmp_path / "file") == hashlib.sha256(data[:size]).hexdigest()


@pytest.mark.parametrize("size", [0, 1, 9_000_000])
def test_a_clone_has_the_bytes_also_on_another_file_system(tmp_path: Path, size: int) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"abc" * (size // 3))
    targets = [tmp_path / "target", Path(f"/dev/shm/{tmp_path.name}-target")]
    for target in targets:
        try:
            clone_file(source, target, 0o644)
            assert target.read_bytes() == source.read_bytes()
        finally:
            target.unlink(missing_ok=True)


def test_a_clone_does_not_overwrite(tmp_path: Path) -> None:
    for name in ("source", "target"):
        (tmp_path / name).write_text(name)
    with pytest.raises(StorageError):
        clone_file(tmp_path / "source", tmp_path / "target", 0o644)
    assert (tmp_path / "target").read_text() == "target"
