"""Trees: a manifest object lists the files; small files lie side by side in bundles that trees share.

A bundle ends after a file whose digest says so: the chance is the file's size over `BUNDLE_BYTES`. Where a bundle ends
depends on the content alone and on no state, so a changed file changes only its own bundle, and two trees with a common
stretch of files share its bundles. (Content-defined chunking, cut at files instead of at windows of bytes:
Muthitacharoen, Chen, Mazières, "A Low-bandwidth Network File System", 2001.)
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from modelyard.errors import InputError, IntegrityError
from modelyard.files import canonical_json, storage_error
from modelyard.store.index import Stamp, stamp_of

__all__ = ["Bundler", "Entry", "Found", "Manifest", "decode_manifest", "scan"]

SMALL_BYTES = 128 << 10
"""Files up to this size go into bundles; larger ones are objects of their own, fit for memory mapping."""

BUNDLE_BYTES = 1 << 20
BUNDLE_LIMIT = 8 << 20

INLINE_BYTES = 4 << 10
"""When all small files of a tree together are no larger, the manifest holds them itself: one object instead of two."""

FORMAT = "modelyard-tree/1"


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """One file of a tree.

    Args:
        path: Relative, with slashes.
        size: Bytes.
        executable: Whether its owner may execute it.
        digest: BLAKE3 of its content.
    """

    path: str
    size: int
    executable: bool
    digest: str

    @property
    def small(self) -> bool:
        """Whether the file lies in a bundle."""
        return self.size <= SMALL_BYTES


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a tree is made of; its canonical JSON is the object that gives the tree its digest.

    Args:
        format: Tells manifests from other objects, and one version from the next.
        entries: Sorted by path.
        folders: Empty folders, sorted.
        bundles: Digest of each bundle, and how many of the small files, in order, it holds.
        inline: The bytes of all small files, where they are few; `bundles` is then empty.
    """

    format: str
    entries: tuple[Entry, ...] = ()
    folders: tuple[str, ...] = ()
    bundles: tuple[tuple[str, int], ...] = ()
    inline: bytes = b""

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(entry.size for entry in self.entries)

    @property
    def small(self) -> tuple[Entry, ...]:
        """The files that lie in bundles or in the manifest itself."""
        return tuple(entry for entry in self.entries if entry.size <= SMALL_BYTES)

    @property
    def large(self) -> tuple[Entry, ...]:
        """The files that are objects of their own."""
        return tuple(entry for entry in self.entries if entry.size > SMALL_BYTES)

    @property
    def objects(self) -> Iterator[str]:
        """Every object that the tree needs besides its manifest."""
        yield from (digest for digest, _ in self.bundles)
        yield from (entry.digest for entry in self.large)

    def encode(self) -> bytes:
        """Return the canonical JSON."""
        return canonical_json(self)


class Found(msgspec.Struct, frozen=True, array_like=True):
    """A file as the folder walk met it."""

    path: str
    stamp: Stamp
    executable: bool


_decoder = msgspec.json.Decoder(Manifest)


def decode_manifest(data: bytes, digest: str) -> Manifest:
    """Return the manifest that an object holds.

    Raises:
        InputError: The object is no tree.
        IntegrityError: A path in it would leave the folder it is checked out to.
    """
    try:
        manifest = _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InputError(f"Object {digest} is not a tree.", remedy="Give the digest of an added folder.") from error
    if manifest.format != FORMAT:
        raise InputError(f"Object {digest} is not a tree of this version, but {manifest.format!r}.")
    for path in (*(entry.path for entry in manifest.entries), *manifest.folders):
        if path.startswith("/") or "\0" in path or not {"", ".", ".."}.isdisjoint(path.split("/")):
            raise IntegrityError(f"Tree {digest} holds the path {path!r}, which would leave its folder.")
    return manifest


class Bundler:
    """Takes a tree's small files in order and puts them away as bundles.

    Args:
        put: Keeps the bytes of a bundle and returns their digest.
    """

    def __init__(self, put: Callable[[bytes], str]) -> None:
        self._put = put
        self._parts: list[bytes] = []
        self._size = 0
        self._total = 0
        self._bundles: list[tuple[str, int]] = []

    def add(self, entry: Entry, data: bytes) -> None:
        """Take the next small file."""
        self._parts.append(data)
        self._size += entry.size
        self._total += entry.size
        chosen = int(entry.digest[:8], 16) * BUNDLE_BYTES < entry.size << 32
        if (chosen and self._total > INLINE_BYTES) or self._size >= BUNDLE_LIMIT:
            self._flush()

    def finish(self) -> tuple[tuple[tuple[str, int], ...], bytes]:
        """Return the bundles, and the bytes that the manifest is to hold itself."""
        if self._total <= INLINE_BYTES:
            return (), b"".join(self._parts)
        if self._parts:
            self._flush()
        return tuple(self._bundles), b""

    def _flush(self) -> None:
        self._bundles.append((self._put(b"".join(self._parts)), len(self._parts)))
        self._parts = []
        self._size = 0


def scan(root: Path) -> tuple[list[Found], list[str]]:
    """Walk a folder and return its files, and its empty folders, each sorted by path.

    A symbolic link to a file counts as that file; one to a folder is refused, for it could lead around in circles.

    Raises:
        InputError: A name is not UTF-8, a link leads nowhere or to a folder, or something is neither file nor folder.
        StorageError: A folder can't be read.
    """
    files: list[Found] = []
    empty: list[str] = []
    waiting = [""]
    while waiting:
        prefix = waiting.pop()
        count = 0
        try:
            with os.scandir(f"{root}/{prefix}") as entries:
                for entry in entries:
                    count += 1
                    path = prefix + entry.name
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(f"{path}/")
                    else:
                        files.append(_found(entry, path))
        except OSError as error:
            raise storage_error(f"{root}/{prefix}", error) from error
        if not count and prefix:
            empty.append(prefix[:-1])
    files.sort(key=lambda found: found.path)
    return files, sorted(empty)


def _found(entry: os.DirEntry[str], path: str) -> Found:
    try:
        path.encode()
    except UnicodeEncodeError:
        raise InputError("The file's name is not UTF-8.", where=repr(entry.path), remedy="Rename it.") from None
    try:
        stat = entry.stat()
    except FileNotFoundError:
        raise InputError(
            "The link leads nowhere, or the file is gone.", where=entry.path, remedy="Remove it."
        ) from None
    if not entry.is_file():
        raise InputError(
            "This is neither a file nor a folder.",
            where=entry.path,
            remedy="Put the content there itself, or remove it.",
        )
    return Found(path, stamp_of(stat), bool(stat.st_mode & 0o100))
