"""What is known of files by their stat alone: digests of unchanged files, objects already verified."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

import msgspec

from modelyard.files import blake3_bytes

__all__ = ["SETTLED_NS", "Known", "Stamp", "StatIndex", "stamp_of"]

SETTLED_NS = 50_000_000
"""A file is remembered only when it was left alone this long before: two writes within one clock tick look the same."""

_CHECK = 8


class Stamp(msgspec.Struct, frozen=True, array_like=True):
    """What stat says of a file; whoever writes to the file changes it.

    Args:
        size: Bytes.
        inode: Number of the file in its file system.
        mtime: Nanoseconds of the last write.
        ctime: Nanoseconds of the last change, which no program can set back.
    """

    size: int
    inode: int
    mtime: int
    ctime: int

    def settled(self, now: int) -> bool:
        """Say whether a write at `now` (nanoseconds) or later would give another stamp."""
        return max(self.mtime, self.ctime) + SETTLED_NS < now


class Known(msgspec.Struct, frozen=True, array_like=True):
    """A file's stamp, and the digest its content had under that stamp."""

    stamp: Stamp
    digest: str


def stamp_of(stat: os.stat_result) -> Stamp:
    """Return the stamp of a stat result."""
    return Stamp(stat.st_size, stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns)


class StatIndex:
    """Small derived facts by key, one file each; all of it can be deleted at any time.

    Writes are renamed into place and not synced: a fact that a power cut damages fails its check sum and is unknown.

    Args:
        folder: Where the files lie; made when the first fact is kept.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = str(folder)

    def recall(self, key: str) -> bytes | None:
        """Return what was remembered under a key, or None."""
        try:
            with open(self._path(key), "rb") as file:
                data = file.read()
        except OSError:
            return None
        body = data[_CHECK:]
        return body if _check(body) == data[:_CHECK] else None

    def remember(self, key: str, value: bytes) -> None:
        """Keep a fact; where the folder can't be written the fact is dropped, for it only saves time."""
        path = self._path(key)
        temp = f"{path}.{os.getpid()}.{os.urandom(4).hex()}"
        with contextlib.suppress(OSError):
            try:
                self._write(temp, _check(value) + value)
                os.replace(temp, path)
            except OSError:
                with contextlib.suppress(OSError):
                    os.unlink(temp)
                raise

    def forget(self, older_than: float) -> None:
        """Drop every fact that was last written before `older_than`, in seconds since 1970."""
        for path in Path(self._folder).glob("*/*"):
            with contextlib.suppress(OSError):
                if path.stat().st_mtime < older_than:
                    path.unlink()

    def known(self, key: str) -> Known | None:
        """Return the stamp and digest remembered under a key, or None."""
        data = self.recall(key)
        try:
            return msgspec.msgpack.decode(data, type=Known) if data else None
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None

    def know(self, key: str, stamp: Stamp, digest: str) -> None:
        """Remember a file's digest, unless it was changed so lately that a further change could hide."""
        if stamp.settled(time.time_ns()):
            self.remember(key, msgspec.msgpack.encode(Known(stamp, digest)))

    def _path(self, key: str) -> str:
        name = blake3_bytes(key.encode("utf-8", "surrogateescape"))[:40]
        return f"{self._folder}/{name[:2]}/{name[2:]}"

    def _write(self, temp: str, data: bytes) -> None:
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC
        try:
            descriptor = os.open(temp, flags, 0o666)
        except FileNotFoundError:
            os.makedirs(os.path.dirname(temp), exist_ok=True)
            descriptor = os.open(temp, flags, 0o666)
        try:
            os.write(descriptor, data)
        finally:
            os.close(descriptor)


def _check(body: bytes) -> bytes:
    return bytes.fromhex(blake3_bytes(body)[: 2 * _CHECK])
