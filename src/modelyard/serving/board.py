"""The supervisor's own account: what is committed, what should be, and what stands in the shared page."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping

from modelyard.errors import StorageError
from modelyard.records import Failure
from modelyard.serving.faults import Faults
from modelyard.serving.logs import Log
from modelyard.serving.state import Committed, CommittedFile, Page, SlotRecord
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
            page.words[page.slot_word(self.index(name))] = record.current.number

    def index(self, name: str) -> int:
        """Return the place of a slot in the shared page; a slot gets one when it is first asked for."""
        with self.lock:
            if name not in self._indices:
                # A place is never given to another name: a worker may still read it for the first.
                self.page.slot_word(len(self._indices))
                self._indices[name] = len(self._indices)
            return self._indices[name]

    def new_number(self, name: str) -> int:
        """Return a generation number that was never given, not even to a generation that was refused."""
        with self.lock:
            number = max(self.committed.next_number(name), self._numbers.get(name, 0) + 1)
            self._numbers[name] = number
            return number

    def loads(self) -> tuple[SlotLoad, ...]:
        """Return what a starting worker must hold."""
        with self.lock:
            loads = []
            for name in self.committed.slots.keys() | (self._expected or frozenset()):
                record = self.committed.slots.get(name)
                held = (record.current, record.previous) if record else ()
                loads.append(SlotLoad(name, self.index(name), tuple(generation for generation in held if generation)))
            return tuple(loads)

    def expects(self, name: str) -> bool:
        """Say whether a slot should be live."""
        with self.lock:
            return self._expected is not None and name in self._expected

    def commit(self, name: str, record: SlotRecord) -> None:
        """Make a generation the one that answers: durably first, then at once for every worker.

        Raises:
            StorageError: The state could not be written; the old generation goes on answering.
        """
        with self.lock:
            self._write(self.committed.with_slot(name, record))
            self._faults.at("state-written")
            self.page.words[self.page.slot_word(self.index(name))] = record.current.number
            self._faults.at("word-stored")
            self.broken.pop(name, None)
            self._update_ready()

    def retire(self, name: str) -> None:
        """Serve a model no more; requests for it get 404."""
        with self.lock:
            if name in self.committed.slots:
                self._write(self.committed.without_slot(name))
                self._faults.at("state-retired")
            self.page.words[self.page.slot_word(self.index(name))] = 0
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
