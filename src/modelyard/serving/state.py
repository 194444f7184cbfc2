"""What the runner has committed: durably in `committed.json`, and at once, for every worker, in a shared page.

The durable file is written first, the word in the page is stored second, and only then is a swap acknowledged. After a
crash between the two, the restart serves what the file says: the whole new generation, or the whole old one.
"""

from __future__ import annotations

import mmap
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import msgspec

from modelyard.errors import InputError, IntegrityError, RefusedError
from modelyard.files import storage_errors, write_atomically

__all__ = [
    "OWN_LABELS",
    "Committed",
    "CommittedFile",
    "GenerationRecord",
    "Grace",
    "Page",
    "Share",
    "SlotRecord",
    "Stopped",
    "check_label",
]

HISTORY = 20
OWN_LABELS = ("stable", "canary")
"""Labels that follow the slot's route; no hand gives them."""

_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


def check_label(label: str) -> None:
    """See that a label may be given by hand.

    Raises:
        InputError: It can't be one, or is one of the service's own.
    """
    if label in OWN_LABELS or not _LABEL.fullmatch(label):
        raise InputError(
            f"{label[:80]!r} can't be given as a label.",
            remedy=f"Use letters, digits, `.`, `-` and `_`, and none of {', '.join(OWN_LABELS)}.",
        )


class GenerationRecord(msgspec.Struct, frozen=True):
    """One generation of a slot, as it is remembered.

    Args:
        number: Counted from 1 in its slot; never given twice.
        model: Name of the model that it serves.
        version: Such as `v1.2.0`.
        package: Digest of the package.
        folder: Local, verified folder with the package.
        committed: When it was committed first, in seconds since 1970, UTC.
        inputs: Digest of what its contract takes; empty where no worker has told it yet.
        pickle: BLAKE3 of the pickled model in the package that may be loaded; None: none may. It is learned anew
            at each start: what is remembered of it counts for nothing.
    """

    number: int
    model: str
    version: str
    package: str
    folder: str
    committed: float = 0.0
    inputs: str = ""
    pickle: str | None = None

    def same_package(self, version: str, package: str) -> bool:
        """Say whether this generation is that version of that package."""
        return self.version == version and self.package == package


class Share(msgspec.Struct, frozen=True):
    """A generation beside the stable one, and its share of the requests.

    Args:
        generation: A canary answers them, a shadow sees copies.
        ppm: In parts per million.
        since: When it began, in seconds since 1970, UTC.
    """

    generation: GenerationRecord
    ppm: int
    since: float = 0.0


class Grace(msgspec.Struct, frozen=True):
    """A generation whose contract was replaced.

    Args:
        generation: It answers what fits only that contract.
        until: Seconds since 1970, UTC.
    """

    generation: GenerationRecord
    until: float


class Stopped(msgspec.Struct, frozen=True):
    """A canary or shadow that passed the service's limits.

    Args:
        role: Which of the two.
        generation: Its number.
        version: Its version.
        package: Its package.
        reason: What it passed, with the figures.
        time: Seconds since 1970, UTC.
    """

    role: Literal["canary", "shadow"]
    generation: int
    version: str
    package: str
    reason: str
    time: float


