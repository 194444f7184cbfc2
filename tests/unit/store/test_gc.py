"""Collection removes what no name leads to, and nothing else; verification finds every damage."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest

from modelyard.errors import IntegrityError
from modelyard.records import Artifact, RunRecord, TaskRecord, TaskState
from modelyard.store.gc import collect
from modelyard.store.store import Store
from modelyard.store.verify import verify


@pytest.fixture(params=["file", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return Store.open(f"{request.param}://{tmp_path}/store")


@pytest.fixture
def local(tmp_path: Path) -> Store:
    return Store.open(f"file://{tmp_path}/store")


def record(store: Store, name: str, *outputs: Artifact, log: str | None = None) -> str:
    """A run with one task of these outputs, under a name."""
    by_number = {str(number): artifact for number, artifact in enumerate(outputs)}
    task = TaskRecord(task="step", kind="python", state=TaskState.SUCCEEDED, outputs=by_number, log=log)
    run = RunRecord(id=name, blueprint="b", blueprint_digest="", tasks={"step": task})
    digest = store.objects.put(msgspec.json.encode(run))
    store.names.set(name, digest)
    return digest


def folder(root: Path, count: int) -> Path:
    root.mkdir()
    for number in range(count):
        (root / str(number)).write_bytes(os.urandom(5000))
    (root / "large").write_bytes(os.urandom(300_000))
    return root


def flip_bit(path: Path) -> None:
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def where(store: Store, digest: str) -> Path:
    return Path(store.url.removeprefix("file://"), "objects", digest[:2], digest[2:])


def test_what_a_name_leads_to_stays_and_the_rest_goes(store: Store, tmp_path: Path) -> None:
    tree = store.add(folder(tmp_path / "kept", 500))
    value = store.save(np.arange(100_000))
    log = store.objects.put(b"a line")
    kept = record(store, "runs/1", value, Artifact(tree, "folder"), log=log)
    live = {digest for digest, _ in store.objects.list()}
    loose = {store.add(folder(tmp_path / "loose", 5)), store.objects.put(b"loose"), store.save("loose").digest}
    expected = {digest for digest, _ in store.objects.list()} - live

    asked = collect(store, dry_run=True, grace=-1)
    assert set(asked.objects) == expected > loose
    assert {digest for digest, _ in store.objects.list()} == live | expected

    done = collect(store, dry_run=False, grace=-1)
    assert done.objects == asked.objects
    assert done.bytes >= asked.bytes > 300_000
    assert done.kept == len(live)
    assert {digest for digest, _ in store.objects.list()} == live
    assert kept in live
    assert np.array_equal(store.load(value), np.arange(100_000))
    store.checkout(tree, tmp_path / "out")
    assert list(verify(store)) == []
    assert collect(store, dry_run=False, grace=-1).objects == ()


def test_a_deleted_name_frees_what_only_it_led_to(store: Store) -> None:
    shared, own = store.save("shared"), store.save("own")
    record(store, "runs/1", shared, own)
    record(store, "runs/2", shared)
    store.names.delete("runs/1")
    collect(store, dry_run=False, grace=-1)
    assert store.load(shared) == "shared"
    assert not store.objects.exists(own.digest)


def test_young_objects_stay(store: Store) -> None:
    digest = store.objects.put(b"young")
    result = collect(store, dry_run=False)
    assert (result.objects, result.young) == ((), 1)
    assert store.objects.exists(digest)


@pytest.mark.parametrize("how", ["put", "put_file", "add", "save"])
def test_putting_an_old_object_again_makes_it_young(local: Store, tmp_path: Path, how: str) -> None:
    path = folder(tmp_path / "data", 3)
    time.sleep(0.1)

    def keep() -> None:
        if how == "put":
            local.objects.put(b"data")
        elif how == "put_file":
            local.objects.put_file(path / "large")
        elif how == "add":
            local.add(path)
        else:
            local.save(np.arange(100_000))

    keep()
    for digest, _ in local.objects.list():
        os.utime(where(local, digest), (1, 1))
    keep()
    assert collect(local, dry_run=False).objects == ()
    for digest, _ in local.objects.list():
        os.utime(where(local, digest), (1, 1))
    assert len(collect(local, dry_run=False).objects) > 0


def test_a_run_that_puts_old_objects_while_others_collect_loses_nothing(local: Store) -> None:
    """Every object is made old and loose before it is put again: only the renewal keeps it."""
    stop = threading.Event()
    failures: list[BaseException] = []

    def collecting() -> None:
        other = Store.open(local.url)
        try:
            while not stop.is_set():
                collect(other, dry_run=False)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=collecting)
    thread.start()
    try:
        for number in range(300):
            data = b"data %d" % (number % 7)
            digest = local.objects.put(data)
            os.utime(where(local, digest), (1, 1))
            assert local.objects.put(data) == digest
            assert local.objects.get(digest) == data
    finally:
        stop.set()
        thread.join()
    assert failures == []


def test_leftovers_of_the_dead_are_swept_and_those_of_the_living_stay(local: Store, tmp_path: Path) -> None:
    mine = Path(local.temp.file())
    mine.write_bytes(b"in progress")
    dead = mine.parent.parent / "host-1-abc"
    dead.mkdir()
    (dead / "half").write_bytes(b"x" * 1000)
    assert collect(local, dry_run=False).bytes == 1000
    assert not dead.exists()
    assert mine.read_bytes() == b"in progress"


def test_cached_trees_that_nobody_needs_are_removed(local: Store) -> None:
    kept, loose = local.save("kept"), local.save("loose")
    record(local, "runs/1", kept)
    paths = [local.fetch_tree(artifact.digest) for artifact in (kept, loose)]
    collect(local, dry_run=False, grace=-1)
    assert [path.exists() for path in paths] == [True, False]


def test_nothing_is_collected_while_a_record_can_not_be_read(local: Store) -> None:
    digest = record(local, "runs/1", local.save("value"))
    before = {digest for digest, _ in local.objects.list()}
    flip_bit(where(local, digest))
    with pytest.raises(IntegrityError):
        collect(local, dry_run=False, grace=-1)
    assert {digest for digest, _ in local.objects.list()} == before


def test_a_name_without_its_object_is_told(store: Store) -> None:
    store.names.set("runs/1", "ab" * 32)
    assert collect(store, dry_run=True).missing == ("ab" * 32,)
    (damage,) = verify(store)
    assert (damage.digest, damage.kind, damage.names) == ("ab" * 32, "missing", ("runs/1",))


@pytest.mark.parametrize("part", ["record", "manifest", "bundle", "large", "log", "loose"])
@pytest.mark.parametrize("what", ["changed", "missing"])
def test_every_damage_is_found_and_says_what_it_concerns(local: Store, tmp_path: Path, part: str, what: str) -> None:
    tree = local.add(folder(tmp_path / "data", 5))
    manifest = local.manifest(tree)
    log, loose = local.objects.put(b"a log"), local.objects.put(b"loose")
    run = record(local, "runs/1", Artifact(tree, "folder"), log=log)
    record(local, "runs/2", local.save("other"))
    assert list(verify(local)) == []
    victim = {
        "record": run,
        "manifest": tree,
        "bundle": manifest.bundles[0][0],
        "large": manifest.large[0].digest,
        "log": log,
        "loose": loose,
    }[part]
    if what == "changed":
        flip_bit(where(local, victim))
    else:
        local.objects.delete(victim)
    found = list(verify(local))
    if (part, what) == ("loose", "missing"):
        assert found == []
        return
    (damage,) = found
    assert (damage.digest, damage.kind) == (victim, what)
    assert damage.names == (() if part == "loose" else ("runs/1",))
    assert victim in str(damage)


def test_a_changed_copy_in_the_cache_is_found_even_if_its_stat_says_nothing(local: Store) -> None:
    artifact = local.save({"a": 1})
    path = local.fetch_tree(artifact.digest) / "value.json"
    flip_bit(path)
    (damage,) = verify(local)
    assert (damage.digest, damage.kind) == (artifact.digest, "cache")
    assert list(verify(local)) == []
    assert local.load(artifact) == {"a": 1}
