"""From the repository to the state, reading only what is new: tags never change, so each is checked once."""

from __future__ import annotations

import contextlib
import hmac
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol, cast

import msgspec
from blake3 import blake3

from modelyard.center.events import (
    Approved,
    HoldLifted,
    Registered,
    Rejected,
    Released,
    RolledBack,
    Unreadable,
    parse_tag_name,
)
from modelyard.center.people import PEOPLE_FILE, People, parse_people
from modelyard.center.policy import Policies
from modelyard.center.registry import Registry
from modelyard.center.rules import fold
from modelyard.center.signatures import Verifier
from modelyard.center.tags import Repository, read_tag
from modelyard.files import blake3_bytes

__all__ = ["Cache", "Reader", "Snapshot"]

CACHE_KIND = "center"
CACHE_FORMAT = 1
CACHE_KEY = "modelyard-cache-key"
SEAL_BYTES = 32
THREADS = 4  # checking a signature gives up the interpreter's lock

AnyEvent = Registered | Approved | Rejected | Released | RolledBack | HoldLifted | Unreadable


class Cache(Protocol):
    """Where small, derived values are kept; the catalog is one. Losing it costs time, nothing else."""

    def remember(self, kind: str, key: str, value: bytes) -> None:
        """Keep a value under a kind and a key."""

    def recall(self, kind: str, key: str) -> bytes | None:
        """Return the value, or None."""


class _Remembered(msgspec.Struct, array_like=True):
    """What is known of a repository's tags: each parsed, its signature checked. People and policy are not in it.

    Args:
        format: Of this blob.
        listing: BLAKE3 of the listing that the events are of.
        lines: Listing's line of each event.
        events: In the listing's order.
        people_id: Id of the blob that `people` was read from.
        people: Those of that blob.
    """

    format: int = CACHE_FORMAT
    listing: str = ""
    lines: list[bytes] = []
    events: list[AnyEvent] = []
    people_id: str = ""
    people: People = People()


class _Blob(msgspec.Struct, array_like=True):
    """`_Remembered` as bytes: versions of a project share their environments, which are most of their size.

    Args:
        known: With the environments taken out.
        environments: Each different one once.
        places: For each registration, in order, which of them is its own.
    """

    known: _Remembered
    environments: list[dict[str, str]]
    places: list[int]


class Snapshot(msgspec.Struct, frozen=True):
    """The state at one moment, and what it was made of.

    Args:
        registry: The state.
        people: Those of the commit HEAD.
        has_people: Whether HEAD has a `people.yaml`.
        events: Every tag in the grammar, also those that do not count.
    """

    registry: Registry
    people: People
    has_people: bool
    events: list[AnyEvent]

    def next_number(self, model: str) -> int:
        """Return the number that a model's next tag takes."""
        return max((event.number for event in self.events if event.model == model), default=0) + 1

    def next_time(self, model: str, now: int) -> int:
        """Return a date later than every tag of the model that counts, at best now.

        GTO orders by a date of one second's resolution; our own fold does not.
        """
        found = self.registry.models.get(model)
        return max(now, max((event.time for event in found.events), default=0) + 1) if found else now


class _Sealed:
    """A cache whose values count only if this clone wrote them.

    What is remembered says whose signature was valid, and a catalog may be a database that others can write. So each
    value carries a keyed BLAKE3, and the key lies in `.git`: who can read it there can change HEAD as well.

    Args:
        cache: Where the values are kept.
        git_folder: Where the key lies; one that can't be written to has no cache.
    """

    def __init__(self, cache: Cache, git_folder: Path) -> None:
        self._cache = cache
        self._secret = _secret(git_folder / CACHE_KEY)

    def remember(self, kind: str, key: str, value: bytes) -> None:
        """Keep a value with its seal."""
        if self._secret:
            self._cache.remember(kind, self._own(key), self._seal(key, value) + value)

    def recall(self, kind: str, key: str) -> bytes | None:
        """Return the value, or None where it is not there or somebody else wrote it."""
        found = self._cache.recall(kind, self._own(key)) if self._secret else None
        if found is None:
            return None
        seal, value = found[:SEAL_BYTES], found[SEAL_BYTES:]
        return value if hmac.compare_digest(seal, self._seal(key, value)) else None

    def _own(self, key: str) -> str:
        """Two clones at one path of two machines must not undo each other's values."""
        return f"{key}:{self._seal(key, b'').hex()[:16]}"

    def _seal(self, key: str, value: bytes) -> bytes:
        name = key.encode(errors="surrogateescape")
        return blake3(len(name).to_bytes(4, "big") + name + value, key=self._secret).digest()


def _secret(path: Path) -> bytes:
    """Return the key in a file that only its owner reads, made where there is none; or nothing."""
    temp = path.with_name(f"{path.name}.{os.urandom(6).hex()}")
    try:
        if not path.exists():
            descriptor = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                os.write(descriptor, os.urandom(SEAL_BYTES))
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            with contextlib.suppress(FileExistsError):
                os.link(temp, path)
        secret = path.read_bytes()
    except OSError:
        return b""
    finally:
        with contextlib.suppress(OSError):
            temp.unlink(missing_ok=True)
    return secret if len(secret) == SEAL_BYTES else b""


