"""Objects and names on anything fsspec reaches: one put under the final key; no rename, no append, no folders.

What is fetched is kept in a local cache, which is a `LocalObjects` and verifies what it holds in the same way.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
import weakref
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import fsspec

from modelyard.errors import IntegrityError, MissingExtraError, ModelyardError, SettingsError, StorageError
from modelyard.files import blake3_bytes, blake3_file, clone_file, storage_error, storage_errors
from modelyard.store.guard import Gate, Pending, TempArea
from modelyard.store.index import StatIndex
from modelyard.store.local import (
    REFRESH_SECONDS,
    LocalObjects,
    check_digest,
    damaged,
    decode_name,
    encode_name,
    missing,
)
from modelyard.store.parcel import MAGIC, NAME, OBJECT, find
from modelyard.store.parts import Parts

__all__ = ["FsspecNames", "FsspecObjects", "open_parts"]

_WRITTEN_KEYS = ("mtime", "LastModified", "last_modified", "created", "updated", "timeModified")


def open_parts(url: str) -> Parts:
    """Return the parts of a store at an fsspec URL.

    The cache lies in `$XDG_CACHE_HOME/modelyard` (`~/.cache/modelyard`), by the digest of the URL; that of a `memory://`
    store is as short-lived as the process.

    Raises:
        SettingsError: fsspec does not know the scheme.
        MissingExtraError: The library for the scheme is not installed.
    """
    try:
        system, root = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise MissingExtraError(f"The store {url} needs another library: {error}.", where="store") from error
    except ValueError as error:
        raise SettingsError(f"{url!r}: {error}.", where="store") from error
    return build_parts(system, root.rstrip("/"), _cache_folder(url))


def build_parts(system: Any, root: str, cache: Path) -> Parts:
    """Return the parts of a store in a folder of an fsspec file system, with a local folder for its cache."""
    gate, pending = Gate(cache / "lock"), Pending()
    index, temp = StatIndex(cache / "stat"), TempArea(cache / "tmp", gate)
    local = LocalObjects(cache, index, temp, gate, pending)
    return Parts(
        objects=FsspecObjects(system, root, local),
        names=FsspecNames(system, root),
        cache=cache,
        index=index,
        temp=temp,
        gate=gate,
        pending=pending,
    )


class FsspecObjects:
    """Objects under `objects/ab/cdef…` of a file system.

    Args:
        system: The fsspec file system.
        root: The store's folder or key prefix on it.
        cache: Local objects that keep what was fetched.
    """

    def __init__(self, system: Any, root: str, cache: LocalObjects) -> None:
        self._system = system
        self._root = f"{root}/objects"
        self._cache = cache

    def put(self, data: bytes | memoryview) -> str:
        """Keep the bytes and return their digest."""
        digest = blake3_bytes(data)
        key = self._key(digest)
        with _remote_errors(key):
            if not self._present(key, len(data)):
                self._prepare(key)
                self._system.pipe_file(key, bytes(data))
        return digest

    def put_file(self, path: Path) -> str:
        """Keep a file's bytes and return their digest."""
        digest = blake3_file(path)
        key = self._key(digest)
        try:
            size = path.stat().st_size
        except OSError as error:
            raise storage_error(path, error) from error
        with _remote_errors(key):
            if not self._present(key, size):
                self._prepare(key)
                self._system.put_file(str(path), key)
        return digest

    def take_file(self, path: Path) -> str:
        """Keep a file of the local temporary folder; it moves to the cache."""
        self.put_file(path)
        return self._cache.take_file(path)

    def get(self, digest: str) -> bytes:
        """Return the bytes, verified; from the cache where they are in it."""
        check_digest(digest)
        if self._cache.exists(digest):
            with contextlib.suppress(ModelyardError):
                return self._cache.get(digest)
        key = self._key(digest)
        with _remote_errors(key, digest):
            data: bytes = self._system.cat_file(key)
        return _verified(data, digest, key)

    def fetch(self, digest: str) -> Path:
        """Return a file in the local cache, downloaded and verified first where it is not there or damaged."""
        check_digest(digest)
        if self._cache.exists(digest):
            with contextlib.suppress(ModelyardError):
                return self._cache.fetch(digest)
            self._cache.delete(digest)
        temp = Path(self._cache.unused())
        try:
            self._download(digest, temp)
            self._cache.take_file(temp)
        finally:
            temp.unlink(missing_ok=True)
        return self._cache.fetch(digest)

    def copy(self, digest: str, target: Path, mode: int) -> None:
        """Copy the file in the local cache, where it is fetched to first, to a path that does not exist."""
        clone_file(self.fetch(digest), target, mode)

    def head(self, digest: str, count: int) -> bytes:
        """Return the first bytes, not verified; nothing where the object is not there."""
        key = self._key(check_digest(digest))
        with _remote_errors(key):
            try:
                data: bytes = self._system.cat_file(key, start=0, end=max(count, len(MAGIC)))
                return (self.get(digest) if data.startswith(MAGIC) else data)[:count]
            except FileNotFoundError:
                return b""

    def check(self, digest: str) -> None:
        """Download the object, whether or not it is in the cache, and hash it again."""
        check_digest(digest)
        temp = Path(self._cache.unused())
        try:
            self._download(digest, temp)
        finally:
            temp.unlink(missing_ok=True)
        if self._cache.exists(digest):
            try:
                self._cache.check(digest)
            except IntegrityError:
                self._cache.delete(digest)

    def exists(self, digest: str) -> bool:
        """Say whether the object is there."""
        key = self._key(check_digest(digest))
        with _remote_errors(key):
            return bool(self._system.exists(key))

    def renew(self, digest: str) -> bool:
        """Say whether the object is there; one that is old is put again, which gives it a new date."""
        key = self._key(check_digest(digest))
        with _remote_errors(key):
            return self._present(key, None) or self._again(digest)

    def list(self) -> Iterator[tuple[str, int]]:
        """Yield every object as digest and size, sorted by digest."""
        for digest, size, _ in self.written():
            yield digest, size

    def delete(self, digest: str) -> None:
        """Remove an object."""
        self._cache.delete(digest)
        key = self._key(check_digest(digest))
        with _remote_errors(key), contextlib.suppress(FileNotFoundError):
            self._system.rm_file(key)

    def written(self) -> Iterator[tuple[str, int, float]]:
        """Yield digest, size and the time of the last put, in seconds since 1970."""
        with _remote_errors(self._root):
            self._system.invalidate_cache()
            found = self._system.find(self._root, detail=True)
        for key, info in sorted(found.items()):
            digest = "".join(key.rsplit("/", 2)[-2:])
            if len(digest) == 64:
                yield digest, int(info["size"]), _written(info)

    def expire(self, digest: str, before: float) -> bool:
        """Remove an object unless it was put at or after `before`; say whether it is gone."""
        key = self._key(digest)
        with _remote_errors(key), contextlib.suppress(FileNotFoundError):
            self._system.invalidate_cache()
            if _written(self._system.info(key)) >= before:
                return False
            self._system.rm_file(key)
        self._cache.delete(digest)
        return True

    def _download(self, digest: str, temp: Path) -> None:
        """Write an object to a new local file, verified."""
        key = self._key(digest)
        with _remote_errors(key, digest):
            self._system.get_file(key, str(temp))
        if blake3_file(temp) != digest:
            with storage_errors(temp):
                temp.write_bytes(_verified(temp.read_bytes(), digest, key))

    def _present(self, key: str, size: int | None) -> bool:
        """Say whether the object is there, whole, and young enough to be safe from collection."""
        try:
            info = self._system.info(key)
        except FileNotFoundError:
            return False
        return size in (None, info["size"]) and time.time() - _written(info) < REFRESH_SECONDS

    def _again(self, digest: str) -> bool:
        key = self._key(digest)
        try:
            data = self._system.cat_file(key)
        except FileNotFoundError:
            return False
        if blake3_bytes(data) != digest:
            return False
        self._system.pipe_file(key, data)
        return True

    def _prepare(self, key: str) -> None:
        # Object stores have no folders, and their adapters do nothing here; a file system behind fsspec needs them.
        self._system.makedirs(key.rpartition("/")[0], exist_ok=True)

    def _key(self, digest: str) -> str:
        return f"{self._root}/{digest[:2]}/{digest[2:]}"


