"""What keeps a local store whole: one lock, a temporary folder for each process, and the syncs that are still owed."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import itertools
import os
import shutil
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

from modelyard.files import storage_error, storage_errors, sync_folder

__all__ = ["Gate", "Pending", "TempArea"]

QUIET_BYTES = 32 << 20
"""While the whole machine has no more than this to write, one sync of the file system is cheaper than one each file."""


class Gate:
    """The lock file of a store: writers that rely on an old object pass together, collection passes alone.

    Args:
        path: The lock file; made on first use.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    @contextlib.contextmanager
    def shared(self) -> Iterator[None]:
        """Pass together with other writers; collection waits."""
        with self._held(fcntl.LOCK_SH):
            yield

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Pass alone."""
        with self._held(fcntl.LOCK_EX):
            yield

    @contextlib.contextmanager
    def _held(self, how: int) -> Iterator[None]:
        # Opened each time: the lock belongs to the open file, and threads that shared one would release each other's.
        with storage_errors(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            with storage_errors(self._path):
                fcntl.flock(descriptor, how)
            yield
        finally:
            os.close(descriptor)


class TempArea:
    """A folder under `tmp/` for one process, locked as long as the process lives.

    The kernel drops the lock of a process that dies in any way, so collection can tell leftovers from work in
    progress, also across containers where process numbers mean nothing.

    Args:
        root: The `tmp` folder; on the file system of the objects.
        gate: The store's lock; held while the folder is made.
    """

    def __init__(self, root: Path, gate: Gate) -> None:
        self._root = root
        self._gate = gate
        self._mutex = threading.Lock()
        self._counter = itertools.count()
        self._folder: str | None = None
        self._owner = 0

    def file(self) -> str:
        """Return an unused path."""
        return f"{self._area()}/{next(self._counter)}-{os.urandom(3).hex()}"

    def folder(self) -> Path:
        """Return a new, empty folder; the caller moves or removes it."""
        path = Path(self.file())
        with storage_errors(path):
            path.mkdir()
        return path

    def sweep(self) -> int:
        """Remove what dead processes left, and return how many bytes that freed. Call it alone in the gate."""
        freed = 0
        for area in self._root.iterdir() if self._root.is_dir() else ():
            with contextlib.suppress(OSError):
                descriptor = os.open(area, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    freed += sum(_freed(path) for path in area.rglob("*"))
                    shutil.rmtree(area)
                finally:
                    os.close(descriptor)
        return freed

    def _area(self) -> str:
        if self._folder is None or self._owner != os.getpid():
            with self._mutex:
                if self._folder is None or self._owner != os.getpid():
                    self._folder = self._make()
                    self._owner = os.getpid()
        return self._folder

    def _make(self) -> str:
        folder = self._root / f"{os.uname().nodename}-{os.getpid()}-{os.urandom(3).hex()}"
        with self._gate.shared(), storage_errors(folder):
            folder.mkdir(parents=True)
            descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
            fcntl.flock(descriptor, fcntl.LOCK_SH)
        weakref.finalize(self, _leave, str(folder), descriptor, os.getpid())
        return str(folder)


def _freed(path: Path) -> int:
    # A parcel goes on living by the links to it.
    stat = path.lstat()
    return 0 if stat.st_nlink > 1 else stat.st_size


def _leave(folder: str, descriptor: int, owner: int) -> None:
    # A forked child has a copy of this object, and must not take its parent's folder away.
    if owner == os.getpid():
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


class Pending:
    """Files and folders that are in place and not yet synced.

    Syncing each object when it is written costs 0.2 to 0.4 ms; an object matters only when a name leads to it, so the
    sync waits for the next name (or `sync()`), which then pays for all of them together.
    """

    def __init__(self) -> None:
        self._mutex = threading.RLock()
        self._objects: dict[str, None] = {}
        self._names: dict[str, None] = {}
        self._held = 0
        self.on_failure: Callable[[], None] = lambda: None
        """Called when the disk did not take something."""

    @property
    def held(self) -> bool:
        """Whether names, too, wait for `sync()`."""
        return self._held > 0

    def object(self, path: str) -> None:
        """Note an object that was put in place, or a folder for objects that got a new entry."""
        self._objects[path] = None

    def name(self, path: str) -> None:
        """Note a name that was put in place, or a folder for names that got a new entry."""
        self._names[path] = None

    @contextlib.contextmanager
    def hold(self, *, sync: bool = True) -> Iterator[None]:
        """Let names wait for the end of the block, where everything is synced at once; or later, by the next name."""
        with self._mutex:
            self._held += 1
        try:
            yield
        finally:
            with self._mutex:
                self._held -= 1
            if sync and not self.held:
                self.sync()

    def sync(self) -> None:
        """Make everything that was noted survive a power cut.

        Raises:
            StorageError: The disk did not take an object; that object is removed.
        """
        # Held throughout: a name that follows must not overtake objects that another thread is syncing right now.
        with self._mutex:
            objects, self._objects = self._objects, {}
            names, self._names = self._names, {}
            if _sync_together(objects | names):
                return
            try:
                _sync_each(objects)
                _sync_each(names)
            except BaseException:
                self._names = names | self._names
                self.on_failure()
                raise


def _sync_together(paths: dict[str, None]) -> bool:
    """Sync the file system that the paths lie on in one call; False where each has to be synced by itself.

    The call writes what other programs have left to be written, too. So it is made only while that is little.
    """
    if not paths or _unwritten() > QUIET_BYTES:
        return not paths
    try:
        descriptor = os.open(os.path.dirname(next(iter(paths))), os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return False
    try:
        # Where this fails, syncing each file tells which one the disk did not take.
        return bool(_libc.syncfs(descriptor) == 0)
    finally:
        os.close(descriptor)


def _unwritten() -> float:
    """Return how many bytes the machine has still to write; infinity where it does not tell."""
    try:
        with open("/proc/meminfo", "rb", buffering=0) as file:
            facts = dict(line.split(b":") for line in file.read(8192).splitlines() if b":" in line)
        return sum(int(facts[key].split()[0]) << 10 for key in (b"Dirty", b"Writeback"))
    except (OSError, KeyError, ValueError):
        return float("inf")


def _sync_each(paths: dict[str, None]) -> None:
    folders: dict[str, None] = {}
    synced: set[tuple[int, int]] = set()
    for path in paths:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            stat = os.fstat(descriptor)
            # Paths that are links to one parcel are synced with it.
            if (stat.st_dev, stat.st_ino) not in synced:
                os.fsync(descriptor)
                synced.add((stat.st_dev, stat.st_ino))
        except OSError as error:
            with contextlib.suppress(IsADirectoryError):
                os.unlink(path)
            raise storage_error(path, error) from error
        finally:
            os.close(descriptor)
        folders[os.path.dirname(path)] = None
    for folder in folders:
        with storage_errors(folder):
            sync_folder(folder)


_libc = ctypes.CDLL(None, use_errno=True)
