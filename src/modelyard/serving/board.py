"""The supervisor's own account: what is committed, what should be, and what stands in the shared page."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping

from modelyard.errors import StorageError
from modelyard.records import Failure
from modelyard.serving.faults import Faults
from modelyard.serving.logs import Log
from modelyard.serving.route import Route, Sampling, Window, label_word
from modelyard.serving.state import OWN_LABELS, Committed, CommittedFile, Page, SlotRecord
from modelyard.serving.wire import SlotLoad

__all__ = ["Board"]


class Board:
    """What the supervisor knows of its slots. Its lock orders commits against workers that join.

    Args:
        file: The durable state.
        committed: What it holds, with folders that exist.
        page: Shared with the workers.
        faults: For tests.
        log: Of the supervisor.
    """

    def __init__(self, file: CommittedFile, committed: Committed, page: Page, faults: Faults, log: Log) -> None:
        self.lock = threading.RLock()
        self.page = page
        self.committed = committed
        self.broken: dict[str, Failure] = {}
        """Slots whose committed generation no worker could load, and why."""
        self._file = file
        self._faults = faults
        self._log = log
        self._expected: frozenset[str] | None = frozenset(committed.slots) if committed.slots else None
        self._ready = False
        self._accepting = False
        self._indices: dict[str, int] = {}
        self._numbers: dict[str, int] = {}
        for name, record in committed.slots.items():
            self._store_beside(name, record)
            self._store_route(name, record)

    def index(self, name: str) -> int:
        """Return the place of a slot in the shared page; a slot gets one when it is first asked for."""
        with self.lock:
            if name not in self._indices:
                # A place is never given to another name: a worker may still read it for the first.
                self.page.slot_word(len(self._indices))
                self._indices[name] = len(self._indices)
            return self._indices[name]

    def knows(self, name: str) -> bool:
        """Say whether a slot was ever given a place."""
        with self.lock:
            return name in self._indices

    def new_number(self, name: str) -> int:
        """Return a generation number that was never given, not even to a generation that was refused.

        Raises:
            RefusedError: The words of the shared page have no room for another one.
        """
        with self.lock:
            number = max(self.committed.next_number(name), self._numbers.get(name, 0) + 1)
            Route(number).pack()
            self._numbers[name] = number
            return number

    def loads(self) -> tuple[SlotLoad, ...]:
        """Return what a starting worker must hold."""
        with self.lock:
            loads = []
            for name in self.committed.slots.keys() | (self._expected or frozenset()):
                record = self.committed.slots.get(name)
                loads.append(SlotLoad(name, self.index(name), tuple(record.held.values()) if record else ()))
            return tuple(loads)

    def expects(self, name: str) -> bool:
        """Say whether a slot should be live."""
        with self.lock:
            return self._expected is not None and name in self._expected

    def commit(self, name: str, record: SlotRecord) -> None:
        """Make a slot what the record says: durably first, then at once for every worker.

        The words beside the route come first. Whoever takes the new generation finds its windows of grace; whoever
        took the old one still finds the windows that it had.

        Raises:
            RefusedError: A number has no room in its word; nothing was changed.
            StorageError: The state could not be written; the old generation goes on answering.
        """
        with self.lock:
            _route(record).pack()
            self._write(self.committed.with_slot(name, record))
            self._faults.at("state-written")
            self._store_beside(name, record)
            self._faults.at("words-stored")
            self._store_route(name, record)
            self._faults.at("word-stored")
            self.broken.pop(name, None)
            self._update_ready()

    def _store_beside(self, name: str, record: SlotRecord) -> None:
        words, first = self.page.words, self.page.slot_word(self.index(name))
        words[first + Page.PREVIOUS] = record.previous.number if record.previous else 0
        sampling = Sampling(record.shadow.generation.number, record.shadow.ppm) if record.shadow else Sampling(0, 0)
        words[first + Page.SHADOW] = sampling.pack()
        self._store_graces(first + Page.GRACE, record)
        self._store_labels(first + Page.LABELS, record)

    def _store_graces(self, first: int, record: SlotRecord) -> None:
        """Give each window a place; one that stays keeps its place, so that nobody misses it meanwhile."""
        words = self.page.words
        clock = time.monotonic_ns() // 1_000_000 - int(time.time() * 1000)
        wanted = {grace.generation.number: int(grace.until * 1000) + clock for grace in record.grace}
        free = []
        for place in range(first, first + Page.GRACES):
            number = Window.unpack(words[place]).generation
            if number in wanted:
                words[place] = Window(number, wanted.pop(number)).pack()
            else:
                free.append(place)
        for place in free:
            number = next(iter(wanted), 0)
            words[place] = Window(number, max(wanted.pop(number, 0), 0)).pack()

    def _store_labels(self, first: int, record: SlotRecord) -> None:
        words = self.page.words
        wanted = {label_word(name): number for name, number in record.labels.items() if name not in OWN_LABELS}
        free = []
        for place in range(first, first + 2 * Page.MAX_LABELS, 2):
            if words[place] in wanted:
                words[place + 1] = wanted.pop(words[place])
            else:
                free.append(place)
        for place in free:
            # A reader looks at the name again after it has read the number: the number goes first and comes last.
            words[place + 1] = 0
            words[place] = label = next(iter(wanted), 0)
            words[place + 1] = wanted.pop(label, 0)

    def _store_route(self, name: str, record: SlotRecord) -> None:
        self.page.words[self.page.slot_word(self.index(name))] = _route(record).pack()

    def forget(self, name: str, number: int) -> None:
        """Take a generation out of a slot that no worker can hold; the current one is never taken out.

        Raises:
            StorageError: The state could not be written.
        """
        with self.lock:
            record = self.committed.slots[name]
            if number != record.current.number:
                broken = self.broken.get(name)
                self.commit(name, record.without(number))
                if broken is not None:
                    self.mark_broken({name: broken})

    def retire(self, name: str) -> None:
        """Serve a model no more; requests for it get 404."""
        with self.lock:
            if name in self.committed.slots:
                self._write(self.committed.without_slot(name))
                self._faults.at("state-retired")
            first = self.page.slot_word(self.index(name))
            for offset in (Page.ROUTE, Page.SHADOW, Page.PREVIOUS, *range(Page.GRACE, Page.GRACE + Page.GRACES)):
                self.page.words[first + offset] = 0
            for place in range(first + Page.LABELS, first + Page.LABELS + 2 * Page.MAX_LABELS, 2):
                self.page.words[place + 1] = 0
                self.page.words[place] = 0
            self.broken.pop(name, None)
            self._update_ready()

    def _write(self, state: Committed) -> None:
        try:
            self._file.write(state)
        except StorageError:
            # The new file may have its name already while its folder could not be synced: put the old state back.
            try:
                self._file.write(self.committed)
            except StorageError as error:
                self._log.error("state-unwritable", reason=str(error))
            raise
        self.committed = state

    def expect(self, names: Iterable[str]) -> None:
        """Take down which slots should be live; the runner can't be ready before this is known."""
        with self.lock:
            self._expected = frozenset(names)
            self._update_ready()

    def mark_broken(self, failures: Mapping[str, Failure]) -> None:
        """Take down that no worker can load the committed generation of these slots."""
        with self.lock:
            self.broken.update(failures)
            self._update_ready()

    def mend(self, name: str) -> None:
        """Take down that a worker holds the committed generation after all."""
        with self.lock:
            self.broken.pop(name, None)
            self._update_ready()

    def workers_accept(self) -> None:
        """Take down that a worker accepts."""
        with self.lock:
            self._accepting = True
            self._update_ready()

    @property
    def ready(self) -> bool:
        """Whether every slot that should be live is. A load, or a model that is added, never takes it back."""
        return bool(self.page.words[Page.READY])

    def _update_ready(self) -> None:
        if not self._ready and self._expected is not None and self._accepting:
            self._ready = self._expected <= self.committed.slots.keys()
        self.page.words[Page.READY] = int(self._ready and not self.broken)

    def count(self, name: str, offset: int, *, add: int = 1) -> None:
        """Add to one of a slot's counters in the shared page."""
        with self.lock:
            self.page.words[self.page.slot_word(self.index(name)) + offset] += add

    def measure(self, name: str, offset: int, seconds: float) -> None:
        """Put a duration into one of a slot's words in the shared page."""
        with self.lock:
            self.page.words[self.page.slot_word(self.index(name)) + offset] = int(seconds * 1e9)


def _route(record: SlotRecord) -> Route:
    canary = record.canary
    return Route(record.current.number, canary.generation.number if canary else 0, canary.ppm if canary else 0)
