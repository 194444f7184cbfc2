"""Objects and names on a local file system: `objects/ab/cdef…`, `names/…`, `tmp/`, and one lock.

The order of writes is what makes it safe. An object is written under `tmp/` and renamed to its digest: a process that
is killed leaves an object whole or not at all. A name is written after every object before it was synced: after a
power cut no name leads to an object that never reached the disk.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote, unquote

from modelyard.errors import InputError, IntegrityError, NotFoundError, StorageError
from modelyard.files import blake3_bytes, blake3_file, storage_error, storage_errors, sync_folder, write_all
from modelyard.store.guard import Gate, Pending, TempArea
from modelyard.store.index import StatIndex, stamp_of
from modelyard.store.intake import copy_and_hash
from modelyard.store.parts import Parts

__all__ = [
    "REFRESH_SECONDS",
    "LocalNames",
    "LocalObjects",
    "check_digest",
    "damaged",
    "decode_name",
    "encode_name",
    "missing",
    "open_local",
]

REFRESH_SECONDS = 3600.0
"""An object that is put again is marked as new when it is older than this, so that collection keeps it."""

_YOUNG_SECONDS = 120.0
_SAFE = "@#+,:!()"
_DIGITS = frozenset("0123456789abcdef")
_WRITE = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC


def check_digest(digest: str) -> str:
    """Return the digest, or raise NotFoundError where the text can't be one."""
    if len(digest) != 64 or not _DIGITS.issuperset(digest):
        raise NotFoundError(f"{digest!r} is not a digest.", remedy="Give the 64 hexadecimal digits of an object.")
    return digest


def encode_name(name: str) -> str:
    """Return the relative path that keeps a name: parts are percent-encoded, and the last one ends in `=`.

    So `a` and `a/b` can both be names, and no part can be `..` or hidden.

    Raises:
        InputError: A part is empty or too long.
    """
    parts = [quote(part, safe=_SAFE) for part in name.split("/")]
    if not all(parts):
        raise InputError(f"{name!r} can't be a name in the store.", remedy="Leave no part between slashes empty.")
    if max(map(len, parts)) > 200:
        raise InputError(f"{name!r} is too long for a name.", remedy="Keep each part under 200 characters.")
    parts = [f"%2E{part[1:]}" if part.startswith(".") else part for part in parts]
    return "/".join(parts) + "="


def decode_name(path: str) -> str:
    """Return the name that `encode_name` turned into this path."""
    return unquote(path.removesuffix("="))