class SlotRecord(msgspec.Struct, frozen=True):
    """One slot, as it is remembered. Its methods return the slot as it stands after a change.

    Args:
        current: The generation that answers.
        previous: The one before it, kept loaded so that a rollback needs no load.
        last: The highest number ever committed in this slot.
        labels: Names for generations; `stable` is the one that answers all unlabelled requests.
        history: The last twenty stable generations in the order of their commits, oldest first.
        canary: What answers a share of the requests instead of the current one.
        shadow: What sees copies of requests.
        grace: Generations whose contract was replaced a short time ago, the latest first.
        labelled: What the labels given by hand name; a label keeps its generation loaded.
        held_off: Version and package that are not to be served although they are released.
        stopped: The canary or shadow that was stopped last.
    """

    current: GenerationRecord
    previous: GenerationRecord | None = None
    last: int = 0
    labels: dict[str, int] = {}
    history: tuple[GenerationRecord, ...] = ()
    canary: Share | None = None
    shadow: Share | None = None
    grace: tuple[Grace, ...] = ()
    labelled: tuple[GenerationRecord, ...] = ()
    held_off: tuple[str, str] | None = None
    stopped: Stopped | None = None

    @classmethod
    def first(cls, generation: GenerationRecord) -> SlotRecord:
        """Return a slot that has this generation and no other."""
        return cls(generation, None, generation.number, {"stable": generation.number}, (generation,))

    @property
    def held(self) -> dict[int, GenerationRecord]:
        """What every worker must hold, by number; the current one first."""
        shares = [share.generation for share in (self.canary, self.shadow) if share]
        others = [self.previous] if self.previous else []
        graces = [grace.generation for grace in self.grace]
        return {one.number: one for one in (self.current, *shares, *others, *graces, *self.labelled)}

    @property
    def routed(self) -> set[int]:
        """The numbers of what stands beside the current one by somebody's will: canary, shadow, labelled."""
        shares = [share.generation.number for share in (self.canary, self.shadow) if share]
        return {*shares, *(one.number for one in self.labelled)}

    def find(self, version: str, package: str) -> GenerationRecord | None:
        """Return the generation with that package that is held already, or None."""
        return next((one for one in self.held.values() if one.same_package(version, package)), None)

    def after(self, generation: GenerationRecord, now: float = 0.0, grace_seconds: float = 0.0) -> SlotRecord:
        """Return the slot once this generation is stable; the current one becomes the previous, a canary ends.

        Args:
            generation: What answers from now on.
            now: Seconds since 1970, UTC.
            grace_seconds: How long the current one answers what fits only its contract, if the contract is another.
        """
        before = self.current
        if before.number == generation.number:
            return msgspec.structs.replace(self, current=generation, canary=None)._labelled_anew()
        kept = [grace for grace in self.grace if grace.until > now and grace.generation.number != before.number]
        if grace_seconds > 0 and before.inputs and generation.inputs and before.inputs != generation.inputs:
            kept.insert(0, Grace(before, now + grace_seconds))
        return msgspec.structs.replace(
            self,
            current=generation,
            previous=before,
            last=max(self.last, generation.number),
            history=(*self.history, generation)[-HISTORY:],
            canary=None,
            shadow=None if self.shadow and self.shadow.generation.number == generation.number else self.shadow,
            grace=tuple(kept[: Page.GRACES]),
        )._labelled_anew()

    def with_canary(self, canary: Share | None, stopped: Stopped | None = None) -> SlotRecord:
        """Return the slot with this canary or none; what was its shadow is so no more."""
        shadow = self.shadow
        if canary and shadow and shadow.generation.number == canary.generation.number:
            shadow = None
        return msgspec.structs.replace(
            self,
            canary=canary,
            shadow=shadow,
            stopped=stopped or self.stopped,
            last=max(self.last, canary.generation.number if canary else 0),
        )._labelled_anew()

    def with_shadow(self, shadow: Share | None, stopped: Stopped | None = None) -> SlotRecord:
        """Return the slot with this shadow or none."""
        last = max(self.last, shadow.generation.number if shadow else 0)
        return msgspec.structs.replace(self, shadow=shadow, stopped=stopped or self.stopped, last=last)

    def with_label(self, label: str, generation: GenerationRecord | None) -> SlotRecord:
        """Return the slot with a label on a generation, or without the label."""
        labels = {name: number for name, number in self.labels.items() if name != label}
        records = {one.number: one for one in self.labelled}
        if generation is not None:
            labels[label] = records.setdefault(generation.number, generation).number
        named = {number for name, number in labels.items() if name not in OWN_LABELS}
        labelled = tuple(one for number, one in records.items() if number in named)
        return msgspec.structs.replace(self, labels=labels, labelled=labelled)

    def without_old_graces(self, now: float) -> SlotRecord:
        """Return the slot without the windows of grace that are over."""
        return msgspec.structs.replace(self, grace=tuple(grace for grace in self.grace if grace.until > now))

    def without(self, number: int) -> SlotRecord:
        """Return the slot without a generation that can't be held; not for the current one."""
        slot = self
        for label in [label for label, named in self.labels.items() if named == number and label not in OWN_LABELS]:
            slot = slot.with_label(label, None)
        return msgspec.structs.replace(
            slot,
            previous=None if slot.previous and slot.previous.number == number else slot.previous,
            canary=None if slot.canary and slot.canary.generation.number == number else slot.canary,
            shadow=None if slot.shadow and slot.shadow.generation.number == number else slot.shadow,
            grace=tuple(grace for grace in slot.grace if grace.generation.number != number),
        )._labelled_anew()

    def replaced(self, records: Mapping[int, GenerationRecord]) -> SlotRecord:
        """Return the slot with these records in the places of those with the same numbers."""

        def new(record: GenerationRecord) -> GenerationRecord:
            return records.get(record.number, record)

        def share(old: Share | None) -> Share | None:
            return msgspec.structs.replace(old, generation=new(old.generation)) if old else None

        return msgspec.structs.replace(
            self,
            current=new(self.current),
            previous=new(self.previous) if self.previous else None,
            canary=share(self.canary),
            shadow=share(self.shadow),
            grace=tuple(Grace(new(grace.generation), grace.until) for grace in self.grace),
            labelled=tuple(new(one) for one in self.labelled),
        )

    def _labelled_anew(self) -> SlotRecord:
        own = {"stable": self.current.number}
        if self.canary:
            own["canary"] = self.canary.generation.number
        given = {name: number for name, number in self.labels.items() if name not in OWN_LABELS}
        return msgspec.structs.replace(self, labels=own | given)


