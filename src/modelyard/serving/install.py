"""What every change of a slot is made of: stage, prepare in every worker, commit by one store, unload the rest."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import msgspec

from modelyard.errors import BusyError, ModelyardError
from modelyard.serving.board import Board
from modelyard.serving.faults import Faults
from modelyard.serving.fetching import Fetched, Fetching
from modelyard.serving.loading import Verifier
from modelyard.serving.logs import Log
from modelyard.serving.memory import Memory
from modelyard.serving.pool import Pool, WorkerHandle
from modelyard.serving.priority import at_low_priority
from modelyard.serving.state import GenerationRecord, SlotRecord
from modelyard.serving.wire import Abort, Named

__all__ = ["Change", "Installed", "Installer"]

Change = Callable[[SlotRecord | None, GenerationRecord], SlotRecord]
"""From a slot as it is when the change is committed, and the prepared generation, to the slot as it shall be."""

MEMBERS_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Installed:
    """A change that is committed.

    Args:
        before: The slot before it, or None.
        after: The slot since then.
        loaded: Whether a worker had to load anything.
        prepare_seconds: Loading and warming up in all workers, one after the other.
        commit_seconds: From the decision to the acknowledgement.
    """

    before: SlotRecord | None
    after: SlotRecord
    loaded: bool
    prepare_seconds: float
    commit_seconds: float


class Installer:
    """Changes slots. Changes of one slot that load take turns, and so do all loads; what loads nothing never waits.

    Args:
        board: The supervisor's.
        pool: Its workers.
        fetch: Where packages come from.
        verify: Checks a package's manifest.
        memory: Says whether a package still fits.
        prepare_seconds: How long one worker may take.
        faults: For tests.
        log: The supervisor's.
    """

    def __init__(
        self,
        board: Board,
        pool: Pool,
        *,
        fetch: Fetching,
        verify: Verifier,
        memory: Memory,
        prepare_seconds: float,
        faults: Faults,
        log: Log,
    ) -> None:
        self.board = board
        self.pool = pool
        self.faults = faults
        self.log = log
        self._fetch = fetch
        self._verify = verify
        self._memory = memory
        self._prepare_seconds = prepare_seconds
        self._turns: dict[str, threading.Lock] = {}
        self._loading = threading.Lock()
        self._coming: set[tuple[str, int]] = set()
        """Generations that are being prepared: they are no slot's yet, and must not be unloaded as nobody's."""

    @contextmanager
    def turn(self, model: str) -> Iterator[None]:
        """Wait until no other change of this slot that may load is under way, and hold the place."""
        with self.board.lock:
            turn = self._turns.setdefault(model, threading.Lock())
        with turn:
            yield

    def stage(self, model: str, version: str, package: str) -> tuple[GenerationRecord, float]:
        """Return a new generation of a package that was fetched and verified, and the seconds that this took.

        Raises:
            ModelyardError: It can't be fetched, or is not what its manifest says.
        """
        self.faults.at("swap-begun")
        self.pool.announce(model, self.board.index(model))
        started = time.perf_counter()
        folder, pickle = self.restage(package)
        self.faults.at("staged")
        seconds = time.perf_counter() - started
        number = self.board.new_number(model)
        return GenerationRecord(number, model, version, package, str(folder), pickle=pickle), seconds

    def restage(self, package: str) -> Fetched:
        """Return a package that was fetched and verified.

        Raises:
            ModelyardError: It can't be fetched, or is not what its manifest says.
        """

        def work() -> Fetched:
            fetched = self._fetch(package)
            self._verify(*fetched)
            return fetched

        return at_low_priority(work)

    def install(self, generation: GenerationRecord, change: Change) -> Installed:
        """Prepare a generation where it is not held yet, and commit the change.

        Args:
            generation: What the change needs in every worker.
            change: Called under the board's lock once every worker holds it; what it raises refuses the change.

        Raises:
            ModelyardError: Why a worker can't hold it, or the change can't be committed; nothing has changed.
        """
        place = (generation.model, generation.number)
        started = time.perf_counter()
        prepared: list[WorkerHandle] = []
        with self.board.lock:
            self._coming.add(place)
        try:
            while True:
                generation = self._prepare_rest(generation, prepared)
                decided = time.perf_counter()
                with self.board.lock:
                    if not self.pool.members() or self._lacking(generation):
                        # A worker joined after the last one was asked, or none is left to consent.
                        continue
                    if prepared:
                        self.faults.at("prepared")
                    before, after = self._commit(generation, change)
                    self._coming.discard(place)
                    committed = time.perf_counter()
                    self.unload(generation.model)
                    return Installed(
                        before, after, bool(prepared), decided - started if prepared else 0.0, committed - decided
                    )
        except BaseException:
            self._abort(generation, len(prepared))
            raise

    def change(self, model: str, change: Callable[[SlotRecord | None], SlotRecord | None]) -> SlotRecord | None:
        """Commit a change that loads nothing, at once, whatever else is under way; return the slot since then.

        Args:
            model: Name of the slot.
            change: Called under the board's lock; None leaves everything as it is.

        Raises:
            ModelyardError: What the change raised, or why the state could not be written.
        """
        with self.board.lock:
            before = self.board.committed.slots.get(model)
            after = change(before)
            if after is None or after == before:
                return before
            self.board.commit(model, after)
            self.unload(model)
            return after

    def unload(self, model: str) -> None:
        """Have every worker hold what the slot needs and no more, and know its labels."""
        with self.board.lock:
            record = self.board.committed.slots.get(model)
            coming = tuple(number for name, number in self._coming if name == model)
            self.pool.keep(model, (*record.held, *coming) if record else coming)
            if record is not None:
                self.pool.tell(Named(model, record.labels))

    def _commit(self, generation: GenerationRecord, change: Change) -> tuple[SlotRecord | None, SlotRecord]:
        before = self.board.committed.slots.get(generation.model)
        after = change(before, generation)
        self.board.commit(generation.model, after)
        return before, after

    def _prepare_rest(self, generation: GenerationRecord, prepared: list[WorkerHandle]) -> GenerationRecord:
        """Prepare one worker after the other, so that the rest answer at full speed."""
        self.members()
        if not self._lacking(generation):
            return generation
        with self._loading:
            lacking = self._lacking(generation)
            for done, worker in enumerate(lacking):
                self._memory.check(generation, len(lacking) - done)
                index = self.board.index(generation.model)
                answer = worker.prepare(generation.model, index, generation, self._prepare_seconds)
                if answer is None:
                    # It died of something else; its replacement is asked in the next round.
                    continue
                self._memory.learn(generation, answer.growth)
                generation = msgspec.structs.replace(generation, inputs=answer.inputs)
                prepared.append(worker)
                self.faults.at("worker-prepared")
        return generation

    def _lacking(self, generation: GenerationRecord) -> list[WorkerHandle]:
        place = (generation.model, generation.number)
        return [worker for worker in self.pool.members() if place not in worker.holds]

    def members(self) -> list[WorkerHandle]:
        """Return the workers, and wait for the first where none runs yet.

        Raises:
            BusyError: None came.
        """
        deadline = time.monotonic() + MEMBERS_SECONDS
        while not (members := self.pool.members()):
            if time.monotonic() > deadline:
                raise BusyError("No worker of the service runs.", remedy="The service's log has the reason.")
            time.sleep(0.02)
        return members

    def _abort(self, generation: GenerationRecord, prepared: int) -> None:
        model, number = generation.model, generation.number
        with self.board.lock:
            self._coming.discard((model, number))
            record = self.board.committed.slots.get(model)
            if record is not None and number in record.held:
                return
            for worker in self.pool.members():
                worker.holds.discard((model, number))
                worker.channel.send(Abort(model, number))
        self.log.info("swap-aborted", model=model, generation=number, prepared=prepared)

    def refused(self, event: str, model: str, version: str, package: str, error: Exception) -> None:
        """Log why something was not done."""
        reason = str(error) if isinstance(error, ModelyardError) else repr(error)
        self.log.error(event, model=model, version=version, package=package, reason=reason[:1000])
