"""Trees: what their digest depends on, and what comes back."""

from __future__ import annotations

import os
import random
import stat
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelyard.errors import InputError, IntegrityError, NotFoundError
from modelyard.files import blake3_file, canonical_json
from modelyard.store.store import Store
from modelyard.store.tree import BUNDLE_BYTES, FORMAT, INLINE_BYTES, SMALL_BYTES, Entry, Manifest


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(f"file://{tmp_path}/store")


def write(root: Path, files: dict[str, bytes]) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def read(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def many(count: int, seed: int = 0) -> dict[str, bytes]:
    rng = random.Random(seed)
    return {f"d{number % 7}/f{number:05d}": rng.randbytes(rng.randint(1024, 8192)) for number in range(count)}


names = st.text(st.characters(blacklist_characters="/\0", blacklist_categories=["Cs"]), min_size=1, max_size=20).filter(
    lambda name: name not in (".", "..") and len(name.encode()) < 200
)
contents = st.one_of(st.binary(max_size=200), st.integers(0, 300_000).map(lambda size: b"x" * size))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(files=st.dictionaries(names, contents, max_size=12), nested=st.dictionaries(names, contents, max_size=3))
def test_any_folder_comes_back_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes], nested: dict[str, bytes]
) -> None:
    base = tmp_path_factory.mktemp("tree")
    store = Store.open(f"file://{base}/store")
    source = write(base / "source", files)
    write(source / "nested in \\ here", nested)
    digest = store.add(source)
    store.checkout(digest, base / "target")
    assert read(base / "target") == read(source)
    assert read(store.fetch_tree(digest)) == read(source)
    assert store.add(base / "target") == digest
    assert store.manifest(digest).size == sum(map(len, read(source).values()))


def test_the_digest_depends_on_content_alone(tmp_path: Path) -> None:
    files = many(300) | {"large": b"L" * 500_000}
    first = Store.open(f"file://{tmp_path}/one")
    second = Store.open(f"file://{tmp_path}/two")
    second.add(write(tmp_path / "other", {"unrelated": b"x" * 5000}))
    one = write(tmp_path / "a", files)
    two = write(tmp_path / "b", dict(reversed(files.items())))
    os.utime(two / "large", (1, 1))
    assert first.add(one) == second.add(two)


@pytest.mark.parametrize("change", ["content", "name", "executable", "empty folder", "one more"])
def test_any_change_gives_another_digest(store: Store, tmp_path: Path, change: str) -> None:
    root = write(tmp_path / "root", {"a": b"1", "b/c": b"2"})
    before = store.add(root)
    if change == "content":
        (root / "a").write_bytes(b"3")
    elif change == "name":
        (root / "a").rename(root / "A")
    elif change == "executable":
        (root / "a").chmod(0o755)
    elif change == "empty folder":
        (root / "empty").mkdir()
    else:
        (root / "b" / "d").write_bytes(b"")
    assert store.add(root) != before


def test_links_between_folder_and_content_do_not_matter_but_the_content_does(store: Store, tmp_path: Path) -> None:
    plain = write(tmp_path / "plain", {"a": b"1", "b": b"1"})
    linked = write(tmp_path / "linked", {"a": b"1"})
    (linked / "b").symlink_to("a")
    assert store.add(plain) == store.add(linked)


@pytest.mark.parametrize("kind", ["dangling", "folder", "pipe", "not utf-8"])
def test_what_can_not_be_kept_is_refused_by_name(store: Store, tmp_path: Path, kind: str) -> None:
    root = write(tmp_path / "root", {"a": b"1"})
    if kind == "dangling":
        (root / "odd").symlink_to("nowhere")
    elif kind == "folder":
        (root / "odd").symlink_to(tmp_path)
    elif kind == "pipe":
        os.mkfifo(root / "odd")
    else:
        Path(os.fsdecode(os.fsencode(root) + b"/odd\xff")).write_bytes(b"")
    with pytest.raises(InputError) as caught:
        store.add(root)
    assert "odd" in str(caught.value.where)


def test_executable_files_and_empty_folders_come_back(store: Store, tmp_path: Path) -> None:
    root = write(tmp_path / "root", {"run": b"#!/bin/sh\n", "big": b"b" * 300_000, "a/b/c": b""})
    for name in ("run", "big"):
        (root / name).chmod(0o755)
    (root / "empty" / "inner").mkdir(parents=True)
    digest = store.add(root)
    store.checkout(digest, tmp_path / "target")
    for folder in (tmp_path / "target", store.fetch_tree(digest)):
        assert os.access(folder / "run", os.X_OK)
        assert os.access(folder / "big", os.X_OK)
        assert not (folder / "a/b/c").stat().st_mode & stat.S_IXUSR
        assert list((folder / "empty").iterdir()) == [folder / "empty" / "inner"]


def test_small_files_share_bundles_and_a_change_touches_only_its_own(store: Store, tmp_path: Path) -> None:
    files = many(2000)
    first = store.manifest(store.add(write(tmp_path / "root", files)))
    assert len(first.bundles) < 40
    (tmp_path / "root" / "d3" / "f00500x").write_bytes(b"new" * 1000)
    second = store.manifest(store.add(tmp_path / "root"))
    fresh = {digest for digest, _ in second.bundles} - {digest for digest, _ in first.bundles}
    assert 1 <= len(fresh) <= 2


