"""Parcels: small objects and names that are written in quick succession share a file, and each is a hard link to it.

Making a file costs more than all else that a quick step does; a link to a file that is there costs a fraction. So a
parcel is one file to which entries are appended, and the paths of the objects and names in it are links to that file.
The folders stay the index: an entry is found by its path, listed by its path, and removed by removing its path; the
file's room is free again when the last link is gone. An entry is whole before its link appears.

A parcel begins with `MAGIC`; then entry follows entry: check sum (8 bytes of BLAKE3 over the rest), kind (1 byte),
length of the key (2 bytes, little-endian), length of the data (4 bytes), key, data.
"""

from __future__ import annotations

import contextlib
import errno
import os
import struct
import threading
from collections.abc import Callable
from typing import Final

from modelyard.files import blake3_bytes, storage_error, write_all
from modelyard.store.guard import TempArea

__all__ = ["MAGIC", "NAME", "OBJECT", "PARCEL_BYTES", "SMALL_ENTRY", "Parcels", "find"]

MAGIC: Final = b"modelyard-parcel/1\n"
OBJECT: Final = b"o"
NAME: Final = b"n"

SMALL_ENTRY = 4 << 10
"""Bytes; larger objects are files of their own, for which making the file is not what counts."""

PARCEL_BYTES = 16 << 10
"""A parcel that has grown to this takes no more: whoever reads an entry reads the parcel up to there."""

_PASSING = (errno.ENOSPC, errno.EDQUOT, errno.EMLINK, errno.EIO)
_CHECK = 8
_HEADER = struct.Struct("<cHI")


def find(parcel: bytes, kind: bytes, key: str) -> bytes | None:
    """Return an entry of a parcel, the last of that key; None where it holds no such entry whole.

    Args:
        parcel: All bytes of the file; those of another file hold no entry.
        kind: `OBJECT` or `NAME`.
        key: The object's digest, or the name's path.
    """
    if not parcel.startswith(MAGIC):
        return None
    wanted, start, end = key.encode(), len(MAGIC), len(parcel)
    last: bytes | None = None
    while start + _CHECK + _HEADER.size <= end:
        found, key_size, data_size = _HEADER.unpack_from(parcel, start + _CHECK)
        place = start + _CHECK + _HEADER.size
        following = place + key_size + data_size
        if following > end:
            break
        if found == kind and parcel[place : place + key_size] == wanted:
            entry = parcel[start + _CHECK : following]
            if _sum(entry) == parcel[start : start + _CHECK]:
                last = parcel[place + key_size : following]
        start = following
    return last


class Parcels:
    """Writes parcels, one after another; each belongs to this object alone.

    Args:
        temp: Where a parcel lies while it grows.
    """

    def __init__(self, temp: TempArea) -> None:
        self._temp = temp
        self._mutex = threading.Lock()
        self._path = ""
        self._descriptor: int | None = None
        self._size = 0
        self._owner = 0
        self._able = True

    def __del__(self) -> None:
        self.close()

    def keep(
        self, kind: bytes, key: str, data: bytes | memoryview, path: str, place: Callable[[str, str], None]
    ) -> bool:
        """Append an entry and link its path to the parcel; False where it has to be a file of its own.

        That is so where something lies at the path, and where the file system has no hard links.

        Args:
            kind: `OBJECT` or `NAME`.
            key: The object's digest, or the name's path.
            data: The bytes.
            path: Where the entry is looked for.
            place: Links the second path to the file at the first, and makes the folder where it is missing.

        Raises:
            StorageError: The disk is full or can't be written; nothing lies at the path.
        """
        if not self._able:
            return False
        name = key.encode()
        entry = _HEADER.pack(kind, len(name), len(data)) + name + data
        with self._mutex:
            try:
                self._append(_sum(entry) + entry)
            except OSError as error:
                # What was written in part must not stand before further entries.
                self._end()
                raise storage_error(path, error) from error
            try:
                place(self._path, path)
            except FileExistsError:
                return False
            except OSError as error:
                # Whatever it is, a file of its own works or tells; some file systems have no hard links at all.
                self._able = error.errno in _PASSING
                self._end()
                return False
        return True

    def close(self) -> None:
        """Let the next entry begin a new parcel."""
        with self._mutex:
            self._end()

    def _append(self, entry: bytes) -> None:
        if self._descriptor is not None and self._owner != os.getpid():
            # A forked child has the parent's file open, and would write into the middle of its entries.
            os.close(self._descriptor)
            self._descriptor = None
        if self._size + len(entry) > PARCEL_BYTES:
            self._end()
        write_all(self._begin() if self._descriptor is None else self._descriptor, entry)
        self._size += len(entry)

    def _begin(self) -> int:
        self._path = self._temp.file()
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC
        self._descriptor = os.open(self._path, flags, 0o444)
        self._owner = os.getpid()
        self._size = len(MAGIC)
        write_all(self._descriptor, MAGIC)
        return self._descriptor

    def _end(self) -> None:
        if self._descriptor is None:
            return
        os.close(self._descriptor)
        self._descriptor = None
        self._size = 0
        if self._owner == os.getpid():
            with contextlib.suppress(OSError):
                os.unlink(self._path)


def _sum(entry: bytes) -> bytes:
    return bytes.fromhex(blake3_bytes(entry)[: 2 * _CHECK])
