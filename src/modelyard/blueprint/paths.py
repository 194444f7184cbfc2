"""Places inside a blueprint: how a key path is written, and what is wrong there."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

__all__ = ["Issue", "KeyPath", "did_you_mean", "dotted", "listed"]

KeyPath = tuple[str | int, ...]
"""Keys and list indices from the top of a blueprint downwards."""


@dataclass(frozen=True, slots=True)
class Issue:
    """One thing wrong at a key path, before anybody knows the line.

    Args:
        path: Where; a missing key's path ends at the mapping that lacks it, and `key` names the key.
        what: One sentence or phrase that reads well after the dotted path.
        remedy: What to do.
        at: Whether the key or its value is wrong.
        key: A key under `path` that does not exist in the file.
    """

    path: KeyPath
    what: str
    remedy: str = ""
    at: Literal["key", "value"] = "value"
    key: str = ""

    @property
    def full_path(self) -> KeyPath:
        """The path a user reads, with a missing key at its end."""
        return (*self.path, self.key) if self.key else self.path


def dotted(path: KeyPath) -> str:
    """Write a path as users read it: `pipeline.steps[1].alpha`."""
    text = ""
    for key in path:
        if isinstance(key, int):
            text += f"[{key}]"
        else:
            text += f".{key}" if text else key
    return text


def listed(names: Iterable[str], last: str = "and") -> str:
    """Join names as a sentence does: `a, b and c`."""
    items = list(names)
    if len(items) < 2:
        return "".join(items)
    return f"{', '.join(items[:-1])} {last} {items[-1]}"


def did_you_mean(wrong: str, valid: Iterable[str], otherwise: str = "They are") -> str:
    """Return the remedy for a wrong name: the nearest valid one, or all of them."""
    names = list(valid)
    near = difflib.get_close_matches(wrong, names, n=1, cutoff=0.6)
    if not near:
        near = [name for name in names if name.lower() == wrong.lower().replace("-", "_")][:1]
    if near:
        return f"Did you mean {near[0]}?"
    return f"{otherwise} {listed(names)}." if names else ""