class LocalObjects:
    """Objects as read-only files named by their digest.

    Args:
        root: The store's folder.
        index: Remembers which files were verified.
        temp: Where objects are written before they are renamed into place.
        gate: The store's lock.
        pending: Takes note of what has to be synced.
    """

    def __init__(self, root: Path, index: StatIndex, temp: TempArea, gate: Gate, pending: Pending) -> None:
        self._root = f"{root}/objects"
        self._index = index
        self._temp = temp
        self._gate = gate
        self._pending = pending

    def put(self, data: bytes | memoryview) -> str:
        """Keep the bytes and return their digest."""
        digest = blake3_bytes(data)
        path = self._path(digest)
        if not self._present(path, len(data)):
            temp = self._temp.file()
            try:
                descriptor = os.open(temp, _WRITE, 0o444)
                try:
                    write_all(descriptor, data)
                finally:
                    os.close(descriptor)
                self._place(temp, path)
            except OSError as error:
                _discard(temp)
                raise storage_error(path, error) from error
        return digest

    def put_file(self, path: Path) -> str:
        """Keep a file's bytes and return their digest; the copy is hashed, so a file that changes does no harm."""
        temp: Path | None = None
        try:
            temp = Path(self._temp.file())
            return self._take(temp, copy_and_hash(path, temp))
        except StorageError:
            # No room for a copy, or no right to make one: none is needed of what is there already.
            digest = blake3_file(path)
            if self._present(self._path(digest), path.stat().st_size):
                return digest
            raise
        finally:
            if temp is not None:
                _discard(str(temp))

    def take_file(self, path: Path) -> str:
        """Move a file of the store's own `tmp/` into the objects, without copying it, and return its digest."""
        return self._take(path, blake3_file(path))

    def _take(self, path: Path, digest: str) -> str:
        target = self._path(digest)
        with storage_errors(target):
            if self._present(target, path.stat().st_size):
                path.unlink()
            else:
                path.chmod(0o444)
                self._place(str(path), target)
        return digest

    def unused(self) -> str:
        """Return an unused path in the temporary folder, from where `take_file` can take a file."""
        return self._temp.file()

    def get(self, digest: str) -> bytes:
        """Return the bytes, verified."""
        path = self._path(check_digest(digest))
        try:
            with open(path, "rb") as file:
                data = file.read()
        except FileNotFoundError:
            raise missing(digest) from None
        except OSError as error:
            raise storage_error(path, error) from error
        if blake3_bytes(data) != digest:
            raise damaged(digest, path)
        return data

    def fetch(self, digest: str) -> Path:
        """Return the object's own file, verified once for each stamp it has."""
        path = self._path(check_digest(digest))
        try:
            stamp = stamp_of(os.stat(path))
        except FileNotFoundError:
            raise missing(digest) from None
        except OSError as error:
            raise storage_error(path, error) from error
        known = self._index.known(path)
        if known is None or known.stamp != stamp:
            if blake3_file(Path(path)) != digest:
                raise damaged(digest, path)
            self._index.know(path, stamp, digest)
        return Path(path)

    def head(self, digest: str, count: int) -> bytes:
        """Return the first bytes, not verified; nothing where the object is not there."""
        path = self._path(check_digest(digest))
        try:
            with open(path, "rb") as file:
                return file.read(count)
        except FileNotFoundError:
            return b""
        except OSError as error:
            raise storage_error(path, error) from error

    def check(self, digest: str) -> None:
        """Hash the object again, whatever is remembered of it."""
        path = self._path(check_digest(digest))
        if not os.path.exists(path):
            raise missing(digest)
        if blake3_file(Path(path)) != digest:
            raise damaged(digest, path)

    def exists(self, digest: str) -> bool:
        """Say whether the object is there."""
        return os.path.exists(self._path(check_digest(digest)))

    def renew(self, digest: str) -> bool:
        """Say whether the object is there, and if so keep it from collection as if it were put now."""
        path = self._path(check_digest(digest))
        try:
            return self._present(path, os.stat(path).st_size)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise storage_error(path, error) from error

    def list(self) -> Iterator[tuple[str, int]]:
        """Yield every object as digest and size, sorted by digest."""
        for digest, stat in self._scan():
            yield digest, stat.st_size

    def delete(self, digest: str) -> None:
        """Remove an object."""
        path = self._path(check_digest(digest))
        with _unless_missing(path):
            os.unlink(path)

    def written(self) -> Iterator[tuple[str, int, float]]:
        """Yield digest, size and the time of the last put, in seconds since 1970."""
        for digest, stat in self._scan():
            yield digest, stat.st_size, stat.st_mtime

    def expire(self, digest: str, before: float) -> bool:
        """Remove an object unless it was put at or after `before`; say whether it is gone. Call it with the gate."""
        path = self._path(digest)
        with _unless_missing(path):
            if os.stat(path).st_mtime >= before:
                return False
            os.unlink(path)
        return True

    def _scan(self) -> Iterator[tuple[str, os.stat_result]]:
        root = Path(self._root)
        for folder in sorted(root.iterdir()) if root.is_dir() else ():
            for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
                with contextlib.suppress(FileNotFoundError):
                    yield folder.name + entry.name, entry.stat()

    def _path(self, digest: str) -> str:
        return f"{self._root}/{digest[:2]}/{digest[2:]}"

    def _present(self, path: str, size: int) -> bool:
        """Say whether an object is there and may be relied on; a file cut short by a power cut is not."""
        try:
            stat = os.stat(path)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise storage_error(path, error) from error
        age = time.time() - stat.st_mtime
        if stat.st_size != size:
            return False
        if age < _YOUNG_SECONDS:
            # Whoever wrote it may not have synced it yet, and our name may come first.
            self._pending.object(path)
        return age < REFRESH_SECONDS or self._refresh(path)

    def _refresh(self, path: str) -> bool:
        """Mark an object as put now; False where that is impossible and it has to be written anew."""
        with self._gate.shared():
            try:
                os.utime(path)
            except OSError:
                return False
        return True

    def _place(self, temp: str, path: str) -> None:
        _rename(temp, path, self._pending.object)
        self._pending.object(path)


