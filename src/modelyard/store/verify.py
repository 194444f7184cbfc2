"""Read every byte of a store, and say what is damaged or missing and what that concerns."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from modelyard.errors import InputError, IntegrityError, NotFoundError
from modelyard.store.store import Store
from modelyard.store.tree import FORMAT, decode_manifest

__all__ = ["Damage", "required", "verify"]

_JSON_LIMIT = 64 << 20
_DIGEST = re.compile(r"[0-9a-f]{64}")
_DIGEST_KEYS = ("log", "blueprint_object")


@dataclass(frozen=True, slots=True)
class Damage:
    """One thing that is wrong in a store.

    Args:
        digest: The object, or for `cache` the tree.
        kind: `changed`: its bytes differ from its digest. `missing`: something needs it and it is not there.
            `cache`: a local copy of a tree had changed; it was removed, and is built again when needed.
        where: The file, or the path of the object within the store.
        names: The names that lead to it, sorted; empty for an object nobody needs.
    """

    digest: str
    kind: Literal["changed", "missing", "cache"]
    where: str
    names: tuple[str, ...]

    def __str__(self) -> str:
        what = {"changed": "changed", "missing": "is missing", "cache": "had a changed copy in the cache, now removed"}
        needed = f"; needed by {', '.join(self.names)}" if self.names else "; nothing needs it"
        return f"{self.digest} {what[self.kind]} ({self.where}){needed}"


def verify(store: Store) -> Iterator[Damage]:
    """Yield everything that is damaged or missing; a sound store yields nothing.

    Every object is read whole and hashed again, whatever was verified before.

    Raises:
        StorageError: Something can't be read.
    """
    present = {digest for digest, _ in store.objects.list()}
    changed: dict[str, str] = {}
    for digest in sorted(present):
        try:
            store.objects.check(digest)
        except IntegrityError as error:
            changed[digest] = error.where or ""
        except NotFoundError:
            # A collection that runs beside us took it.
            present.discard(digest)
    parents = _parents(store, present, set(changed))
    for digest, where in changed.items():
        yield Damage(digest, "changed", where, _names(digest, parents))
    for digest in sorted(parents.keys() - present):
        yield Damage(digest, "missing", f"objects/{digest[:2]}/{digest[2:]}", _names(digest, parents))
    for digest, path in store.cache.check():
        yield Damage(digest, "cache", str(path), _names(digest, parents))


def required(data: bytes, digest: str) -> Iterator[str]:
    """Yield the objects without which an object is of no use: a tree's files, a record's artefacts, logs, blueprint.

    Args:
        data: The object's bytes.
        digest: Its digest, for messages.
    """
    if data[:1] != b"{" or len(data) > _JSON_LIMIT:
        return
    if FORMAT.encode() in data:
        try:
            yield from decode_manifest(data, digest).objects
        except InputError:
            pass
        else:
            return
    try:
        value = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return
    yield from _in_record(value)


def _in_record(value: Any) -> Iterator[str]:
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, list):
            waiting.extend(item)
        elif isinstance(item, dict):
            if "materializer" in item and _is_digest(item.get("digest")):
                yield item["digest"]
            yield from (item[key] for key in _DIGEST_KEYS if _is_digest(item.get(key)))
            waiting.extend(item.values())


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and _DIGEST.fullmatch(value) is not None


def _parents(store: Store, present: set[str], damaged: set[str]) -> dict[str, set[str]]:
    """Return for every object that is needed what needs it: digests, and names with a slash in front."""
    parents: dict[str, set[str]] = defaultdict(set)
    waiting = []
    for name, digest in store.names.list():
        parents[digest].add(f"/{name}")
        waiting.append(digest)
    seen: set[str] = set()
    while waiting:
        digest = waiting.pop()
        if digest in seen or digest in damaged or digest not in present:
            continue
        seen.add(digest)
        if store.objects.head(digest, 1) != b"{":
            continue
        for child in required(store.objects.get(digest), digest):
            parents[child].add(digest)
            waiting.append(child)
    return parents


def _names(digest: str, parents: dict[str, set[str]]) -> tuple[str, ...]:
    names: set[str] = set()
    seen: set[str] = set()
    waiting = [digest]
    while waiting:
        item = waiting.pop()
        if item.startswith("/"):
            names.add(item[1:])
        elif item not in seen:
            seen.add(item)
            waiting.extend(parents.get(item, ()))
    return tuple(sorted(names))
