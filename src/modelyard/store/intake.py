"""Copies a large file and hashes it in one pass: the kernel copies, another core hashes, and the disk writes meanwhile.

One after the other these take the sum of their times; side by side they take little more than the longest.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import threading
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue

from blake3 import blake3

from modelyard.files import blake3_file, copy_part, share_blocks, storage_errors

__all__ = ["PART_BYTES", "copy_and_hash"]

PART_BYTES = 16 << 20
"""What is copied before it is handed on; below two of them there is nothing to do side by side."""

_KEEP_SIZE = 1
_START_WRITING = 2


def copy_and_hash(source: Path, target: Path, mode: int = 0o444, *, keep: bool = True) -> str:
    """Copy a file to a path that does not exist, and return the BLAKE3 digest of the copy.

    Where the file system can share blocks nothing is copied. Nothing is promised of a power cut.

    Args:
        source: A file that may change meanwhile; then the digest is still that of the copy.
        target: On a failure nothing is left there.
        mode: The target's permissions, less the umask.
        keep: The copy will be synced: writing to the disk is begun early, so that `fsync` finds little left to do.

    Raises:
        StorageError: The source can't be read or the target can't be written.
    """
    with storage_errors(source), source.open("rb", buffering=0) as reader, storage_errors(target):
        descriptor = os.open(target, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, mode)
        try:
            size = os.fstat(reader.fileno()).st_size
            if share_blocks(reader.fileno(), descriptor):
                return blake3_file(target)
            if size >= 2 * PART_BYTES:
                return _side_by_side(reader.fileno(), descriptor, size, keep=keep)
            while copy_part(reader.fileno(), descriptor, PART_BYTES):
                pass
            return blake3_file(target)
        except BaseException:
            target.unlink(missing_ok=True)
            raise
        finally:
            os.close(descriptor)


def _side_by_side(source: int, target: int, size: int, *, keep: bool) -> str:
    _reserve(target, size)
    # The copy needs a core, too.
    hasher = blake3(max_threads=max(1, len(os.sched_getaffinity(0)) - 1))

    def digest(descriptor: int, start: int, length: int) -> None:
        # A mapping begins at a page, which a part need not do.
        before = start % mmap.ALLOCATIONGRANULARITY
        with (
            mmap.mmap(descriptor, before + length, mmap.MAP_SHARED, mmap.PROT_READ, offset=start - before) as mapped,
            memoryview(mapped) as view,
            view[before:] as part,
        ):
            hasher.update(part)

    followers = [_Follower(target, work) for work in ((digest, _start_writing) if keep else (digest,))]
    done = 0
    try:
        while length := copy_part(source, target, PART_BYTES):
            for follower in followers:
                follower.put(done, length)
            done += length
    finally:
        for follower in followers:
            follower.finish()
    for follower in followers:
        if follower.error is not None:
            raise follower.error
    if done < size:
        # The source was cut short; what was reserved beyond its end goes back.
        os.ftruncate(target, done)
    return hasher.hexdigest()


class _Follower:
    """A thread that does something with each part of a file, in order, as soon as the part is there.

    Args:
        descriptor: Of the file; the thread has one of its own, for an interrupted copy does not wait.
        work: Is given a descriptor, a part's start and its length.
    """

    def __init__(self, descriptor: int, work: Callable[[int, int, int], None]) -> None:
        self.error: BaseException | None = None
        self._work = work
        self._parts: SimpleQueue[tuple[int, int] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._follow, args=(os.dup(descriptor),), name="intake", daemon=True)
        self._thread.start()

    def put(self, start: int, length: int) -> None:
        """Hand on a part that lies in the file."""
        self._parts.put((start, length))

    def finish(self) -> None:
        """Wait for what was handed on."""
        self._parts.put(None)
        self._thread.join()

    def _follow(self, descriptor: int) -> None:
        try:
            while (part := self._parts.get()) is not None:
                self._work(descriptor, *part)
        except BaseException as error:
            self.error = error
        finally:
            os.close(descriptor)


def _reserve(descriptor: int, size: int) -> None:
    """Give a file its blocks at once, where the file system can: that is cheaper than one part after the other.

    Raises:
        OSError: There is not so much room.
    """
    if _fallocate is None:
        return
    # Not os.posix_fallocate: where the file system can't, it writes to every block.
    if _fallocate(descriptor, _KEEP_SIZE, 0, size) != 0 and ctypes.get_errno() in (errno.ENOSPC, errno.EDQUOT):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _start_writing(descriptor: int, start: int, length: int) -> None:
    # A failure does no harm: it shows at the latest when the file is synced.
    if _sync_file_range is not None:
        _sync_file_range(descriptor, start, length, _START_WRITING)


def _function(name: str, *arguments: type) -> Callable[..., int] | None:
    function = getattr(ctypes.CDLL(None, use_errno=True), name, None)
    if function is not None:
        function.argtypes = arguments
    return function


_fallocate = _function("fallocate", ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
_sync_file_range = _function("sync_file_range", ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
