"""Remove what no name leads to.

Marking starts at the names. An object that a name points at is live; whatever digests stand in a live JSON object are
live if the store has such objects. That covers records (artefacts, logs, blueprints) and manifests (files, bundles)
alike, and whatever a later version adds, without this module knowing any of their fields.

What a run writes meanwhile is safe for two reasons. An object younger than the grace period is kept, and putting an
object that is older than an hour makes it young again. And that renewal passes the same lock that deleting holds alone,
so an object is either renewed before its age is looked at for the last time, or found missing and written anew.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from modelyard.errors import NotFoundError, StorageError
from modelyard.store.store import Store

__all__ = ["GRACE_SECONDS", "Collected", "collect", "references"]

GRACE_SECONDS = 24 * 3600.0
"""Longer than any step should take between its first output and the record that names it."""

_JSON_LIMIT = 64 << 20
_FACTS_SECONDS = 30 * 24 * 3600.0
_BATCH = 200
_DIGEST = re.compile(rb'"([0-9a-f]{64})"')


@dataclass(frozen=True, slots=True)
class Collected:
    """What a collection removed, or would remove.

    Args:
        objects: Their digests, sorted.
        bytes: Their sizes together, and those of what dead processes left.
        kept: How many objects stay because something refers to them.
        young: How many stay although nothing does, because a run may be about to name them.
        missing: Digests that names point at and the store lacks; run `verify`.
        dry_run: Whether everything is still there.
    """

    objects: tuple[str, ...]
    bytes: int
    kept: int
    young: int
    missing: tuple[str, ...]
    dry_run: bool


def collect(store: Store, *, dry_run: bool, grace: float = GRACE_SECONDS) -> Collected:
    """Remove the objects that no name leads to, leftovers of dead processes, and cached trees nobody needs.

    Args:
        store: The store.
        dry_run: Whether only to say what would go.
        grace: Seconds for which an object is kept after it was put. Under two hours it is safe only while nothing runs.

    Raises:
        StorageError: Something can't be read or removed; what is live is never touched, so collect again.
        IntegrityError: An object that has to be followed is damaged, so nothing is removed: what it needs is unknown.
    """
    sizes: dict[str, int] = {}
    written: dict[str, float] = {}
    # Listed before the names are read: what appears later is not looked at, and so not removed.
    for digest, size, when in store.objects.written():
        sizes[digest], written[digest] = size, when
    before = time.time() - grace
    live, missing = mark(store, sizes)
    loose = [digest for digest in sizes if digest not in live]
    old = [digest for digest in loose if written[digest] < before]
    if dry_run:
        gone, freed = old, 0
    else:
        gone = list(_expire(store, old, before))
        freed = _tidy(store, live, before)
    return Collected(
        objects=tuple(sorted(gone)),
        bytes=freed + sum(sizes[digest] for digest in gone),
        kept=len(sizes) - len(loose),
        young=len(loose) - len(gone),
        missing=missing,
        dry_run=dry_run,
    )


def mark(store: Store, sizes: dict[str, int]) -> tuple[set[str], tuple[str, ...]]:
    """Return every object that a name leads to, and what names point at in vain."""
    roots = [digest for _, digest in store.names.list()]
    missing = tuple(sorted({digest for digest in roots if digest not in sizes}))
    live: set[str] = set()
    waiting = [digest for digest in roots if digest in sizes]
    while waiting:
        digest = waiting.pop()
        if digest in live:
            continue
        live.add(digest)
        waiting.extend(found for found in references(store, digest, sizes[digest]) if found in sizes)
    return live, missing


def references(store: Store, digest: str, size: int) -> Iterable[str]:
    """Return the digests that stand as texts in an object, if it is a JSON object.

    Raises:
        IntegrityError: The object's bytes have changed.
    """
    if size > _JSON_LIMIT or not _looks_like_json(store, digest):
        return ()
    try:
        data = store.objects.get(digest)
    except NotFoundError:
        return ()
    return {match.decode() for match in _DIGEST.findall(data)}


def _looks_like_json(store: Store, digest: str) -> bool:
    return store.objects.head(digest, 1) == b"{"


def _expire(store: Store, old: list[str], before: float) -> Iterator[str]:
    for start in range(0, len(old), _BATCH):
        # In batches, so that a writer never waits longer than some milliseconds.
        with store.gate.alone():
            for digest in old[start : start + _BATCH]:
                if store.objects.expire(digest, before):
                    yield digest


def _tidy(store: Store, live: set[str], before: float) -> int:
    with store.gate.alone():
        freed = store.temp.sweep()
    for digest, used in list(store.cache.digests()):
        if digest not in live and used < before:
            store.cache.drop(digest)
    with contextlib.suppress(StorageError):
        store.index.forget(time.time() - _FACTS_SECONDS)
    return freed
