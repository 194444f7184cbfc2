"""Files that appear whole or not at all, digests, and the one translation of OSError into StorageError."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
from blake3 import blake3

from modelyard.errors import StorageError

__all__ = [
    "blake3_bytes",
    "blake3_file",
    "canonical_json",
    "clone_file",
    "copy_part",
    "durable_rename",
    "sha256_file",
    "share_blocks",
    "storage_error",
    "storage_errors",
    "sync_folder",
    "temporary_beside",
    "write_all",
    "write_atomically",
]

_REMEDIES = {
    errno.ENOSPC: ("The disk is full.", "Free some space (`modelyard gc` may help) and try again."),
    errno.EDQUOT: ("The disk quota is used up.", "Free some space (`modelyard gc` may help) and try again."),
    errno.EROFS: ("The file system is read-only.", "Mount it writable, or name another folder in the settings."),
    errno.EACCES: ("Permission denied.", "Give your user the right to it, or name another folder in the settings."),
    errno.EPERM: ("Operation not permitted.", "Give your user the right to it, or name another folder."),
    errno.EMFILE: ("Too many open files.", "Raise the limit with `ulimit -n`."),
    errno.ENOENT: ("No such file or folder.", "See whether something else removed it."),
    errno.EIO: ("The disk reports an input/output error.", "Check the disk, then run `modelyard verify`."),
}

_FICLONE = 0x40049409
_COPY_CHUNK = 256 << 20
_BY_HAND = 8 << 20

_counter = itertools.count()


def storage_error(path: Path | str, error: OSError) -> StorageError:
    """Return the StorageError that tells a user what an OSError on a path means and what to do about it."""
    what, remedy = _REMEDIES.get(error.errno or 0, (f"{error.strerror or error}.", "See whether the path is usable."))
    return StorageError(what, where=str(path), remedy=remedy)


@contextlib.contextmanager
def storage_errors(path: Path | str) -> Iterator[None]:
    """Turn an OSError of the block into a StorageError that names the path."""
    try:
        yield
    except OSError as error:
        raise storage_error(path, error) from error


def sync_folder(folder: Path | str) -> None:
    """Make the names in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def temporary_beside(path: Path) -> Path:
    """Return an unused name in the same folder, for what is later renamed to `path`."""
    return path.with_name(f".{path.name}.{os.getpid()}.{next(_counter)}.{os.urandom(4).hex()}.tmp")


def durable_rename(temp: Path, target: Path) -> None:
    """Rename within one file system so that the new name survives a power cut; the content is synced already.

    Raises:
        StorageError: The target's folder can't be written.
    """
    with storage_errors(target):
        temp.replace(target)
        sync_folder(target.parent)


def write_atomically(path: Path, data: bytes, mode: int = 0o666) -> None:
    """Write a file so that a reader sees the old bytes or the new ones, and never a part.

    Missing parent folders are made. When the call returns, the bytes survive a power cut.

    Args:
        path: The file.
        data: All of its bytes.
        mode: Its permissions from the first byte on, less the umask.

    Raises:
        StorageError: A full disk, a read-only folder; the old file is untouched and nothing is left beside it.
    """
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temp = temporary_beside(path)
        try:
            descriptor = os.open(temp, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, mode)
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(descriptor)
            temp.replace(path)
        except BaseException:
            temp.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def clone_file(source: Path, target: Path, mode: int) -> None:
    """Copy a file to a path that does not exist: by reference where the file system can, else inside the kernel.

    Raises:
        StorageError: The target can't be written; nothing is left there.
    """
    with storage_errors(source), source.open("rb", buffering=0) as reader, storage_errors(target):
        descriptor = os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, mode)
        try:
            if not share_blocks(reader.fileno(), descriptor):
                while copy_part(reader.fileno(), descriptor, _COPY_CHUNK):
                    pass
        except BaseException:
            target.unlink(missing_ok=True)
            raise
        finally:
            os.close(descriptor)


def share_blocks(source: int, target: int) -> bool:
    """Let an empty file have another one's blocks; False where the file system can't, and none does across devices.

    Args:
        source: Descriptor, readable.
        target: Descriptor, writable.
    """
    with contextlib.suppress(OSError):
        fcntl.ioctl(target, _FICLONE, source)
        return True
    return False


def copy_part(source: int, target: int, limit: int) -> int:
    """Copy at most `limit` bytes between two descriptors from where they stand, inside the kernel where it can.

    Returns:
        How many bytes; 0 at the source's end.
    """
    with contextlib.suppress(OSError):
        copied = os.copy_file_range(source, target, limit)
        if copied:
            return copied
    # Some pairs of file systems refuse, and some stop early without an error where the disk is full: what is left is
    # copied by hand, which does tell.
    data = os.read(source, min(limit, _BY_HAND))
    write_all(target, data)
    return len(data)


def write_all(descriptor: int, data: bytes | memoryview) -> None:
    """Write the bytes, however many calls that takes; a full disk first takes a part, and then raises."""
    written = os.write(descriptor, data)
    if written < len(data):
        view = memoryview(data)
        while written < len(view):
            written += os.write(descriptor, view[written:])


def canonical_json(value: Any) -> bytes:
    """Return the one JSON text of a value: sorted keys, no spaces, UTF-8.

    Structs, dataclasses, tuples and sets are taken as msgspec takes them; NaN and infinities become null.
    """
    return msgspec.json.encode(value, order="sorted")


def blake3_bytes(data: bytes | memoryview) -> str:
    """Return the BLAKE3 digest as 64 hexadecimal digits."""
    return blake3(data).hexdigest()


def blake3_file(path: Path) -> str:
    """Return the BLAKE3 digest of a file, memory-mapped and on all cores where it is large.

    Raises:
        StorageError: The file can't be read.
    """
    with storage_errors(path):
        return blake3(max_threads=blake3.AUTO).update_mmap(path).hexdigest()


def sha256_file(path: Path) -> str:
    """Return the SHA-256 digest of a file as 64 hexadecimal digits.

    Raises:
        StorageError: The file can't be read.
    """
    with storage_errors(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