class FsspecNames:
    """Names as small objects under `names/`.

    Args:
        system: The fsspec file system.
        root: The store's folder or key prefix on it.
    """

    def __init__(self, system: Any, root: str) -> None:
        self._system = system
        self._root = f"{root}/names"

    def set(self, name: str, digest: str) -> None:
        """Point a name at a digest."""
        key = f"{self._root}/{encode_name(name)}"
        with _remote_errors(key):
            self._system.makedirs(key.rpartition("/")[0], exist_ok=True)
            self._system.pipe_file(key, check_digest(digest).encode())

    def get(self, name: str) -> str | None:
        """Return the digest that a name points at, or None."""
        key = f"{self._root}/{encode_name(name)}"
        with _remote_errors(key):
            try:
                data = self._system.cat_file(key)
            except FileNotFoundError:
                return None
        return _pointed(data, encode_name(name))

    def delete(self, name: str) -> None:
        """Remove a name."""
        key = f"{self._root}/{encode_name(name)}"
        with _remote_errors(key), contextlib.suppress(FileNotFoundError):
            self._system.rm_file(key)

    def list(self, prefix: str = "") -> Iterator[tuple[str, str]]:
        """Yield name and digest of every name that starts with the prefix, sorted by name."""
        folder = prefix.rpartition("/")[0]
        start = f"{self._root}/{encode_name(folder)[:-1]}" if folder else self._root
        with _remote_errors(start):
            self._system.invalidate_cache()
            keys = self._system.find(start)
        cut = len(self._root.lstrip("/")) + 1
        named = sorted((decode_name(key.lstrip("/")[cut:]), key) for key in keys if key.endswith("="))
        chosen = {name: key for name, key in named if name.startswith(prefix)}
        with _remote_errors(start):
            # One call: file systems that can, read all of them side by side.
            contents = self._system.cat(list(chosen.values()), on_error="omit") if chosen else {}
        for name, key in chosen.items():
            digest = _pointed(contents[key], encode_name(name)) if key in contents else None
            if digest is not None:
                yield name, digest