class Committed(msgspec.Struct, frozen=True):
    """All slots of a runner, as they are remembered, by name.

    Args:
        slots: What is served.
        retired: The highest number that each retired slot had, so that no number is ever given twice.
        format: Of the file.
    """

    slots: dict[str, SlotRecord] = {}
    retired: dict[str, int] = {}
    format: int = 1

    def next_number(self, slot: str) -> int:
        """Return the number of the next generation of a slot."""
        record = self.slots.get(slot)
        return 1 + (record.last if record else self.retired.get(slot, 0))

    def with_slot(self, name: str, record: SlotRecord) -> Committed:
        """Return the state with this slot set."""
        return Committed({**self.slots, name: record}, self.retired)

    def without_slot(self, name: str) -> Committed:
        """Return the state without this slot."""
        rest = {key: value for key, value in self.slots.items() if key != name}
        return Committed(rest, {**self.retired, name: self.slots[name].last})


class CommittedFile:
    """`committed.json` of a service folder.

    Args:
        folder: The service's folder.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "committed.json"

    def read(self) -> Committed:
        """Return the committed state; a folder without the file has none.

        Raises:
            IntegrityError: The file was damaged by something else than the runner, which replaces it whole.
        """
        with storage_errors(self.path):
            try:
                data = self.path.read_bytes()
            except FileNotFoundError:
                return Committed()
        try:
            return msgspec.json.decode(data, type=Committed)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise IntegrityError(
                f"The committed state can't be read: {error}.",
                where=str(self.path),
                remedy="Remove the file; the runner then takes what is released.",
            ) from error

    def write(self, state: Committed) -> None:
        """Replace the state durably.

        Raises:
            StorageError: The disk is full or read-only; the file says what it said before.
        """
        write_atomically(self.path, msgspec.json.format(msgspec.json.encode(state), indent=2) + b"\n")


class Page:
    """Aligned 64-bit words that the supervisor and all workers share.

    Word 1 says whether the runner is ready, 2 how many workers were replaced, 3 how many wait for memory. From word 8
    on, each worker has one word with the requests it holds, and from word 256 on one that its event loop counts up as
    long as it turns. From word 512 on, each slot has 32: its route, counters, shadow, the generation before, two
    windows of grace, and eight labels as pairs of a name's word and a generation. A word is one aligned 8-byte load or
    store of the processor, so a reader sees an old or a new number and never a part of one; each word has a single
    writer.

    The page is an anonymous file (`memfd_create`), not one in the service's folder: writing a page back to a disk can
    block who stores to it, and a restarted supervisor must not share words with workers of the one that died.
    """

    WORDS = 16384
    READY = 1
    RESTARTS = 2
    HELD_BACK = 3
    WORKERS = 8
    MAX_WORKERS = 248
    PULSES = 256
    SLOTS = 512
    SLOT_WORDS = 32
    MAX_SLOTS = (WORDS - SLOTS) // SLOT_WORDS

    ROUTE = 0
    SWAPS = 1
    FAILED = 2
    ROLLBACKS = 3
    PREPARE_NS = 4
    COMMIT_NS = 5
    SHADOW = 6
    PREVIOUS = 7
    GRACE = 8
    GRACES = 2
    CANARIES_STOPPED = 10
    SHADOWS_STOPPED = 11
    COMPARED = 12
    DIFFERING = 13
    DROPPED = 14
    LABELS = 16
    MAX_LABELS = 8

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._map = mmap.mmap(descriptor, self.WORDS * 8)
        self.words = memoryview(self._map).cast("Q")

    @classmethod
    def create(cls) -> Page:
        """Make a page of zeros."""
        descriptor = os.memfd_create("modelyard-serving", os.MFD_CLOEXEC)
        os.ftruncate(descriptor, cls.WORDS * 8)
        return cls(descriptor)

    def slot_word(self, index: int) -> int:
        """Return the position of a slot's first word, its route.

        Raises:
            RefusedError: The runner has no room for so many models.
        """
        if not 0 <= index < self.MAX_SLOTS:
            raise RefusedError(
                f"A runner serves at most {self.MAX_SLOTS} models.", remedy="Start another service for the others."
            )
        return self.SLOTS + index * self.SLOT_WORDS

    def in_flight(self, workers: int) -> int:
        """Return how many requests all workers hold at this moment."""
        return sum(self.words[self.WORKERS : self.WORKERS + workers])

    def close(self) -> None:
        """Give the memory back."""
        self.words.release()
        self._map.close()
        os.close(self.descriptor)