class LocalNames:
    """Names as small files, each renamed into place.

    Args:
        root: The store's folder.
        temp: Where a name is written before it is renamed into place.
        pending: Syncs the objects that a name may lead to before the name appears.
    """

    def __init__(self, root: Path, temp: TempArea, pending: Pending) -> None:
        self._root = f"{root}/names"
        self._temp = temp
        self._pending = pending

    def set(self, name: str, digest: str) -> None:
        """Point a name at a digest."""
        path = f"{self._root}/{encode_name(name)}"
        if not self._pending.held:
            self._pending.sync()
        temp = self._temp.file()
        try:
            descriptor = os.open(temp, _WRITE, 0o666)
            try:
                write_all(descriptor, check_digest(digest).encode())
            finally:
                os.close(descriptor)
            _rename(temp, path, self._pending.name)
        except OSError as error:
            _discard(temp)
            raise storage_error(path, error) from error
        self._pending.name(path)
        if not self._pending.held:
            self._pending.sync()

    def get(self, name: str) -> str | None:
        """Return the digest that a name points at, or None."""
        path = f"{self._root}/{encode_name(name)}"
        try:
            with open(path, "rb") as file:
                digest = file.read().decode("ascii", "replace")
        except FileNotFoundError:
            return None
        except OSError as error:
            raise storage_error(path, error) from error
        # Only a power cut in a held group can leave a name without its content; it then counts as never set.
        return digest if len(digest) == 64 else None

    def delete(self, name: str) -> None:
        """Remove a name."""
        path = f"{self._root}/{encode_name(name)}"
        with _unless_missing(path):
            os.unlink(path)
            sync_folder(os.path.dirname(path))

    def list(self, prefix: str = "") -> Iterator[tuple[str, str]]:
        """Yield name and digest of every name that starts with the prefix, sorted by name."""
        folder = prefix.rpartition("/")[0]
        start = Path(self._root, encode_name(folder)[:-1] if folder else "")
        found = (
            decode_name(f"{parent}/{file}"[len(self._root) + 1 :])
            for parent, _, files in os.walk(start)
            for file in files
        )
        for name in sorted(name for name in found if name.startswith(prefix)):
            digest = self.get(name)
            if digest is not None:
                yield name, digest


def open_local(root: Path) -> Parts:
    """Return the parts of a store in a local folder; nothing is made until it is used."""
    gate, pending = Gate(root / "lock"), Pending()
    index, temp = StatIndex(root / "cache" / "stat"), TempArea(root / "tmp", gate)
    return Parts(
        objects=LocalObjects(root, index, temp, gate, pending),
        names=LocalNames(root, temp, pending),
        cache=root / "cache",
        index=index,
        temp=temp,
        gate=gate,
        pending=pending,
    )


def missing(digest: str) -> NotFoundError:
    """Return the error for an object that is not there."""
    return NotFoundError(
        f"The store has no object {digest}.",
        remedy="Run `modelyard verify` to see what refers to it, and run that again.",
    )


def damaged(digest: str, path: str) -> IntegrityError:
    """Return the error for an object whose bytes have changed."""
    return IntegrityError(
        f"The bytes of object {digest} have changed.",
        where=path,
        remedy="Run `modelyard verify` to see what refers to it; delete the file and run that again.",
    )


@contextlib.contextmanager
def _unless_missing(path: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        pass
    except OSError as error:
        raise storage_error(path, error) from error


def _rename(temp: str, path: str, note: Callable[[str], None]) -> None:
    """Rename; where the target's folder is missing, make it, and note every folder that got an entry by that."""
    try:
        os.rename(temp, path)
    except FileNotFoundError:
        _make_folder(os.path.dirname(path), note)
        os.rename(temp, path)


def _make_folder(folder: str, note: Callable[[str], None]) -> None:
    parent = os.path.dirname(folder)
    if not os.path.isdir(parent):
        _make_folder(parent, note)
    with contextlib.suppress(FileExistsError):
        os.mkdir(folder)
    # Also where another process made it: that one may not have synced it yet.
    note(parent)


def _discard(temp: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(temp)
