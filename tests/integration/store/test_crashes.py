"""Real processes that are killed, real disks that are full or read-only."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from modelyard.data import Dataset
from modelyard.errors import ModelyardError, StorageError
from modelyard.records import Artifact
from modelyard.store.gc import collect
from modelyard.store.store import Store
from modelyard.store.verify import verify

_ADDER = """
import os, sys
from pathlib import Path
from modelyard.store.store import Store
root, source, seed = sys.argv[1:]
store = Store.open(f"file://{root}")
folder = Path(source)
number = 0
while True:
    number += 1
    (folder / "small").write_bytes(os.urandom(3000))
    (folder / "large").write_bytes(os.urandom(400_000))
    if number % 3 == 0:
        digest = store.save({"number": number, "seed": seed, "text": "x" * 6000}).digest
    elif number % 3 == 1:
        digest = store.add(folder)
    else:
        digest = store.add(folder / "large")
    store.names.set(f"runs/{seed}-{number}", digest)
    print(digest, f"runs/{seed}-{number}", flush=True)
"""

_GROUPER = """
import os, sys
from modelyard.store.store import Store
store = Store.open(f"file://{sys.argv[1]}")
with store.group():
    for number in range(100_000):
        digest = store.objects.put(os.urandom(200 + number % 700))
        store.names.set(f"cache/{sys.argv[2]}-{number}", digest)
        print(digest, f"cache/{sys.argv[2]}-{number}", flush=True)
"""

_PUTTER = """
import sys
from pathlib import Path
from modelyard.store.store import Store
root, source = sys.argv[1:]
store = Store.open(f"file://{root}")
sys.stdin.read()
for _ in range(10):
    print(store.add(Path(source)), store.objects.put_file(Path(source, "large")), store.save(list(range(5000))).digest)
"""


def start(script: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_what_was_said_to_be_added_survives_kill_9(tmp_path: Path) -> None:
    store = Store.open(f"file://{tmp_path}/store")
    said: list[tuple[str, str]] = []
    for seed in range(8):
        source = tmp_path / f"source{seed}"
        source.mkdir()
        process = start(_ADDER, tmp_path / "store", source, seed)
        assert process.stdout is not None
        # Two words, as the script prints.
        said.append(tuple(process.stdout.readline().split()))  # type: ignore[arg-type]
        time.sleep(random.Random(seed).uniform(0.0, 0.15))
        process.send_signal(signal.SIGKILL)
        with process:
            assert process.stderr is not None
            # Not by `communicate`, which passes over what `readline` has read ahead.
            rest, errors = process.stdout.read(), process.stderr.read()
        assert process.returncode == -signal.SIGKILL, errors
        # Two words, as the filter says.
        said += [tuple(line.split()) for line in rest.splitlines() if len(line.split()) == 2]  # type: ignore[misc]
    assert len(said) > 8
    assert list(verify(store)) == []
    for digest, name in said:
        assert store.names.get(name) == digest
        assert store.objects.exists(digest)
    leftovers = list((tmp_path / "store" / "tmp").iterdir())
    collect(store, dry_run=False)
    assert len(leftovers) >= 8
    assert all(not path.exists() for path in leftovers if "-" + str(os.getpid()) + "-" not in path.name)
    assert list(verify(store)) == []


def test_what_was_said_to_be_in_a_group_survives_kill_9(tmp_path: Path) -> None:
    store = Store.open(f"file://{tmp_path}/store")
    said: list[list[str]] = []
    for seed in range(8):
        process = start(_GROUPER, tmp_path / "store", seed)
        assert process.stdout is not None
        wanted = random.Random(seed).randrange(1, 200)
        said += [process.stdout.readline().split() for _ in range(wanted)]
        process.send_signal(signal.SIGKILL)
        said += [line.split() for line in process.stdout.read().splitlines()]
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    assert list(verify(store)) == []
    collect(store, dry_run=False, grace=-1)
    assert list(verify(store)) == []
    assert all(store.names.get(name) == digest and store.objects.get(digest) for digest, name in said)
    assert len({path.stat().st_ino for path in (tmp_path / "store/objects").rglob("*") if path.is_file()}) < len(said)


def test_many_processes_may_put_the_same_things_at_once(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for number in range(200):
        (source / str(number)).write_bytes(os.urandom(3000))
    (source / "large").write_bytes(os.urandom(2_000_000))
    processes = [start(_PUTTER, tmp_path / "store", source) for _ in range(4)]
    outputs = []
    for process in processes:
        assert process.stdin is not None
        process.stdin.close()
        process.stdin = None
    for process in processes:
        output, errors = process.communicate()
        assert process.returncode == 0, errors
        outputs += output.splitlines()
    assert len(outputs) == 40
    assert len(set(outputs)) == 1
    store = Store.open(f"file://{tmp_path}/store")
    assert list(verify(store)) == []
    assert collect(store, dry_run=True, grace=-1).bytes < 2_000_000 + 200 * 3000 + 200_000


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of four megabytes."""
    yield from mounted(tmp_path / "disk", ["-t", "tmpfs", "-o", "size=4m", "none"])


def mounted(target: Path, arguments: list[str]) -> Iterator[Path]:
    target.mkdir(exist_ok=True)
    done = subprocess.run(["mount", *arguments, str(target)], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"mounting is refused here: {done.stderr.strip()}")
    try:
        yield target
    finally:
        subprocess.run(["umount", "-l", str(target)], check=True)


