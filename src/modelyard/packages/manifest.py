"""The list of a package's files with their SHA-256, and the check that a folder is exactly that."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import msgspec

from modelyard.errors import IntegrityError
from modelyard.files import sha256_file, storage_errors

__all__ = ["FORMAT", "MANIFEST", "FileEntry", "Manifest", "make_manifest", "read_manifest", "verify"]

MANIFEST = "manifest.json"
FORMAT = "modelyard-package/1"


class FileEntry(msgspec.Struct, frozen=True):
    """One file of a package: SHA-256 as 64 hexadecimal digits, and its size in bytes."""

    sha256: str
    size: int


class Manifest(msgspec.Struct, frozen=True):
    """What a package is made of.

    Args:
        name: Name of the model.
        files: By path relative to the package, with `/`; all but the manifest itself.
        digest: SHA-256 over name and files, so that a damaged manifest shows as that.
        format: Of the package folder.
    """

    name: str
    files: dict[str, FileEntry]
    digest: str
    format: str = FORMAT

    def to_json(self) -> bytes:
        """Return the one text of this manifest, such as is signed."""
        return msgspec.json.format(msgspec.json.encode(self, order="sorted"), indent=2) + b"\n"


def make_manifest(folder: Path, name: str) -> Manifest:
    """Return the manifest of a folder as it stands.

    Raises:
        IntegrityError: It holds a link, or something that is neither a file nor a folder.
        StorageError: A file can't be read.
    """
    files = {}
    for path in _members(folder):
        file = folder / path
        with storage_errors(file):
            files[path] = FileEntry(sha256_file(file), file.stat().st_size)
    return Manifest(name, files, _digest(name, files))


def read_manifest(folder: Path) -> Manifest:
    """Return a package's manifest after checking it against itself.

    Raises:
        IntegrityError: It is missing, or not as it was written.
    """
    file = folder / MANIFEST
    try:
        text = file.read_bytes()
        manifest = msgspec.json.decode(text, type=Manifest)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise IntegrityError(f"The manifest can't be read: {error}.", where=str(file), remedy=_REMEDY) from error
    if manifest.format != FORMAT:
        raise IntegrityError(
            f"The package has the format {manifest.format!r}, and this version reads {FORMAT!r}.", where=str(file)
        )
    if manifest.digest != _digest(manifest.name, manifest.files) or text != manifest.to_json():
        raise IntegrityError("The manifest was changed after it was written.", where=str(file), remedy=_REMEDY)
    return manifest


def verify(folder: Path) -> Manifest:
    """See that a folder is exactly what its manifest says, and return the manifest.

    Raises:
        IntegrityError: A file is missing, added or changed; `where` names it.
    """
    manifest = read_manifest(folder)
    present = set(_members(folder))
    for path, entry in manifest.files.items():
        file = folder / path
        if path not in present:
            raise IntegrityError("The package lacks this file.", where=str(file), remedy=_REMEDY)
        with storage_errors(file):
            size = file.stat().st_size
        if size != entry.size or sha256_file(file) != entry.sha256:
            raise IntegrityError("The file differs from the manifest's digest.", where=str(file), remedy=_REMEDY)
    added = sorted(present - set(manifest.files))
    if added:
        raise IntegrityError("The manifest does not know this file.", where=str(folder / added[0]), remedy=_REMEDY)
    return manifest


_REMEDY = "Fetch the package again, or build it anew."


def _members(folder: Path) -> list[str]:
    """Return the paths of all files but the manifest, sorted."""
    found = []
    with storage_errors(folder):
        for path in folder.rglob("*"):
            # A store's local copy links large files to its objects; what a link leads to must match its digest, too.
            if not path.is_file() and (path.is_symlink() or not path.is_dir()):
                raise IntegrityError("A package holds plain files and folders alone.", where=str(path))
            if path.is_file():
                found.append(path.relative_to(folder).as_posix())
    return sorted(set(found) - {MANIFEST})


def _digest(name: str, files: Mapping[str, FileEntry]) -> str:
    return hashlib.sha256(msgspec.json.encode([FORMAT, name, dict(files)], order="sorted")).hexdigest()
