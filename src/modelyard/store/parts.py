"""What a store is put together from; each kind of place builds it in its own adapter."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from modelyard.contracts import Names, Objects
from modelyard.store.guard import Gate, Pending, TempArea
from modelyard.store.index import StatIndex

__all__ = ["Parts", "StoreObjects"]


class StoreObjects(Objects, Protocol):
    """What a store needs of objects beyond the contract, so that collection does not disturb running steps."""

    def head(self, digest: str, count: int) -> bytes:
        """Return the first bytes, not verified; nothing where the object is not there."""

    def check(self, digest: str) -> None:
        """Read the object whole and hash it again; raises IntegrityError or NotFoundError."""

    def copy(self, digest: str, target: Path, mode: int) -> None:
        """Write the object into a new file, verified as `fetch` verifies; nothing is left there where that fails."""

    def renew(self, digest: str) -> bool:
        """Say whether the object is there, and if so keep it from collection as if it were put now."""

    def take_file(self, path: Path) -> str:
        """Keep a file of the store's own temporary folder by moving it; a local copy stays cheap to fetch."""

    def written(self) -> Iterator[tuple[str, int, float]]:
        """Yield digest, size and the time of the last put, in seconds since 1970."""

    def expire(self, digest: str, before: float) -> bool:
        """Remove an object unless it was put at or after `before`; say whether it is gone."""


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of a store.

    Args:
        objects: Where the bytes are.
        names: What points at them.
        cache: A local folder for what can be built again.
        index: Remembers files by their stat; lies in the cache.
        temp: Where local files are built before they are renamed into place; on the file system of the cache.
        gate: Keeps collection apart from writers.
        pending: What has to be synced.
    """

    objects: StoreObjects
    names: Names
    cache: Path
    index: StatIndex
    temp: TempArea
    gate: Gate
    pending: Pending