def test_a_full_disk_is_told_and_leaves_nothing_half_written(small_disk: Path, tmp_path: Path) -> None:
    store = Store.open(f"file://{small_disk}/store")
    source = tmp_path / "source"
    source.mkdir()
    kept = []
    attempts = {
        "put": lambda: store.objects.put(os.urandom(300_000)),
        "put_file": lambda: store.add(source / "large"),
        "add": lambda: store.add(source),
        "save array": lambda: store.save(np.random.default_rng().random(60_000)).digest,
        "save tensors": lambda: store.save({"w": np.random.default_rng().random(60_000)}).digest,
        "save table": lambda: store.save(pa.table({"x": np.random.default_rng().random(60_000)})).digest,
        "save text": lambda: store.save(Dataset({"x": np.array([os.urandom(20).hex()] * 10_000)})).digest,
        "save folder": lambda: store.save(source).digest,
    }
    refused = []
    for number in range(80):
        (source / "large").write_bytes(os.urandom(200_000))
        for count in range(30):
            (source / str(count)).write_bytes(os.urandom(3000))
        how = list(attempts)[number % len(attempts)]
        try:
            digest = attempts[how]()
            store.names.set(f"kept/{number}", digest)
            kept.append(digest)
        except StorageError as error:
            refused.append((how, error))
    assert {how for how, _ in refused} == set(attempts)
    for how, error in refused:
        assert "disk is full" in str(error), how
        assert str(small_disk) in str(error), how
    assert len(kept) >= 3
    assert list(verify(store)) == []
    assert all(store.objects.exists(digest) for digest in kept)
    assert not [path for path in (small_disk / "store" / "tmp").rglob("*") if path.is_file()]
    for name, _ in list(store.names.list("kept/")):
        store.names.delete(name)
    collect(store, dry_run=False, grace=-1)
    assert store.objects.get(store.objects.put(b"x" * 2_000_000)), "there is room again"


def test_a_large_file_that_does_not_fit_is_refused_before_it_is_copied(small_disk: Path, tmp_path: Path) -> None:
    store = Store.open(f"file://{small_disk}/store")
    (tmp_path / "large").write_bytes(os.urandom(40_000_000))
    with pytest.raises(StorageError, match="disk is full") as caught:
        store.add(tmp_path / "large")
    assert str(small_disk) in str(caught.value)
    assert list(store.objects.list()) == []
    assert not [path for path in (small_disk / "store" / "tmp").rglob("*") if path.is_file()]


def test_a_checkout_onto_a_full_disk_leaves_nothing(small_disk: Path, tmp_path: Path) -> None:
    store = Store.open(f"file://{tmp_path}/store")
    source = tmp_path / "source"
    source.mkdir()
    (source / "large").write_bytes(os.urandom(6_000_000))
    (source / "small").write_bytes(b"small")
    digest = store.add(source)
    with pytest.raises(StorageError, match="disk is full"):
        store.checkout(digest, small_disk / "target")
    assert list(small_disk.iterdir()) == []


def test_a_read_only_store_can_be_read_and_says_that_it_can_not_be_written(tmp_path: Path) -> None:
    writable = Store.open(f"file://{tmp_path}/store")
    value, large = writable.save(np.arange(3)), writable.save(np.arange(100_000))
    writable.names.set("runs/1", value.digest)
    (tmp_path / "store" / "cache" / "trees" / value.digest / "known").unlink()
    for frozen in mounted(tmp_path / "frozen", ["-o", "bind,ro", str(tmp_path / "store")]):
        check_frozen(Store.open(f"file://{frozen}"), value, large, tmp_path / "target")


def check_frozen(store: Store, value: Artifact, large: Artifact, target: Path) -> None:
    assert store.names.get("runs/1") == value.digest
    assert np.array_equal(store.load(value), [0, 1, 2])
    assert np.array_equal(store.load(large), np.arange(100_000))
    store.checkout(large.digest, target)
    assert store.add(target) == large.digest, "what is there need not be written"
    assert list(verify(store)) == []
    assert large.digest in collect(store, dry_run=True, grace=-1).objects
    (target / "new").write_bytes(b"new")
    writes: list[Callable[[], object]] = [
        lambda: store.objects.put(b"new"),
        lambda: store.save({"b": 2}),
        lambda: store.add(target),
        lambda: store.names.set("runs/2", value.digest),
        lambda: store.names.delete("runs/1"),
        lambda: store.objects.delete(value.digest),
        lambda: collect(store, dry_run=False, grace=-1),
    ]
    for write in writes:
        with pytest.raises(StorageError, match="read-only") as caught:
            write()
        assert store.url.removeprefix("file://") in str(caught.value)


def test_a_store_without_permission_is_told(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else")
    (tmp_path / "store").mkdir()
    script = (
        "import os, sys; os.setgid(65534); os.setuid(65534)\n"
        "from modelyard.errors import StorageError\n"
        "try:\n"
        "    store.objects.put(b'x')\n"
        "except StorageError as error:\n"
        "    print(error)\n"
    )
    setup = f"from modelyard.store.store import Store\nstore = Store.open('file://{tmp_path}/store')\n"
    done = subprocess.run([sys.executable, "-c", setup + script], capture_output=True, text=True, check=True)
    assert "Permission denied" in done.stdout
    assert str(tmp_path / "store") in done.stdout


def test_a_damaged_lock_or_index_does_no_harm(tmp_path: Path) -> None:
    store = Store.open(f"file://{tmp_path}/store")
    artifact = store.save(np.arange(100_000))
    time.sleep(0.1)
    store.load(artifact)
    for path in (tmp_path / "store" / "cache").rglob("*"):
        if path.is_file() and not path.is_symlink():
            path.chmod(0o644)
            path.write_bytes(b"garbage")
    (tmp_path / "store" / "lock").write_bytes(b"garbage")
    try:
        assert np.array_equal(Store.open(store.url).load(artifact), np.arange(100_000))
    except ModelyardError as error:  # pragma: no cover
        pytest.fail(str(error))
