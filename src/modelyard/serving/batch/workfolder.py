"""The hidden folder beside the output in which finished parts wait, and what says whether they may be used again."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec

from modelyard import __version__
from modelyard.errors import BusyError
from modelyard.files import blake3_file, storage_errors, write_atomically
from modelyard.serving.batch.spec import BatchSpec, Format

__all__ = ["Manifest", "WorkFolder", "manifest_of", "part_file"]

_MANIFEST = "manifest.json"
_LOCK = "lock"


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What parts were made of. Parts of another manifest are of no use.

    Args:
        version: Of Modelyard.
        package: Digest of the package.
        size: Bytes of the input.
        modified: When the input was changed last, in nanoseconds since 1970; told, and not compared.
        digest: BLAKE3 of the input.
        batch_rows: Rows of a part.
        columns: Kept ones.
        target: Format of the output.
    """

    version: str
    package: str
    size: int
    modified: int
    digest: str
    batch_rows: int
    columns: tuple[str, ...]
    target: Format

    def difference(self, other: Manifest) -> str:
        """Return what a person needs to know of the first difference; empty where there is none."""
        for names, what in (
            (("size", "digest"), "the input has changed"),
            (("package",), "the model has changed"),
            (("batch_rows", "columns", "target"), "the settings have changed"),
            (("version",), "Modelyard has changed"),
        ):
            if any(getattr(self, name) != getattr(other, name) for name in names):
                return what
        return ""


def manifest_of(spec: BatchSpec, rows: int, columns: tuple[str, ...], target: Format) -> Manifest:
    """Return the manifest of a batch prediction; reads the whole input once."""
    with storage_errors(spec.input):
        status = spec.input.stat()
    return Manifest(
        version=__version__,
        package=spec.digest,
        size=status.st_size,
        modified=status.st_mtime_ns,
        digest=blake3_file(spec.input),
        batch_rows=rows,
        columns=columns,
        target=target,
    )


def part_file(folder: Path, number: int) -> Path:
    """Return where a part lies."""
    return folder / f"part-{number:08d}"


class WorkFolder:
    """Where the parts of one output lie.

    Args:
        output: The file that they will make.
    """

    def __init__(self, output: Path) -> None:
        self.path = output.with_name(f".{output.name}.parts")

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Make the folder and hold it; the kernel lets it go when the process ends, however it ends.

        Raises:
            BusyError: Another process predicts into the same output.
        """
        with storage_errors(self.path):
            self.path.mkdir(exist_ok=True)
            descriptor = os.open(self.path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise BusyError(
                    "Another process predicts into this file.", where=str(self.path), remedy="Let it end first."
                ) from error
            yield
        finally:
            os.close(descriptor)

    def finished(self, manifest: Manifest) -> tuple[frozenset[int], str]:
        """Return the parts that may be used again, and why older ones may not (else an empty text)."""
        found = self._numbers()
        try:
            kept = msgspec.json.decode((self.path / _MANIFEST).read_bytes(), type=Manifest)
        except FileNotFoundError:
            return frozenset(), ""
        except (OSError, msgspec.DecodeError, UnicodeDecodeError):
            return frozenset(), "the manifest of the parts is damaged"
        why = kept.difference(manifest)
        return (frozenset(), why if found else "") if why else (found, "")

    def begin(self, manifest: Manifest, finished: frozenset[int]) -> None:
        """Remove everything but finished parts, and say what the next ones will be made of."""
        with storage_errors(self.path):
            if not finished:
                # Parts without a manifest are never used: so no kill can leave old ones under the new manifest.
                (self.path / _MANIFEST).unlink(missing_ok=True)
            for entry in self.path.iterdir():
                number = _number(entry.name)
                if entry.name not in (_LOCK, _MANIFEST) and (number is None or number not in finished):
                    shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        write_atomically(self.path / _MANIFEST, msgspec.json.encode(manifest) + b"\n")

    def remove(self) -> None:
        """Remove the folder with all in it."""
        shutil.rmtree(self.path, ignore_errors=True)

    def _numbers(self) -> frozenset[int]:
        if not self.path.is_dir():
            return frozenset()
        return frozenset(number for entry in self.path.iterdir() if (number := _number(entry.name)) is not None)


def _number(name: str) -> int | None:
    return int(name[5:]) if name.startswith("part-") and name[5:].isdigit() else None