class Reader:
    """Reads the state of a repository, again and again; several threads may ask at once.

    Args:
        repository: Where the tags are.
        policy: One for all models, or one by name.
        cache: Remembers checked tags between processes; None: this object alone remembers.
    """

    def __init__(self, repository: Repository, policy: Policies, cache: Cache | None) -> None:
        self._repository = repository
        self._policy = policy
        self._cache = None if cache is None else _Sealed(cache, repository.git_folder)
        self._key = f"{repository.git_folder}:{repository.prefix}"
        self._lock = threading.Lock()
        self._verifier = Verifier()
        self._known = _Remembered()
        self._asked_cache = cache is None
        self._last: tuple[tuple[str, str], Snapshot] | None = None

    def read(self) -> Snapshot:
        """Return the state as it is now. Two calls to Git where nothing changed, a third for new tags.

        Raises:
            InputError: `people.yaml` in HEAD is wrong.
        """
        with self._lock:
            return self._read()

    def _read(self) -> Snapshot:
        with ThreadPoolExecutor(1) as pool:
            listed = pool.submit(self._repository.listing)  # meanwhile the rest is read
            (people_file,) = self._repository.read([f"HEAD:{self._repository.prefix}{PEOPLE_FILE}"])
            self._recall()
            listing = listed.result()
        people_id = people_file.id if people_file else ""
        digest = blake3_bytes(listing)
        if self._last and self._last[0] == (digest, people_id):
            return self._last[1]
        known, changed = self._known, False
        if known.people_id != people_id:
            known.people = parse_people(people_file.content, f"{PEOPLE_FILE} (in HEAD)") if people_file else People()
            known.people_id, changed = people_id, True
        if known.listing != digest:
            known.lines, known.events = self._events(listing, dict(zip(known.lines, known.events, strict=True)))
            known.listing, changed = digest, True
        if changed and self._cache is not None:
            self._cache.remember(CACHE_KIND, self._key, _pack(known))
        registry = fold(known.events, self._policy, known.people)
        snapshot = Snapshot(registry, known.people, people_file is not None, known.events)
        self._last = ((digest, people_id), snapshot)
        return snapshot

    def _recall(self) -> None:
        if self._asked_cache or self._cache is None:
            return
        self._asked_cache = True
        blob = self._cache.recall(CACHE_KIND, self._key)
        try:
            self._known = _unpack(blob) if blob else self._known
        except (msgspec.MsgspecError, ValueError):
            return  # written by another version, or damaged: it is only a cache

    def _events(self, listing: bytes, known: dict[bytes, AnyEvent]) -> tuple[list[bytes], list[AnyEvent]]:
        lines: list[bytes] = []
        names: list[tuple[int, str]] = []
        events: list[AnyEvent | None] = []
        for line in listing.splitlines():
            event = known.get(line)
            if event is None:
                name = line.partition(b" ")[2].decode(errors="surrogateescape")
                if parse_tag_name(name) is None:
                    continue
                names.append((len(events), name))
            lines.append(line)
            events.append(event)
        objects = self._repository.read([lines[place].partition(b" ")[0].decode() for place, _ in names])

        def parsed(place: int) -> AnyEvent | None:
            return cast(AnyEvent | None, read_tag(names[place][1], objects[place], self._verifier))

        if len(names) < 100:
            fresh = [parsed(place) for place in range(len(names))]
        else:
            with ThreadPoolExecutor(THREADS) as pool:
                fresh = list(pool.map(parsed, range(len(names)), chunksize=64))
        for (place, _), event in zip(names, fresh, strict=True):
            events[place] = event
        return lines, [event for event in events if event is not None]


def _pack(known: _Remembered) -> bytes:
    environments: list[dict[str, str]] = []
    indices: dict[bytes, int] = {}
    events: list[AnyEvent] = []
    places: list[int] = []
    for event in known.events:
        if isinstance(event, Registered):
            key = msgspec.msgpack.encode(event.environment)
            if key not in indices:
                indices[key] = len(environments)
                environments.append(event.environment)
            places.append(indices[key])
            event = msgspec.structs.replace(event, environment={})
        events.append(event)
    return msgspec.msgpack.encode(_Blob(msgspec.structs.replace(known, events=events), environments, places))


def _unpack(data: bytes) -> _Remembered:
    blob = msgspec.msgpack.decode(data, type=_Blob)
    known = blob.known
    registered = sum(isinstance(event, Registered) for event in known.events)
    fits = len(known.lines) == len(known.events) and registered == len(blob.places)
    if known.format != CACHE_FORMAT or not fits or max(blob.places, default=-1) >= len(blob.environments):
        raise ValueError("of another format")
    places = iter(blob.places)
    known.events = [
        msgspec.structs.replace(event, environment=blob.environments[next(places)])
        if isinstance(event, Registered)
        else event
        for event in known.events
    ]
    return known
