"""Trees as folders: from a folder into objects, and from objects into a folder."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
import time
import weakref
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import msgspec

from modelyard.errors import BusyError, IntegrityError, ModelyardError, StorageError
from modelyard.files import blake3_bytes, blake3_file, storage_error, storage_errors, write_all
from modelyard.store.guard import Gate, TempArea
from modelyard.store.index import Stamp, StatIndex, stamp_of
from modelyard.store.local import REFRESH_SECONDS
from modelyard.store.parts import StoreObjects
from modelyard.store.tree import FORMAT, SMALL_BYTES, Bundler, Entry, Found, Manifest, decode_manifest, scan

__all__ = ["TreeCache", "Trees"]

_READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)


class _Added(msgspec.Struct, frozen=True, array_like=True):
    """What an added folder looked like, and the tree it became."""

    digest: str
    entries: tuple[Entry, ...]
    stamps: tuple[Stamp, ...]
    folders: tuple[str, ...]


class _Fetched(msgspec.Struct, frozen=True, array_like=True):
    """What a folder of the cache consists of: files of its own, and links to objects."""

    own: list[tuple[str, Stamp]]
    links: list[tuple[str, str]]


class Trees:
    """Adds folders, and writes them out again.

    Args:
        objects: Where the bytes are.
        index: Remembers what added folders looked like.
    """

    def __init__(self, objects: StoreObjects, index: StatIndex) -> None:
        self._objects = objects
        self._index = index

    def add(self, root: Path) -> tuple[str, Manifest | None]:
        """Keep a folder; return its digest, and its manifest unless the folder was found unchanged."""
        files, empty = scan(root)
        key = f"folder:{os.path.abspath(root)}"
        before = self._recall(key)
        if before is not None and self._unchanged(before, files, empty):
            return before.digest, None
        started = time.time_ns()
        large = {} if before is None else self._large(before)
        digest, manifest = self._keep(root, files, empty, large)
        if all(found.stamp.settled(started) for found in files):
            stamps = tuple(found.stamp for found in files)
            added = _Added(digest, manifest.entries, stamps, manifest.folders)
            self._index.remember(key, msgspec.msgpack.encode(added))
        return digest, manifest

    def take(self, root: Path) -> tuple[str, Manifest]:
        """Keep a folder of the store's own temporary area; its large files are moved away."""
        files, empty = scan(root)
        return self._keep(root, files, empty, {}, take=True)

    def pack(self, files: Mapping[str, bytes]) -> tuple[str, Manifest]:
        """Keep files that lie in memory; the tree is the one that a folder of them would be."""
        bundler, entries = Bundler(self._objects.put), []
        for path, data in sorted(files.items()):
            small = len(data) <= SMALL_BYTES
            entry = Entry(path, len(data), False, blake3_bytes(data) if small else self._objects.put(data))
            if small:
                bundler.add(entry, data)
            entries.append(entry)
        return self._put(entries, [], bundler)

    def unpack(self, digest: str) -> dict[str, bytes]:
        """Return the files of a tree, verified."""
        manifest = self.manifest(digest)
        files = {entry.path: bytes(data) for entry, data in self._small(manifest)}
        return files | {entry.path: self._objects.get(entry.digest) for entry in manifest.large}

    def manifest(self, digest: str) -> Manifest:
        """Return the manifest of a tree, verified."""
        return decode_manifest(self._objects.get(digest), digest)

    def write(self, manifest: Manifest, root: Path, *, link: bool) -> _Fetched:
        """Write a tree into an empty folder.

        Args:
            manifest: The tree.
            root: An existing, empty folder.
            link: Whether large files may be links to objects, and small ones are read-only.
        """
        for folder in sorted({entry.path.rpartition("/")[0] for entry in manifest.entries} | set(manifest.folders)):
            if folder:
                with storage_errors(root / folder):
                    (root / folder).mkdir(parents=True, exist_ok=True)
        own: list[tuple[str, Stamp]] = []
        links: list[tuple[str, str]] = []
        for entry, data in self._small(manifest):
            mode = (0o555 if entry.executable else 0o444) if link else (0o777 if entry.executable else 0o666)
            own.append((entry.path, _write_new(f"{root}/{entry.path}", data, mode)))
        for entry in manifest.large:
            target = root / entry.path
            if link and not entry.executable:
                source = self._objects.fetch(entry.digest)
                with storage_errors(target):
                    target.symlink_to(source)
                links.append((entry.path, entry.digest))
            else:
                mode = (0o777 if entry.executable else 0o666) & (0o555 if link else 0o777)
                self._objects.copy(entry.digest, target, mode)
                own.append((entry.path, stamp_of(target.stat())))
        return _Fetched(own, links)

    def _small(self, manifest: Manifest) -> Iterator[tuple[Entry, memoryview]]:
        entries = iter(manifest.small)
        bundles: Iterable[tuple[bytes, int]] = (
            (self._objects.get(digest), count) for digest, count in manifest.bundles
        )
        if not manifest.bundles:
            bundles = [(manifest.inline, len(manifest.small))]
        for data, count in bundles:
            view, offset = memoryview(data), 0
            for _, entry in zip(range(count), entries, strict=False):
                yield entry, view[offset : offset + entry.size]
                offset += entry.size
            if offset != len(data):
                raise IntegrityError("A tree's bundle is not as long as the files in it.")

    def _keep(
        self,
        root: Path,
        files: list[Found],
        empty: list[str],
        large: dict[tuple[str, Stamp], str],
        *,
        take: bool = False,
    ) -> tuple[str, Manifest]:
        bundler = Bundler(self._objects.put)
        entries = []
        for found in files:
            path = f"{root}/{found.path}"
            if found.stamp.size <= SMALL_BYTES:
                data = _read(path, found)
                entry = Entry(found.path, len(data), found.executable, blake3_bytes(data))
                bundler.add(entry, data)
            else:
                digest = large.get((found.path, found.stamp)) or self._keep_large(Path(path), found, take=take)
                entry = Entry(found.path, found.stamp.size, found.executable, digest)
            entries.append(entry)
        return self._put(entries, empty, bundler)

    def _put(self, entries: list[Entry], empty: list[str], bundler: Bundler) -> tuple[str, Manifest]:
        bundles, inline = bundler.finish()
        manifest = Manifest(format=FORMAT, entries=tuple(entries), folders=tuple(empty), bundles=bundles, inline=inline)
        return self._objects.put(manifest.encode()), manifest

    def _keep_large(self, path: Path, found: Found, *, take: bool) -> str:
        if take:
            return self._objects.take_file(path)
        digest = self._objects.put_file(path)
        with storage_errors(path):
            after = stamp_of(path.stat())
        if after != found.stamp:
            raise _changing(str(path))
        return digest

    def _recall(self, key: str) -> _Added | None:
        data = self._index.recall(key)
        try:
            return msgspec.msgpack.decode(data, type=_Added) if data else None
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None

    def _unchanged(self, before: _Added, files: list[Found], empty: list[str]) -> bool:
        if len(files) != len(before.entries) or list(before.folders) != empty:
            return False
        for found, entry, stamp in zip(files, before.entries, before.stamps, strict=True):
            if found.stamp != stamp or found.path != entry.path or found.executable != entry.executable:
                return False
        if not self._objects.renew(before.digest):
            return False
        return all(self._objects.renew(digest) for digest in self.manifest(before.digest).objects)

    def _large(self, before: _Added) -> dict[tuple[str, Stamp], str]:
        return {
            (entry.path, stamp): entry.digest
            for entry, stamp in zip(before.entries, before.stamps, strict=True)
            if not entry.small and self._objects.renew(entry.digest)
        }