def _verified(data: bytes, digest: str, key: str) -> bytes:
    """Return an object's bytes out of a file's; a folder that was copied here may hold parcels."""
    for found in (data, find(data, OBJECT, digest)):
        if found is not None and blake3_bytes(found) == digest:
            return found
    raise damaged(digest, key)


def _pointed(data: bytes, path: str) -> str | None:
    digest = (find(data, NAME, path) or data).decode("ascii", "replace")
    return digest if len(digest) == 64 else None


def _written(info: dict[str, Any]) -> float:
    for key in _WRITTEN_KEYS:
        value = info.get(key)
        if isinstance(value, datetime):
            return value.timestamp()
        if isinstance(value, int | float):
            return float(value)
    # A file system that tells no date: as if just written, so that nothing is ever collected by mistake.
    return time.time()


def _cache_folder(url: str) -> Path:
    if url.startswith("memory://"):
        folder = Path(tempfile.mkdtemp(prefix="modelyard-"))
        weakref.finalize(_ALIVE, shutil.rmtree, folder, ignore_errors=True)
        return folder
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "modelyard" / blake3_bytes(url.encode())[:16]


class _Alive:
    """Lives as long as the process, and ends with it."""


_ALIVE = _Alive()


@contextlib.contextmanager
def _remote_errors(key: str, digest: str | None = None) -> Iterator[None]:
    """Turn what a file system raises into our errors; adapters raise OSError and, too often, their own classes."""
    try:
        yield
    except ModelyardError:
        raise
    except FileNotFoundError as error:
        if digest is not None:
            raise missing(digest) from None
        raise storage_error(key, error) from error
    except OSError as error:
        raise storage_error(key, error) from error
    except Exception as error:
        raise StorageError(
            f"The store does not answer as expected: {type(error).__name__}: {error}.",
            where=key,
            remedy="See whether the address and the credentials are right.",
        ) from error
