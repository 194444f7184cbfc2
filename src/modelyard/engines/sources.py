"""What files outside the store hold, as digests: the part of a fingerprint that no code and no parameter tells."""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Mapping
from pathlib import Path

import msgspec

from modelyard.errors import DataError
from modelyard.files import blake3_bytes, blake3_file, canonical_json, storage_errors
from modelyard.store.index import Stamp, stamp_of
from modelyard.store.store import Store
from modelyard.store.tree import scan

__all__ = ["SourceReader"]


class _Folder(msgspec.Struct, frozen=True, array_like=True):
    """What a folder looked like, and the digest of its content."""

    stamps: str
    digest: str


class SourceReader:
    """Finds digests of project files and URLs; what has not changed by its stat is not read again.

    Args:
        store: Its index remembers files.
        project: Relative paths count from here.
    """

    def __init__(self, store: Store, project: Path) -> None:
        self._store = store
        self._project = project

    def digests(self, files: Mapping[str, str | None], unknown: str) -> tuple[dict[str, str], list[str]]:
        """Return the digest of each file, as inputs of a fingerprint, and why the result must not be cached.

        Args:
            files: Path or URL to declared checksum, or None.
            unknown: Stands for the digest of a URL whose content can't be told without reading it.

        Returns:
            Digests by `file:<name>`, and one sentence for each URL whose content can't be told.

        Raises:
            DataError: A file is missing.
        """
        digests: dict[str, str] = {}
        reasons: list[str] = []
        for name, checksum in files.items():
            if "://" not in name:
                digest: str | None = self._path_digest(name)
            elif checksum is not None:
                # The step that reads the URL refuses other content, so the declared checksum tells it.
                digest = checksum
            else:
                digest = importlib.import_module("modelyard.engines.urls").url_digest(name)
            if digest is None:
                reasons.append(
                    f"{name} has no checksum, and its server does not tell its version: it is read each time."
                )
            digests[f"file:{name}"] = digest or unknown
        return digests, reasons

    def _path_digest(self, name: str) -> str:
        path = self._project / name
        try:
            status = path.stat()
        except FileNotFoundError:
            raise DataError(
                "There is no such file.", where=str(path), remedy="Check the path in the blueprint."
            ) from None
        except OSError as error:
            raise DataError(f"It can't be read: {error.strerror}.", where=str(path)) from error
        if path.is_dir():
            return self._folder_digest(path)
        # The same key as the store's own: a file that was added is not read again here, nor the other way round.
        return self._file_digest(path, stamp_of(status), f"file:{os.path.abspath(path)}")

    def _file_digest(self, path: Path, stamp: Stamp, key: str) -> str:
        known = self._store.index.known(key)
        if known is not None and known.stamp == stamp:
            return known.digest
        digest = blake3_file(path)
        with storage_errors(path):
            if stamp_of(path.stat()) == stamp:
                self._store.index.know(key, stamp, digest)
        return digest

    def _folder_digest(self, root: Path) -> str:
        started = time.time_ns()
        files, _ = scan(root)
        stamps = blake3_bytes(canonical_json([(found.path, found.stamp) for found in files]))
        key = f"content:{os.path.abspath(root)}"
        before = self._store.index.recall(key)
        if before is not None:
            known = msgspec.msgpack.decode(before, type=_Folder)
            if known.stamps == stamps:
                return known.digest
        content = [(found.path, blake3_file(root / found.path)) for found in files]
        digest = blake3_bytes(canonical_json(content))
        if all(found.stamp.settled(started) for found in files):
            self._store.index.remember(key, msgspec.msgpack.encode(_Folder(stamps, digest)))
        return digest
