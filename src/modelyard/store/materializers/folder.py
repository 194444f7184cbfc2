"""Files and folders that a step produced, as they are."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from modelyard.errors import NotFoundError

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
        """
        if value.is_dir():
            shutil.copytree(value, folder / "folder", symlinks=False)
            files = [path for path in (folder / "folder").rglob("*") if path.is_file()]
            return {"files": len(files), "bytes": sum(path.stat().st_size for path in files)}
        if not value.is_file():
            raise NotFoundError("There is no such file or folder.", where=str(value), remedy="Write it first.")
        (folder / "file").mkdir()
        shutil.copy(value, folder / "file" / value.name)
        return {"file": value.name, "bytes": value.stat().st_size}

    def load(self, folder: Path) -> Path:
        """Return the path of the folder, or of the file under its own name."""
        if (folder / "file").is_dir():
            return next((folder / "file").iterdir())
        return folder / "folder"
