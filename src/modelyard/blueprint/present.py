"""Whether the files of the project that a blueprint names are there."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from modelyard.blueprint.paths import Issue, KeyPath
from modelyard.blueprint.wiring import Wired

__all__ = ["missing_files"]

_MAKERS = ("python", "command")
"""The kinds whose code may write a file of the project; the others write to the store alone."""


def missing_files(blueprint: Mapping[str, Any], wired: Mapping[str, Wired], project: Path) -> list[Issue]:
    """Return an issue for each file that a step reads and nothing gives.

    A file that is not there is no issue where a python or command step comes before: it may make the file. What a URL
    names is not looked for.

    Args:
        blueprint: As JSON values with defaults.
        wired: Its steps' connections.
        project: The folder from which relative paths count.
    """
    steps: Sequence[Mapping[str, Any]] = blueprint["pipeline"]["steps"]
    kinds = {step["id"]: step["kind"] for step in steps}
    return [
        issue
        for index, step in enumerate(steps)
        if not any(kinds[name] in _MAKERS for name in _before(step["id"], wired))
        for path, name, folder in _named(step)
        if (issue := _issue(("pipeline", "steps", index, *path), name, project, folder=folder)) is not None
    ]


def _before(step: str, wired: Mapping[str, Wired]) -> set[str]:
    """Return all that must have succeeded before a step begins."""
    found: set[str] = set()
    left = [step]
    while left:
        needs = set(wired[left.pop()].needs) - found
        found |= needs
        left += needs
    return found


def _named(step: Mapping[str, Any]) -> Iterator[tuple[KeyPath, str, bool]]:
    """Yield where a step names a file, the name, and whether it may be a folder."""
    folder = step.get("format") == "image_folder"
    for key in ("local_data", "test_data"):
        source = step.get(key)
        if isinstance(source, str):
            yield (key,), source, folder
        elif source is not None:
            yield (key, "data"), source["data"], folder
            if source["labels"] is not None:
                yield (key, "labels"), source["labels"], False
    if step.get("model_path") is not None:
        yield ("model_path",), step["model_path"], True
    if step["kind"] == "command":
        for position, name in enumerate(step["files"]):
            yield ("files", position), name, True


def _issue(path: KeyPath, name: str, project: Path, *, folder: bool) -> Issue | None:
    local = name.removeprefix("file://") if "::" not in name else name
    if "://" in local or "::" in local:
        return None
    file = project / local
    if file.is_file() or (folder and file.is_dir()):
        return None
    if file.is_dir():
        return Issue(path, f"{name} is a folder, and a file is needed.", "Name a file in it.")
    near = difflib.get_close_matches(file.name, _beside(file), n=1)
    remedy = f"Did you mean {near[0]}?" if near else "Put it there, or correct the path."
    counted = "" if Path(local).is_absolute() else " Relative paths count from the project folder."
    return Issue(path, f"there is no file {name}.", remedy + counted)


def _beside(file: Path) -> list[str]:
    try:
        return sorted(other.name for other in file.parent.iterdir())
    except OSError:
        return []
