"""Small objects and names of a group share files, and each still stands for itself."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import fsspec
import pytest

from modelyard.errors import IntegrityError, StorageError
from modelyard.store.gc import collect
from modelyard.store.guard import Gate, TempArea
from modelyard.store.parcel import MAGIC, NAME, OBJECT, PARCEL_BYTES, SMALL_ENTRY, Parcels, find
from modelyard.store.remote import build_parts
from modelyard.store.store import Store
from modelyard.store.verify import verify


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(f"file://{tmp_path}/store")


def fill(store: Store, count: int, size: int = 300) -> dict[str, tuple[str, bytes]]:
    """Put objects with a name each, in one group; return digest and bytes by name."""
    kept = {}
    with store.group():
        for number in range(count):
            data = os.urandom(size)
            kept[f"cache/{number}"] = (store.objects.put(data), data)
            store.names.set(f"cache/{number}", kept[f"cache/{number}"][0])
    return kept


def object_path(store: Store, digest: str) -> Path:
    return Path(store.url.removeprefix("file://"), "objects", digest[:2], digest[2:])


def change(path: Path, old: bytes, new: bytes) -> None:
    """Change the file itself, and so for all that are linked to it."""
    path.chmod(0o644)
    data = path.read_bytes()
    assert old in data
    with path.open("r+b") as file:
        file.write(data.replace(old, new))


def test_what_is_written_in_a_group_shares_few_files(store: Store, tmp_path: Path) -> None:
    kept = fill(store, 200)
    files = [path for path in (tmp_path / "store").rglob("*") if path.is_file() and "tmp" not in path.parts[-3:]]
    assert len(files) >= 400
    inodes = {path.stat().st_ino: path.stat().st_size for path in files}
    assert len(inodes) < 20
    assert max(inodes.values()) <= PARCEL_BYTES
    other = Store.open(store.url)
    assert dict(other.names.list()) == {name: digest for name, (digest, _) in kept.items()}
    assert all(other.objects.get(digest) == data for digest, data in kept.values())
    assert {size for _, size in other.objects.list()} == {300}
    assert list(verify(other)) == []


def test_outside_of_a_group_and_beyond_four_kilobytes_a_file_is_an_object(store: Store) -> None:
    outside = store.objects.put(b"outside")
    with store.group():
        large = store.objects.put(b"x" * (SMALL_ENTRY + 1))
    assert object_path(store, outside).read_bytes() == b"outside"
    assert object_path(store, large).read_bytes() == b"x" * (SMALL_ENTRY + 1)


def test_a_name_that_is_set_again_points_elsewhere_at_once(store: Store) -> None:
    first, second = store.objects.put(b"1"), store.objects.put(b"2")
    with store.group():
        for digest in (first, second, first, second):
            store.names.set("cache/a", digest)
            assert Store.open(store.url).names.get("cache/a") == digest
    store.names.set("cache/a", first)
    assert Store.open(store.url).names.get("cache/a") == first
    with store.group():
        for digest in (first, second):
            store.names.delete("cache/a")
            store.names.set("cache/a", digest)
            assert Store.open(store.url).names.get("cache/a") == digest


def test_an_object_that_is_fetched_gets_a_file_of_its_own(store: Store) -> None:
    (digest, data), *_ = fill(store, 3).values()
    assert store.objects.fetch(digest).read_bytes() == data
    assert store.objects.get(digest) == data
    assert list(verify(store)) == []


def test_an_object_may_look_like_a_parcel_or_like_an_entry_for_another(store: Store) -> None:
    victim = store.objects.put(b"victim")
    with store.group():
        store.names.set("cache/first", victim)
    real = next(Path(store.url.removeprefix("file://"), "names/cache").iterdir()).read_bytes()
    forged = real[len(MAGIC) :].replace(b"cache/first", b"cache/other").replace(victim.encode(), b"0" * 64)
    with store.group():
        looks = [store.objects.put(data) for data in (real, MAGIC, forged, MAGIC + forged)]
        store.names.set("cache/other", victim)
    assert [store.objects.get(digest) for digest in looks] == [real, MAGIC, forged, MAGIC + forged]
    assert store.objects.get(store.objects.put(real + b"outside")) == real + b"outside"
    assert store.names.get("cache/other") == victim
    assert list(verify(store)) == []


def test_damage_is_noticed_where_it_is_and_mended_by_putting_again(store: Store) -> None:
    kept = fill(store, 20)
    digest, data = kept["cache/7"]
    change(object_path(store, digest), data, data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(IntegrityError, match=digest):
        store.objects.get(digest)
    with pytest.raises(IntegrityError, match=digest):
        store.objects.check(digest)
    (damage,) = verify(store)
    assert (damage.digest, damage.kind, damage.names) == (digest, "changed", ("cache/7",))
    with pytest.raises(IntegrityError, match=digest):
        collect(store, dry_run=False, grace=-1)
    assert all(store.objects.get(other) == data for other, data in kept.values() if other != digest)
    with store.group():
        assert store.objects.put(data) == digest
    assert list(verify(Store.open(store.url))) == []


def test_what_a_power_cut_took_from_the_end_counts_as_never_written(store: Store) -> None:
    kept = fill(store, 10)
    digest, _ = kept["cache/6"]
    path = object_path(store, digest)
    place = path.read_bytes().index(digest.encode())
    path.chmod(0o644)
    os.truncate(path, place)
    names = Store.open(store.url).names
    assert [name for name in kept if names.get(name) is not None] == [f"cache/{number}" for number in range(6)]
    lost = {digest for name, (digest, _) in kept.items() if name not in dict(names.list())}
    assert {damage.digest for damage in verify(store)} == lost
    for name, (digest, data) in kept.items():
        assert store.objects.put(data) == digest
        store.names.set(name, digest)
    assert list(verify(store)) == []


def test_collection_takes_single_entries(store: Store) -> None:
    kept = fill(store, 30)
    for number in range(0, 30, 2):
        store.names.delete(f"cache/{number}")
    collected = collect(store, dry_run=False, grace=-1)
    assert set(collected.objects) == {kept[f"cache/{number}"][0] for number in range(0, 30, 2)}
    assert collected.bytes == 15 * 300
    assert all(store.objects.get(kept[f"cache/{number}"][0]) for number in range(1, 30, 2))
    assert list(verify(store)) == []


def test_a_copy_without_links_and_a_copy_behind_fsspec_are_whole(store: Store, tmp_path: Path) -> None:
    kept = fill(store, 30)
    with store.group():
        value = store.save({"a": 1})
        store.names.set("runs/1", store.objects.put(b'{"materializer":"json","digest":"%s"}' % value.digest.encode()))
    shutil.copytree(tmp_path / "store", tmp_path / "copy")
    assert not any(path.stat().st_nlink > 1 for path in (tmp_path / "copy" / "objects").rglob("*") if path.is_file())
    copy = Store.open(f"file://{tmp_path}/copy")
    remote = Store("test://", build_parts(fsspec.filesystem("file"), str(tmp_path / "copy"), tmp_path / "cache"))
    for other in (remote, copy):
        assert {name: other.names.get(name) for name in kept} == {name: digest for name, (digest, _) in kept.items()}
        assert dict(other.names.list("cache/")) == {name: digest for name, (digest, _) in kept.items()}
        assert all(other.objects.get(digest) == data for digest, data in kept.values())
        assert list(verify(other)) == []
        assert collect(other, dry_run=True, grace=-1).objects == (), "what a record in a parcel leads to is live"
        assert other.load(value) == {"a": 1}
    assert all(remote.objects.fetch(digest).read_bytes() == data for digest, data in kept.values())


def test_a_forked_child_begins_a_parcel_of_its_own(tmp_path: Path) -> None:
    script = (
        "import os, sys\n"
        "from modelyard.store.store import Store\n"
        "store = Store.open(sys.argv[1])\n"
        "with store.group():\n"
        "    digests = [store.objects.put(b'parent 1')]\n"
        "    child = os.fork()\n"
        "    if not child:\n"
        "        store.objects.put(b'child')\n"
        "        os._exit(0)\n"
        "    os.waitpid(child, 0)\n"
        "    store.objects.put(b'parent 2')\n"
    )
    url = f"file://{tmp_path}/store"
    subprocess.run([sys.executable, "-c", script, url], check=True)
    store = Store.open(url)
    inodes = {store.objects.get(digest): object_path(store, digest).stat().st_ino for digest, _ in store.objects.list()}
    assert inodes.keys() == {b"parent 1", b"parent 2", b"child"}
    assert inodes[b"parent 1"] == inodes[b"parent 2"] != inodes[b"child"]


def parcels_in(folder: Path) -> Parcels:
    return Parcels(TempArea(folder / "tmp", Gate(folder / "lock")))


def test_where_links_are_refused_files_are_made(tmp_path: Path) -> None:
    parcels, asked = parcels_in(tmp_path), []

    def refuse(_source: str, path: str) -> None:
        asked.append(path)
        raise OSError(errno.EPERM, "no hard links here")

    for number in range(3):
        assert not parcels.keep(OBJECT, "0" * 64, b"data", str(tmp_path / str(number)), refuse)
    assert asked == [str(tmp_path / "0")], "it is not tried again"
    assert not [path for path in (tmp_path / "tmp").rglob("*") if path.is_file()]


def test_an_entry_is_found_by_its_kind_and_key(tmp_path: Path) -> None:
    parcels = parcels_in(tmp_path)
    assert parcels.keep(OBJECT, "key", b"object", str(tmp_path / "a"), os.link)
    assert parcels.keep(NAME, "key", b"name", str(tmp_path / "b"), os.link)
    assert parcels.keep(OBJECT, "empty", b"", str(tmp_path / "c"), os.link)
    parcel = (tmp_path / "c").read_bytes()
    assert (find(parcel, OBJECT, "key"), find(parcel, NAME, "key")) == (b"object", b"name")
    assert find(parcel, OBJECT, "empty") == b""
    assert find(parcel, NAME, "empty") is find(b"", OBJECT, "key") is find(parcel[1:], OBJECT, "key") is None


def test_a_disk_that_is_full_is_told_and_loses_nothing(tmp_path: Path) -> None:
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "none", str(tmp_path)], check=False)
    if done.returncode:
        pytest.skip("mounting is refused here")
    try:
        store = Store.open(f"file://{tmp_path}/store")
        kept: list[str] = []
        with store.group(), pytest.raises(StorageError, match="disk is full"):
            kept.extend(store.objects.put(os.urandom(900)) for _ in range(1000))
        assert len(kept) > 20
        assert all(store.objects.get(digest) for digest in kept)
        assert list(verify(store)) == []
    finally:
        subprocess.run(["umount", "-l", str(tmp_path)], check=True)
