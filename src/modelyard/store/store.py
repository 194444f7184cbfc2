"""The store as the other rooms see it."""

from __future__ import annotations

import contextlib
import importlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from modelyard.errors import InputError, NotFoundError, SettingsError
from modelyard.files import storage_errors, temporary_beside
from modelyard.records import Artifact
from modelyard.store.folders import TreeCache, Trees
from modelyard.store.index import stamp_of
from modelyard.store.local import open_local
from modelyard.store.materializers import Materializers, Packer
from modelyard.store.parts import Parts
from modelyard.store.tree import SMALL_BYTES, Manifest

__all__ = ["Store"]


class Store:
    """Objects, the names that point at them, trees of files, and values made of such trees.

    An object is visible as soon as it is put, and survives the death of the process from then on. Against a power cut
    it is safe once a name was set after it, or `sync()` was called.

    Args:
        url: As given to `open`.
        parts: What the adapter for that URL built.
    """

    def __init__(self, url: str, parts: Parts) -> None:
        self.url = url
        self.objects = parts.objects
        self.names = parts.names
        self.gate = parts.gate
        self.cache_folder = parts.cache
        self.temp = parts.temp
        self.index = parts.index
        self._pending = parts.pending
        self.trees = Trees(parts.objects, parts.index)
        self.cache = TreeCache(parts.cache / "trees", self.trees, parts.objects, parts.temp)
        self._materializers = Materializers()

    def __repr__(self) -> str:
        return f"Store({self.url!r})"

    @classmethod
    def open(cls, url: str) -> Store:
        """Open a store; nothing is read or made until it is used.

        Args:
            url: `file:///absolute/folder`, `memory://name`, or any URL that fsspec knows, such as `s3://bucket/prefix`.

        Raises:
            SettingsError: The URL has no scheme, or a file URL is not absolute.
            MissingExtraError: The library for the scheme is not installed.
        """
        scheme, separator, _ = url.partition("://")
        if not separator:
            raise SettingsError(f"{url!r} is not a URL.", where="store", remedy="Write it as file:///folder.")
        if scheme != "file":
            adapter = importlib.import_module("modelyard.store.remote")
            return cls(url, adapter.open_parts(url))
        split = urlsplit(url)
        if split.netloc not in ("", "localhost") or not split.path.startswith("/"):
            raise SettingsError(
                f"{url!r} does not name an absolute folder.", where="store", remedy="Write it as file:///folder."
            )
        return cls(url, open_local(Path(unquote(split.path))))

    def add(self, path: Path) -> str:
        """Keep a file or a folder, and return the digest of the object or tree.

        Raises:
            NotFoundError: Nothing lies at the path.
            BusyError: A file changed while it was read.
            StorageError: The store's disk is full or can't be written; the store is as it was.
        """
        if path.is_dir():
            return self.trees.add(path)[0]
        try:
            stamp = stamp_of(path.stat())
        except FileNotFoundError:
            raise NotFoundError("There is no such file or folder.", where=str(path)) from None
        key = f"file:{os.path.abspath(path)}"
        known = self.index.known(key)
        if known is not None and known.stamp == stamp and self.objects.renew(known.digest):
            return known.digest
        with storage_errors(path):
            small = stamp.size <= SMALL_BYTES
            digest = self.objects.put(path.read_bytes()) if small else self.objects.put_file(path)
            if stamp_of(path.stat()) == stamp:
                self.index.know(key, stamp, digest)
        return digest

    def checkout(self, digest: str, target: Path) -> None:
        """Write a tree into a new folder, verified; the folder appears whole.

        The files are ordinary, writable ones. They are not synced: after a power cut check out again.

        Args:
            digest: Of a tree.
            target: A path where nothing lies yet, or an empty folder.

        Raises:
            NotFoundError: The store lacks the tree or an object of it.
            IntegrityError: An object's bytes have changed.
            InputError: The target is taken, or the digest is not a tree's.
            StorageError: The target can't be written; nothing is left there.
        """
        if target.is_symlink() or (target.exists() and not (target.is_dir() and not any(target.iterdir()))):
            raise InputError(
                "Something lies there already.", where=str(target), remedy="Name a folder that is new or empty."
            )
        manifest = self.trees.manifest(digest)
        temp = temporary_beside(target)
        try:
            with storage_errors(target):
                temp.mkdir(parents=True)
            self.trees.write(manifest, temp, link=False)
            with storage_errors(target):
                temp.rename(target)
        except BaseException:
            shutil.rmtree(temp, ignore_errors=True)
            raise

    def fetch_tree(self, digest: str) -> Path:
        """Return a tree as a local, read-only folder that all processes share.

        The path stays the same; the files are fit for memory mapping, and are checked on every call: by their stat, and
        by their bytes where that changed.

        Raises:
            NotFoundError: The store lacks the tree or an object of it.
            IntegrityError: An object's bytes have changed.
        """
        return self.cache.fetch(digest)

    def manifest(self, digest: str) -> Manifest:
        """Return what a tree consists of.

        Raises:
            NotFoundError: The store lacks it.
            InputError: The digest is not a tree's.
        """
        return self.trees.manifest(digest)

    def save(self, value: Any, materializer: str | None = None) -> Artifact:
        """Keep a Python value.

        Args:
            value: Anything a materializer accepts.
            materializer: Its name; left out: the first that accepts the value, built-in ones first.

        Raises:
            InputError: No materializer accepts the value, or none has that name.
        """
        chosen = self._materializers.choose(value, materializer)
        if isinstance(chosen, Packer):
            packed, summary = chosen.pack(value)
            digest, manifest = self.trees.pack(packed)
            return Artifact(digest, chosen.name, manifest.size, dict(summary))
        built = self.temp.folder()
        try:
            files = built / "files"
            with storage_errors(files):
                files.mkdir()
                summary = dict(chosen.save(value, files))
            digest, manifest = self.trees.take(files)
            self.cache.adopt(built, digest, manifest)
        finally:
            shutil.rmtree(built, ignore_errors=True)
        return Artifact(digest, chosen.name, manifest.size, summary)

    def load(self, artifact: Artifact) -> Any:
        """Return a kept value; its arrays are memory-mapped and read-only.

        Raises:
            NotFoundError: The store lacks it.
            IntegrityError: Its bytes have changed.
            InputError: Its materializer is not installed.
        """
        materializer = self._materializers.named(artifact.materializer)
        if isinstance(materializer, Packer):
            return materializer.unpack(self.trees.unpack(artifact.digest))
        return materializer.load(self.fetch_tree(artifact.digest))

    def sync(self) -> None:
        """Make everything that was put and named so far survive a power cut."""
        self._pending.sync()

    @contextlib.contextmanager
    def group(self, *, sync: bool = True) -> Iterator[None]:
        """Let the names that are set in the block wait for its end, where all is synced together.

        Every put and every name still survives the death of the process at once. Small ones share files, which saves
        most of their cost where there are many.

        Args:
            sync: False where a name is set right after the block, which syncs all that was written before.
        """
        with self._pending.hold(sync=sync):
            yield
