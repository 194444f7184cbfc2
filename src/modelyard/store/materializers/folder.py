"""Files and folders that a step produced, as they are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from modelyard.errors import NotFoundError
from modelyard.files import clone_file
from modelyard.store.tree import scan

__all__ = ["FolderMaterializer"]


class FolderMaterializer:
    """A path to a file or folder; it comes back as a path to a read-only copy in the store's cache."""

    name: ClassVar[str] = "folder"

    def accepts(self, value: Any) -> bool:
        """Say whether this is a path."""
        return isinstance(value, Path)

    def save(self, value: Path, folder: Path) -> Mapping[str, Any]:
        """Copy the content: a folder's under `folder/`, a file under `file/`, so that loading can tell them apart.

        Raises:
            NotFoundError: Nothing lies at the path.
            InputError: The folder holds a link to a folder, a pipe, or the like.
        """
        if value.is_dir():
            files, empty = scan(value)
            target = folder / "folder"
            for part in {"", *(found.path.rpartition("/")[0] for found in files), *empty}:
                (target / part).mkdir(parents=True, exist_ok=True)
            for found in files:
                clone_file(value / found.path, target / found.path, 0o755 if found.executable else 0o644)
            return {"files": len(files), "bytes": sum(found.stamp.size for found in files)}
        if not value.is_file():
            raise NotFoundError("There is no such file or folder.", where=str(value), remedy="Write it first.")
        (folder / "file").mkdir()
        stat = value.stat()
        clone_file(value, folder / "file" / value.name, 0o755 if stat.st_mode & 0o100 else 0o644)
        return {"file": value.name, "bytes": stat.st_size}

    def load(self, folder: Path) -> Path:
        """Return the path of the folder, or of the file under its own name."""
        if (folder / "file").is_dir():
            return next((folder / "file").iterdir())
        return folder / "folder"
