"""What the runner has committed: durably in `committed.json`, and at once, for every worker, in a shared page.

The durable file is written first, the word in the page is stored second, and only then is a swap acknowledged. After a
crash between the two, the restart serves what the file says: the whole new generation, or the whole old one.
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import msgspec

from modelyard.errors import IntegrityError, RefusedError
from modelyard.files import storage_errors, write_atomically

__all__ = [
    "Committed",
    "CommittedFile",
    "GenerationRecord",
    "Page",
    "SlotRecord",
]

HISTORY = 20


class GenerationRecord(msgspec.Struct, frozen=True):
    """One generation of a slot, as it is remembered.

    Args:
        number: Counted from 1 in its slot; never given twice.
        model: Name of the model that it serves.
        version: Such as `v1.2.0`.
        package: Digest of the package.
        folder: Local, verified folder with the package.
        committed: When it was committed first, in seconds since 1970, UTC.
    """

    number: int
    model: str
    version: str
    package: str
    folder: str
    committed: float = 0.0

    def same_package(self, version: str, package: str) -> bool:
        """Say whether this generation is that version of that package."""
        return self.version == version and self.package == package


class SlotRecord(msgspec.Struct, frozen=True):
    """One slot, as it is remembered.

    Args:
        current: The generation that answers.
        previous: The one before it, kept loaded so that a rollback needs no load.
        last: The highest number ever committed in this slot.
        labels: Names for generations; `stable` is the one that answers all unlabelled requests.
        history: The last twenty generations in the order of their commits, oldest first.
    """

    current: GenerationRecord
    previous: GenerationRecord | None = None
    last: int = 0
    labels: dict[str, int] = {}
    history: tuple[GenerationRecord, ...] = ()

    def after(self, generation: GenerationRecord) -> SlotRecord:
        """Return the slot as it stands once this generation is committed; the current one becomes the previous."""
        return SlotRecord(
            current=generation,
            previous=self.current if self.current.number != generation.number else self.previous,
            last=max(self.last, generation.number),
            labels={**self.labels, "stable": generation.number},
            history=(*self.history, generation)[-HISTORY:],
        )

    @classmethod
    def first(cls, generation: GenerationRecord) -> SlotRecord:
        """Return a slot that has this generation and no other."""
        return cls(generation, None, generation.number, {"stable": generation.number}, (generation,))


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

    Word 1 says whether the runner is ready. From word 8 on, each worker has one word with the requests it holds, and
    from word 256 on one that its event loop counts up as long as it turns. From word 512 on, each slot has 32: its
    route, counters, shadow, the generation before, two windows of grace, and eight labels as pairs of a name's word
    and a generation. A word is one aligned 8-byte load or store of the processor, so a reader sees an old or a new
    number and never a part of one; each word has a single writer.

    The page is an anonymous file (`memfd_create`), not one in the service's folder: writing a page back to a disk can
    block who stores to it, and a restarted supervisor must not share words with workers of the one that died.
    """

    WORDS = 16384
    READY = 1
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
