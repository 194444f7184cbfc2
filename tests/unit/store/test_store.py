"""Values, reads that verify, and what opening costs."""

from __future__ import annotations

import json
import mmap
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelyard.data import Dataset
from modelyard.errors import InputError, IntegrityError, NotFoundError, RefusedError, SettingsError
from modelyard.records import Artifact
from modelyard.store.intake import PART_BYTES
from modelyard.store.spaces import Space, Visitor
from modelyard.store.store import Store


@pytest.fixture(params=["file", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return Store.open(f"{request.param}://{tmp_path}/store")


@pytest.fixture
def local(tmp_path: Path) -> Store:
    return Store.open(f"file://{tmp_path}/store")


def flip_bit(path: Path) -> None:
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    with path.open("r+b") as file:
        file.write(data)


def mapped(array: Any) -> bool:
    while isinstance(array, np.ndarray):
        array = array.base
    return isinstance(array, mmap.mmap)


def test_values_come_back_and_say_what_they_are(store: Store, tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "a.txt").write_text("a")
    values: dict[str, Any] = {
        "json": {"a": [1, 2.5, None]},
        "array": np.arange(100_000, dtype=np.float64),
        "safetensors": {"w": np.ones((3, 3), np.float32)},
        "folder": tmp_path / "made",
        "dataset": Dataset({"x": np.arange(3), "t": np.array(["a", "b", "a"])}, "t", ("a", "b")),
    }
    for name, value in values.items():
        artifact = store.save(value)
        assert artifact.materializer == name
        assert artifact.size == store.manifest(artifact.digest).size > 0
        assert artifact == store.save(value)
        loaded = store.load(artifact)
        assert store.save(loaded).digest == artifact.digest


def test_equal_values_have_equal_digests_in_every_store(tmp_path: Path) -> None:
    value = Dataset({"x": np.arange(90_000), "t": np.array(["a", "b", "c"] * 30_000)}, "t")
    digests = {Store.open(f"{scheme}://{tmp_path}/s").save(value).digest for scheme in ("file", "memory")}
    assert len(digests) == 1


def test_numbers_are_memory_mapped_and_read_only(store: Store) -> None:
    loaded = store.load(store.save(np.arange(200_000)))
    assert mapped(loaded)
    with pytest.raises(ValueError, match="read-only"):
        loaded[0] = 1
    columns = store.load(store.save(Dataset({"x": np.arange(200_000), "y": np.arange(200_000)}))).columns
    assert all(mapped(values) for values in columns.values())


def test_data_sets_share_the_columns_they_have_in_common(local: Store) -> None:
    shared = np.random.default_rng(0).random(200_000)
    local.save(Dataset({"a": shared, "b": np.zeros(200_000)}))
    before = sum(size for _, size in local.objects.list())
    local.save(Dataset({"b": np.ones(200_000), "a": shared}))
    assert sum(size for _, size in local.objects.list()) - before < 1.1 * shared.nbytes


@pytest.mark.parametrize("value", [object(), {1, 2}, b"bytes", {"a": object()}, lambda: None, np.array([object()])])
def test_a_value_that_no_materializer_accepts_is_refused_by_type(store: Store, value: Any) -> None:
    with pytest.raises(InputError, match=type(value).__name__) as caught:
        store.save(value)
    assert "json, dataset, array" in str(caught.value)
    assert list(store.objects.list()) == []


def test_a_named_materializer_is_the_only_one_asked(store: Store) -> None:
    with pytest.raises(InputError, match="ndarray"):
        store.save(np.zeros(3), materializer="json")
    with pytest.raises(InputError, match="no materializer 'none'"):
        store.load(Artifact("0" * 64, "none"))


def test_a_library_brings_its_own_materializer(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = tmp_path / "site"
    (site / "shapes_1-1.0.dist-info").mkdir(parents=True)
    (site / "shapes_1-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: shapes-1\nVersion: 1.0\n")
    (site / "shapes_1-1.0.dist-info" / "entry_points.txt").write_text(
        "[modelyard.materializers]\ncircle = shapes_of_a_test:CircleMaterializer\n"
    )
    (site / "shapes_of_a_test.py").write_text(
        "class Circle:\n"
        "    def __init__(self, radius): self.radius = radius\n"
        "class CircleMaterializer:\n"
        "    name = 'circle'\n"
        "    def accepts(self, value): return isinstance(value, Circle)\n"
        "    def save(self, value, folder):\n"
        "        (folder / 'radius').write_text(str(value.radius))\n"
        "        return {'radius': value.radius}\n"
        "    def load(self, folder): return Circle(float((folder / 'radius').read_text()))\n"
    )
    monkeypatch.syspath_prepend(str(site))
    import shapes_of_a_test  # type: ignore[import-not-found]  # the test writes it

    artifact = store.save(shapes_of_a_test.Circle(2.5))
    assert (artifact.materializer, artifact.summary) == ("circle", {"radius": 2.5})
    assert store.load(artifact).radius == 2.5


def test_a_fetched_tree_keeps_its_path_and_is_shared(local: Store) -> None:
    artifact = local.save(np.arange(100_000))
    path = local.fetch_tree(artifact.digest)
    assert path == local.fetch_tree(artifact.digest) == Store.open(local.url).fetch_tree(artifact.digest)
    assert all(file.stat().st_mode & 0o222 == 0 for file in path.rglob("*") if file.is_file())


@pytest.mark.parametrize("size", [1000, 100_000], ids=["small", "large"])
def test_a_bit_flipped_under_a_fetched_tree_is_noticed_on_the_next_read(local: Store, size: int) -> None:
    value = np.arange(size, dtype=np.float64)
    artifact = local.save(value)
    path = local.fetch_tree(artifact.digest) / "array.npy"
    assert np.array_equal(local.load(artifact), value)
    flip_bit(path.resolve())
    if size == 1000:
        # The flipped file was a copy: it is built again from the objects, which are sound.
        assert np.array_equal(local.load(artifact), value)
    else:
        with pytest.raises(IntegrityError, match="have changed"):
            local.load(artifact)


def test_a_file_removed_from_a_fetched_tree_is_put_back(local: Store) -> None:
    artifact = local.save(np.arange(3))
    (local.fetch_tree(artifact.digest) / "array.npy").unlink()
    assert np.array_equal(local.load(artifact), [0, 1, 2])


@pytest.mark.parametrize("value", [{"a": 1}, "x" * 10_000, list(range(100_000))], ids=["inline", "bundle", "object"])
def test_a_plain_value_passes_through_memory_and_is_the_tree_that_its_file_would_be(
    local: Store, tmp_path: Path, value: object
) -> None:
    artifact = local.save(value)
    assert not (tmp_path / "store" / "cache").exists()
    assert local.load(artifact) == value
    local.checkout(artifact.digest, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["value.json"]
    assert local.add(tmp_path / "out") == artifact.digest
    flip_bit(tmp_path / "store" / "objects" / artifact.digest[:2] / artifact.digest[2:])
    with pytest.raises(IntegrityError):
        local.load(artifact)


@pytest.mark.parametrize("size", [300_000, 2 * PART_BYTES + 7])
def test_a_checkout_verifies_what_it_copies_and_remembers_what_was_right(
    local: Store, tmp_path: Path, size: int
) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "large").write_bytes(os.urandom(size))
    tree = local.add(tmp_path / "root")
    time.sleep(0.1)
    (entry,) = local.manifest(tree).large
    path = tmp_path / "store" / "objects" / entry.digest[:2] / entry.digest[2:]
    assert local.index.known(str(path)) is None
    local.checkout(tree, tmp_path / "out")
    assert (tmp_path / "out" / "large").read_bytes() == (tmp_path / "root" / "large").read_bytes()
    assert (tmp_path / "out" / "large").stat().st_mode & 0o200
    known = local.index.known(str(path))
    assert known is not None
    assert known.digest == entry.digest
    flip_bit(path)
    with pytest.raises(IntegrityError, match=entry.digest):
        local.checkout(tree, tmp_path / "again")
    assert sorted(found.name for found in tmp_path.iterdir()) == ["out", "root", "store"]


def test_a_value_whose_objects_are_gone_is_not_found(local: Store) -> None:
    artifact, plain = local.save(np.arange(3)), local.save({"a": 1})
    for kind in ("json", "array"):
        with pytest.raises(NotFoundError):
            local.load(Artifact("0" * 64, kind))
    local.objects.delete(artifact.digest)
    local.objects.delete(plain.digest)
    assert np.array_equal(local.load(artifact), [0, 1, 2]), "the cached copy is still good"
    with pytest.raises(NotFoundError):
        local.load(plain)


def test_a_changed_file_is_verified_once_and_an_unchanged_one_not_again(local: Store, tmp_path: Path) -> None:
    digest = local.objects.put(os.urandom(50_000_000))
    time.sleep(0.1)
    durations = []
    for _ in range(3):
        start = time.perf_counter()
        local.objects.fetch(digest)
        durations.append(time.perf_counter() - start)
    assert min(durations[1:]) < durations[0] / 4


@pytest.mark.parametrize("url", ["", "relative/path", "file://relative/path", "/absolute", "file:"])
def test_a_url_that_names_no_place_is_refused(url: str) -> None:
    with pytest.raises(SettingsError):
        Store.open(url)


def test_an_unknown_scheme_is_refused_by_name() -> None:
    with pytest.raises(SettingsError, match="gopher"):
        Store.open("gopher://somewhere")


def test_a_path_with_odd_letters_is_a_place(tmp_path: Path) -> None:
    folder = tmp_path / "größe #1?%"
    store = Store.open(folder.as_uri())
    store.objects.put(b"x")
    assert (folder / "objects").is_dir()


def test_opening_makes_nothing_and_loads_no_heavy_library(tmp_path: Path) -> None:
    script = (
        "import json, sys, time\n"
        "from modelyard.store.store import Store\n"
        "start = time.perf_counter()\n"
        f"store = Store.open('file://{tmp_path}/store')\n"
        "spent = time.perf_counter() - start\n"
        "store.save({'a': 1})\n"
        "heavy = sorted({'fsspec', 'numpy', 'pyarrow', 'pandas', 'sklearn', 'onnx'} & set(sys.modules))\n"
        "print(json.dumps([spent, heavy]))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    spent, heavy = json.loads(done.stdout)
    assert spent < 0.005
    assert heavy == []
    Store.open(f"file://{tmp_path}/other")
    assert not (tmp_path / "other").exists()


def test_numbers_are_saved_and_loaded_without_arrow(tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "import numpy as np\n"
        "from modelyard.data import Dataset\n"
        "from modelyard.store.store import Store\n"
        f"store = Store.open('file://{tmp_path}/store')\n"
        "kept = store.save(Dataset({'x': np.arange(3.0), 'y': np.arange(3)}, 'y'))\n"
        "assert store.load(kept).columns['x'].tolist() == [0.0, 1.0, 2.0]\n"
        "print('pyarrow' in sys.modules)\n"
        "store.load(store.save(Dataset({'x': np.array(['a', 'b'])}, None)))\n"
        "print('pyarrow' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]


def test_a_group_is_visible_at_once(local: Store) -> None:
    with local.group():
        digest = local.objects.put(b"x")
        local.names.set("a", digest)
        assert Store.open(local.url).names.get("a") == digest
    assert local.names.get("a") == digest


def test_spaces_let_in_whom_their_rule_names(local: Store) -> None:
    ann, bob = Visitor("ann", frozenset({"data-scientist"}), frozenset({"digits"})), Visitor("bob")
    boss = Visitor("boss", frozenset({"manager"}))
    allowed = {
        "private/ann": {ann},
        "private/bob": {bob},
        "project/digits": {ann, boss},
        "staging": {boss},
    }
    for path, visitors in allowed.items():
        for visitor in (ann, bob, boss):
            if visitor in visitors:
                space = Space(local.names, path, visitor)
                space.set("x", "ab" * 32)
                assert list(space.list()) == [("x", "ab" * 32)]
            else:
                with pytest.raises(RefusedError, match=path):
                    Space(local.names, path, visitor)
    assert {name for name, _ in local.names.list()} == {f"spaces/{path}/x" for path in allowed}


@pytest.mark.parametrize("path", ["", "private", "private/", "private/ann/x", "public", "staging/x", "project/"])
def test_there_are_no_other_spaces(local: Store, path: str) -> None:
    with pytest.raises(InputError, match="no space"):
        Space(local.names, path, Visitor("ann"))


@pytest.mark.parametrize("quiet", [-1, 1 << 60], ids=["file by file", "together"])
def test_a_sync_takes_all_that_is_pending_however_busy_the_machine_is(
    local: Store, monkeypatch: pytest.MonkeyPatch, quiet: int
) -> None:
    monkeypatch.setattr("modelyard.store.guard.QUIET_BYTES", quiet)
    with local.group():
        for number in range(20):
            local.names.set(f"some/folder{number}/name", local.objects.put(b"%d" % number))
        local.objects.delete(local.objects.put(b"removed before the sync"))
        assert local._pending._objects
        assert local._pending._names
    assert not local._pending._objects
    assert not local._pending._names
    assert len(list(local.names.list("some/"))) == 20