def test_bundles_stay_near_their_size(store: Store, tmp_path: Path) -> None:
    manifest = store.manifest(store.add(write(tmp_path / "root", many(2000))))
    sizes = dict(store.objects.list())
    bundles = [sizes[digest] for digest, _ in manifest.bundles]
    assert max(bundles) <= 8 * BUNDLE_BYTES + SMALL_BYTES
    assert sum(bundles) == manifest.size


def test_a_tiny_tree_is_one_object(store: Store, tmp_path: Path) -> None:
    store.add(write(tmp_path / "root", {"a": b"x" * (INLINE_BYTES - 1), "b": b"y"}))
    assert len(list(store.objects.list())) == 1


@pytest.mark.parametrize("size", [SMALL_BYTES, SMALL_BYTES + 1])
def test_a_large_file_is_an_object_of_its_own(store: Store, tmp_path: Path, size: int) -> None:
    root = write(tmp_path / "root", {"a": b"x" * size, "b": b"y" * 5000})
    store.add(root)
    assert store.objects.exists(blake3_file(root / "a")) == (size > SMALL_BYTES)


def test_an_unchanged_folder_is_not_read_again(store: Store, tmp_path: Path) -> None:
    root = write(tmp_path / "root", many(50))
    time.sleep(0.1)
    digest = store.add(root)
    victim = next(path for path in root.rglob("*") if path.is_file())
    victim.chmod(0)
    before = victim.stat()
    assert store.add(root) == digest or os.geteuid() == 0
    victim.chmod(0o644)
    assert victim.stat().st_size == before.st_size
    assert store.add(root) == digest


def test_a_change_that_keeps_size_and_time_is_still_seen(store: Store, tmp_path: Path) -> None:
    root = write(tmp_path / "root", {"a": b"before", "b": b"b" * 200_000})
    time.sleep(0.1)
    digest, alone = store.add(root), store.add(root / "b")
    times = (root / "a").stat()
    (root / "a").write_bytes(b"AFTER!")
    os.utime(root / "a", ns=(times.st_atime_ns, times.st_mtime_ns))
    (root / "b").write_bytes(b"B" * 200_000)
    os.utime(root / "b", ns=(times.st_atime_ns, times.st_mtime_ns))
    assert store.add(root) != digest
    assert store.add(root / "b") != alone


def test_two_writes_within_one_clock_tick_are_told_apart(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "file"
    for number in range(200):
        path.write_bytes(b"%03d" % number)
        assert store.objects.get(store.add(path)) == b"%03d" % number


def test_a_folder_whose_objects_were_deleted_is_added_again(store: Store, tmp_path: Path) -> None:
    root = write(tmp_path / "root", many(20) | {"large": b"x" * 300_000})
    time.sleep(0.1)
    digest = store.add(root)
    for name, _ in list(store.objects.list()):
        store.objects.delete(name)
    assert store.add(root) == digest
    store.checkout(digest, tmp_path / "target")
    assert read(tmp_path / "target") == read(root)


def test_a_checkout_appears_whole_or_not_at_all(store: Store, tmp_path: Path) -> None:
    digest = store.add(write(tmp_path / "root", many(20) | {"z": b"x" * 300_000}))
    lost = next(entry.digest for entry in store.manifest(digest).large)
    store.objects.delete(lost)
    with pytest.raises(NotFoundError, match=lost):
        store.checkout(digest, tmp_path / "target")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["root", "store"]


def test_a_checkout_does_not_overwrite(store: Store, tmp_path: Path) -> None:
    root = write(tmp_path / "root", {"a": b"1"})
    digest = store.add(root)
    for taken in (root, root / "a"):
        with pytest.raises(InputError, match="already"):
            store.checkout(digest, taken)
    (tmp_path / "empty").mkdir()
    store.checkout(digest, tmp_path / "empty")
    assert read(tmp_path / "empty") == {"a": b"1"}


def test_checked_out_files_can_be_changed_without_harm(store: Store, tmp_path: Path) -> None:
    digest = store.add(write(tmp_path / "root", {"a": b"1", "large": b"x" * 300_000}))
    store.checkout(digest, tmp_path / "target")
    for name in ("a", "large"):
        with (tmp_path / "target" / name).open("r+b") as file:
            file.write(b"changed")
    store.checkout(digest, tmp_path / "again")
    assert read(tmp_path / "again") == read(tmp_path / "root")


@pytest.mark.parametrize("path", ["../evil", "/etc/evil", "a/../../evil", "a//b", "", ".", "a\0b"])
def test_a_manifest_can_not_write_outside_its_folder(store: Store, tmp_path: Path, path: str) -> None:
    digest = store.objects.put(b"")
    forged = store.objects.put(Manifest(format=FORMAT, entries=(Entry(path, 0, False, digest),)).encode())
    with pytest.raises(IntegrityError):
        store.checkout(forged, tmp_path / "target")
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("data", [b"", b"text", b"{}", b"[1]", b"\xff\xfe", canonical_json({"format": "other/9"})])
def test_an_object_that_is_no_tree_is_refused(store: Store, tmp_path: Path, data: bytes) -> None:
    with pytest.raises(InputError, match="not a tree"):
        store.checkout(store.objects.put(data), tmp_path / "target")


def test_what_does_not_exist_can_not_be_added(store: Store, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no such file"):
        store.add(tmp_path / "nothing")
