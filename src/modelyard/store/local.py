"""Objects and names on a local file system: `objects/ab/cdef…`, `names/…`, `tmp/`, and one lock.

The order of writes is what makes it safe. An object is written under `tmp/` and renamed to its digest, or linked to a
parcel that holds it already: a process that is killed leaves an object whole or not at all. A name is written after
every object before it was synced: after a power cut no name leads to an object that never reached the disk.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from urllib.parse import quote, unquote

from modelyard.errors import InputError, IntegrityError, NotFoundError, StorageError
from modelyard.files import (
    blake3_bytes,
    blake3_file,
    clone_file,
    storage_error,
    storage_errors,
    sync_folder,
    write_all,
)
from modelyard.store.guard import Gate, Pending, TempArea
from modelyard.store.index import Stamp, StatIndex, stamp_of
from modelyard.store.intake import copy_and_hash
from modelyard.store.parcel import MAGIC, NAME, OBJECT, PARCEL_BYTES, SMALL_ENTRY, Parcels, find
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
    """Objects as read-only files named by their digest; small ones that are put in a group share files.

    Args:
        root: The store's folder.
        index: Remembers which files were verified.
        temp: Where objects are written before they are renamed into place.
        gate: The store's lock.
        pending: Takes note of what has to be synced.
        parcels: Takes small objects that are put in a group. Default: each object has a file of its own.
    """

    def __init__(
        self, root: Path, index: StatIndex, temp: TempArea, gate: Gate, pending: Pending, parcels: Parcels | None = None
    ) -> None:
        self._root = f"{root}/objects"
        self._index = index
        self._temp = temp
        self._gate = gate
        self._pending = pending
        self._parcels = parcels

    def put(self, data: bytes | memoryview) -> str:
        """Keep the bytes and return their digest."""
        digest = blake3_bytes(data)
        path = self._path(digest)
        if not self._present(path, len(data)):
            parcels = self._parcels if len(data) <= SMALL_ENTRY and self._pending.held else None
            if parcels and parcels.keep(OBJECT, digest, data, path, partial(_link, self._pending.object)):
                self._pending.object(path)
            else:
                self._write(data, path)
        return digest

    def _write(self, data: bytes | memoryview, path: str) -> None:
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
        data = self._read(path)
        if data is None:
            raise missing(digest)
        # A file of its own may begin like a parcel, too; then it holds no entry of its own digest.
        inner = find(data, OBJECT, digest)
        for found in (data,) if inner is None else (inner, data):
            if blake3_bytes(found) == digest:
                return found
        raise damaged(digest, path)

    def fetch(self, digest: str) -> Path:
        """Return the object's own file, verified once for each stamp it has."""
        path, stamp, verified = self._own_file(digest)
        if not verified:
            if blake3_file(Path(path)) != digest:
                raise damaged(digest, path)
            self._index.know(path, stamp, digest)
        return Path(path)

    def copy(self, digest: str, target: Path, mode: int) -> None:
        """Copy the object to a path that does not exist; what has to be verified is hashed on its way, as copied."""
        path, stamp, verified = self._own_file(digest)
        if verified:
            clone_file(Path(path), target, mode)
            return
        if copy_and_hash(Path(path), target, mode, keep=False) != digest:
            target.unlink()
            raise damaged(digest, path)
        with storage_errors(path):
            if stamp_of(os.stat(path)) == stamp:
                self._index.know(path, stamp, digest)

    def _own_file(self, digest: str) -> tuple[str, Stamp, bool]:
        """Return the path of the object's own file, its stamp, and whether it was verified under that stamp."""
        path = self._path(check_digest(digest))
        self._unpack(digest, path)
        try:
            stamp = stamp_of(os.stat(path))
        except FileNotFoundError:
            raise missing(digest) from None
        except OSError as error:
            raise storage_error(path, error) from error
        known = self._index.known(path)
        return path, stamp, known is not None and known.stamp == stamp

    def head(self, digest: str, count: int) -> bytes:
        """Return the first bytes, not verified; nothing where the object is not there."""
        path = self._path(check_digest(digest))
        data = self._read(path, max(count, len(MAGIC))) or b""
        if data.startswith(MAGIC):
            with contextlib.suppress(NotFoundError):
                return self.get(digest)[:count]
        return data[:count]

    def check(self, digest: str) -> None:
        """Hash the object again, whatever is remembered of it."""
        path = self._path(check_digest(digest))
        if not os.path.exists(path):
            raise missing(digest)
        if blake3_file(Path(path)) != digest and self._inner(digest, path) is None:
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
        for digest, size, _ in self.written():
            yield digest, size

    def delete(self, digest: str) -> None:
        """Remove an object."""
        path = self._path(check_digest(digest))
        with _unless_missing(path):
            os.unlink(path)

    def written(self) -> Iterator[tuple[str, int, float]]:
        """Yield digest, size and the time of the last put, in seconds since 1970."""
        for digest, stat in self._scan():
            size = stat.st_size
            if stat.st_nlink > 1 or len(MAGIC) < size <= PARCEL_BYTES:
                inner = self._inner(digest, self._path(digest))
                size = size if inner is None else len(inner)
            yield digest, size, stat.st_mtime

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

    def _read(self, path: str, count: int = -1) -> bytes | None:
        try:
            with open(path, "rb", buffering=0) as file:
                return file.read(count)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise storage_error(path, error) from error

    def _inner(self, digest: str, path: str) -> bytes | None:
        """Return an object that lies in a parcel, verified; None where it has a file of its own."""
        if self._read(path, len(MAGIC)) != MAGIC:
            return None
        found = find(self._read(path, PARCEL_BYTES) or b"", OBJECT, digest)
        return found if found is not None and blake3_bytes(found) == digest else None

    def _in_parcel(self, path: str, size: int) -> bool:
        inner = self._inner("".join(path.rsplit("/", 2)[-2:]), path)
        return inner is not None and len(inner) == size

    def _unpack(self, digest: str, path: str) -> None:
        """Give an object that lies in a parcel a file of its own."""
        inner = self._inner(digest, path)
        if inner is not None:
            self._write(inner, path)

    def _present(self, path: str, size: int) -> bool:
        """Say whether an object is there and may be relied on; a file cut short by a power cut is not."""
        try:
            stat = os.stat(path)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise storage_error(path, error) from error
        age = time.time() - stat.st_mtime
        if stat.st_size != size and not self._in_parcel(path, size):
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
        parcels: Takes names that are set for the first time in a group.
    """

    def __init__(self, root: Path, temp: TempArea, pending: Pending, parcels: Parcels) -> None:
        self._root = f"{root}/names"
        self._temp = temp
        self._pending = pending
        self._parcels = parcels

    def set(self, name: str, digest: str) -> None:
        """Point a name at a digest."""
        key, data = encode_name(name), check_digest(digest).encode()
        path = f"{self._root}/{key}"
        if self._pending.held:
            if not self._parcels.keep(NAME, key, data, path, partial(_link, self._pending.name)):
                self._write(data, path)
            self._pending.name(path)
            return
        self._pending.sync()
        self._write(data, path)
        self._pending.name(path)
        self._pending.sync()

    def _write(self, data: bytes, path: str) -> None:
        temp = self._temp.file()
        try:
            descriptor = os.open(temp, _WRITE, 0o666)
            try:
                write_all(descriptor, data)
            finally:
                os.close(descriptor)
            _rename(temp, path, self._pending.name)
        except OSError as error:
            _discard(temp)
            raise storage_error(path, error) from error

    def get(self, name: str) -> str | None:
        """Return the digest that a name points at, or None."""
        key = encode_name(name)
        path = f"{self._root}/{key}"
        try:
            with open(path, "rb", buffering=0) as file:
                data = file.read()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise storage_error(path, error) from error
        digest = (find(data, NAME, key) or data).decode("ascii", "replace")
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
    parcels = Parcels(temp)
    # Whether the rest of a file is sound that the disk did not take, nobody knows: nothing is added to it.
    pending.on_failure = parcels.close
    return Parts(
        objects=LocalObjects(root, index, temp, gate, pending, parcels),
        names=LocalNames(root, temp, pending, parcels),
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
    _placed(os.rename, temp, path, note)


def _link(note: Callable[[str], None], source: str, path: str) -> None:
    """Link a path to a file; else as `_rename`. Raises FileExistsError where something lies at the path."""
    _placed(os.link, source, path, note)


def _placed(place: Callable[[str, str], None], temp: str, path: str, note: Callable[[str], None]) -> None:
    try:
        place(temp, path)
    except FileNotFoundError:
        _make_folder(os.path.dirname(path), note)
        place(temp, path)


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