class TreeCache:
    """Trees as read-only folders that every process shares, at a path that stays.

    `<digest>/files` is the tree, and `<digest>/known` says what its files looked like when they were written; both
    appear by one rename.

    Args:
        folder: Where the trees lie.
        trees: Writes them.
        objects: Says whether a linked object is still intact.
        temp: Where trees are built; on the same file system.
    """

    def __init__(self, folder: Path, trees: Trees, objects: StoreObjects, temp: TempArea) -> None:
        self._folder = folder
        self._trees = trees
        self._objects = objects
        self._temp = temp
        self._substitute: TreeCache | None = None

    def fetch(self, digest: str) -> Path:
        """Return the folder of a tree, built or checked.

        Where the cache can't be written, as in a store that is mounted read-only, trees are built in a folder that
        ends with the process.
        """
        home = self._folder / digest
        if not self._intact(home):
            try:
                self._build(digest, home)
            except StorageError as error:
                if not isinstance(error.__cause__, OSError) or error.__cause__.errno not in _READ_ONLY:
                    raise
                return self._elsewhere().fetch(digest)
        return home / "files"

    def adopt(self, built: Path, digest: str, manifest: Manifest) -> None:
        """Make a folder that was just taken into the objects the cached tree: links replace what was moved away."""
        if any(entry.executable for entry in manifest.entries):
            return
        files = built / "files"
        own: list[tuple[str, Stamp]] = []
        with storage_errors(files):
            for entry in manifest.small:
                path = files / entry.path
                path.chmod(0o444)
                own.append((entry.path, stamp_of(path.stat())))
            links = [(entry.path, entry.digest) for entry in manifest.large]
            for path_in_tree, object_digest in links:
                (files / path_in_tree).symlink_to(self._objects.fetch(object_digest))
        self._seal(built, _Fetched(own, links))
        self._settle(built, self._folder / digest)

    def digests(self) -> Iterator[tuple[str, float]]:
        """Yield every cached tree, and when it was last used."""
        for home in self._folder.iterdir() if self._folder.is_dir() else ():
            with contextlib.suppress(OSError):
                yield home.name, (home / "known").stat().st_mtime

    def check(self) -> Iterator[tuple[str, Path]]:
        """Hash every file that cached trees keep themselves; yield and remove each tree that has changed."""
        for digest, _ in list(self.digests()):
            files = self._folder / digest / "files"
            try:
                entries = {entry.path: entry for entry in self._trees.manifest(digest).entries}
            except ModelyardError:
                # The manifest is damaged or gone, which is reported as such; the copy may be the last one.
                continue
            wrong = self._wrong(files, entries)
            if wrong is not None:
                self.drop(digest)
                yield digest, files / wrong

    def drop(self, digest: str) -> None:
        """Remove a cached tree; whoever has it mapped keeps the bytes."""
        home = self._folder / digest
        aside = Path(self._temp.file())
        with contextlib.suppress(FileNotFoundError), _unless_missing(home):
            home.rename(aside)
            shutil.rmtree(aside, ignore_errors=True)

    def _wrong(self, files: Path, entries: dict[str, Entry]) -> str | None:
        try:
            known = msgspec.msgpack.decode((files.parent / "known").read_bytes(), type=_Fetched)
            own = (path for path, _ in known.own)
            return next((path for path in own if blake3_file(files / path) != entries[path].digest), None)
        except (ModelyardError, OSError, msgspec.DecodeError, KeyError):
            return "."

    def _build(self, digest: str, home: Path) -> None:
        manifest = self._trees.manifest(digest)
        built = self._temp.folder()
        try:
            with storage_errors(built):
                (built / "files").mkdir()
            self._seal(built, self._trees.write(manifest, built / "files", link=True))
            self._settle(built, home)
        finally:
            shutil.rmtree(built, ignore_errors=True)

    def _elsewhere(self) -> TreeCache:
        if self._substitute is None:
            folder = Path(tempfile.mkdtemp(prefix="modelyard-"))
            weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
            temp = TempArea(folder / "tmp", Gate(folder / "lock"))
            self._substitute = TreeCache(folder / "trees", self._trees, self._objects, temp)
        return self._substitute

    def _intact(self, home: Path) -> bool:
        known = f"{home}/known"
        try:
            with open(known, "rb") as file:
                fetched = msgspec.msgpack.decode(file.read(), type=_Fetched)
                used = os.fstat(file.fileno()).st_mtime
            for path, stamp in fetched.own:
                if stamp_of(os.stat(f"{home}/files/{path}")) != stamp:
                    return False
            for path, digest in fetched.links:
                if os.readlink(f"{home}/files/{path}") != str(self._objects.fetch(digest)):
                    return False
        except (OSError, msgspec.DecodeError):
            return False
        if time.time() - used > REFRESH_SECONDS:
            with contextlib.suppress(OSError):
                os.utime(known)
        return True

    def _seal(self, built: Path, fetched: _Fetched) -> None:
        _write_new(f"{built}/known", msgspec.msgpack.encode(fetched), 0o644)

    def _settle(self, built: Path, home: Path) -> None:
        with storage_errors(home):
            if _moved(built, home):
                return
            with Gate(self._folder.parent / "repair.lock").alone():
                if not self._intact(home):
                    self.drop(home.name)
                    _moved(built, home)


def _moved(built: Path, home: Path) -> bool:
    """Rename; False where something lies there already."""
    try:
        built.rename(home)
    except FileNotFoundError:
        home.parent.mkdir(parents=True, exist_ok=True)
        return _moved(built, home)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            return False
        raise
    return True


@contextlib.contextmanager
def _unless_missing(path: Path) -> Iterator[None]:
    """Turn an OSError into a StorageError, but let FileNotFoundError pass."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise storage_error(path, error) from error


def _read(path: str, found: Found) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            data = os.read(descriptor, SMALL_BYTES + 1)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise storage_error(path, error) from error
    if len(data) != found.stamp.size:
        raise _changing(path)
    return data


def _write_new(path: str, data: bytes | memoryview, mode: int) -> Stamp:
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, mode)
        try:
            write_all(descriptor, data)
            return stamp_of(os.fstat(descriptor))
        finally:
            os.close(descriptor)
    except OSError as error:
        raise storage_error(path, error) from error


def _changing(path: str) -> BusyError:
    return BusyError(
        "The file changed while it was read.", where=path, remedy="Wait until it is written, and try again."
    )
