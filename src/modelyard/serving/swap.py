"""The two-phase swap: stage and verify, prepare in every worker, commit by one store; a failure changes nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from modelyard.errors import BusyError, ModelyardError, NotFoundError
from modelyard.serving.board import Board
from modelyard.serving.faults import Faults
from modelyard.serving.logs import Log
from modelyard.serving.pool import Pool, WorkerHandle
from modelyard.serving.state import GenerationRecord, Page, SlotRecord
from modelyard.serving.wire import Abort, Swapped

__all__ = ["Fetch", "Swapper", "Verify"]

Fetch = Callable[[str], Path]
"""Returns a local, verified, read-only folder with the package of that digest."""

Verify = Callable[[Path], object]
"""Raises a ModelyardError where a package folder is not what its manifest says."""

MEMBERS_SECONDS = 30.0


class Swapper:
    """Changes what the slots of a runner serve; one change at a time.

    Args:
        board: The supervisor's.
        pool: Its workers.
        fetch: Where packages come from.
        verify: Checks a package's manifest.
        prepare_seconds: How long one worker may take.
        faults: For tests.
        log: The supervisor's.
    """

    def __init__(
        self,
        board: Board,
        pool: Pool,
        *,
        fetch: Fetch,
        verify: Verify,
        prepare_seconds: float,
        faults: Faults,
        log: Log,
    ) -> None:
        self._board = board
        self._pool = pool
        self._fetch = fetch
        self._verify = verify
        self._prepare_seconds = prepare_seconds
        self._faults = faults
        self._log = log
        self._turn = threading.Lock()

    def swap(self, model: str, version: str, package: str) -> Swapped:
        """Serve a version of a package in the model's slot.

        Returns when every request that begins from now on is answered by it. What is served already is left alone, and
        what is the previous generation comes back without a load.

        Args:
            model: Name of the slot.
            version: Such as `v1.2.0`.
            package: Digest of the package.

        Raises:
            ModelyardError: The package can't be fetched, verified, loaded or committed; the old generation goes on.
        """
        with self._turn:
            try:
                return self._swap(model, version, package)
            except Exception as error:
                self._board.count(model, Page.FAILED)
                if model not in self._board.committed.slots and not self._board.expects(model):
                    self._pool.keep(model, ())
                reason = str(error) if isinstance(error, ModelyardError) else repr(error)
                self._log.error("swap-refused", model=model, version=version, package=package, reason=reason[:1000])
                raise

    def rollback(self, model: str) -> Swapped:
        """Serve the previous generation again, without a load.

        Raises:
            NotFoundError: The model is not served, or has no previous generation.
            StorageError: The state could not be written.
        """
        with self._turn:
            record = self._board.committed.slots.get(model)
            if record is None or record.previous is None:
                raise NotFoundError(
                    f"There is no previous generation of {model!r} to roll back to.",
                    remedy="Release the version that you want.",
                )
            return self._back(record)

    def retire(self, model: str) -> None:
        """Serve a model no more.

        Raises:
            StorageError: The state could not be written.
        """
        with self._turn:
            self._board.retire(model)
            self._pool.keep(model, ())
            self._log.info("retired", model=model)

    def _swap(self, model: str, version: str, package: str) -> Swapped:
        record = self._board.committed.slots.get(model)
        if record is not None and record.current.same_package(version, package):
            return self._mend(record)
        if record is not None and record.previous is not None and record.previous.same_package(version, package):
            return self._back(record)
        self._faults.at("swap-begun")
        index = self._board.index(model)
        self._pool.announce(model, index)
        started = time.perf_counter()
        folder = self._stage(package)
        self._faults.at("staged")
        staged = time.perf_counter()
        generation = GenerationRecord(self._board.new_number(model), model, version, package, str(folder))
        return self._install(record, generation, staged - started)

    def _stage(self, package: str) -> Path:
        folder = self._fetch(package)
        self._verify(folder)
        return folder

    def _mend(self, record: SlotRecord) -> Swapped:
        """Load what is committed already in the workers that lack it, as after a start that could not read it."""
        current = record.current
        place = (current.model, current.number)
        if all(place in worker.holds for worker in self._members()):
            return Swapped(current.model, current.version, current.package, current.number, None, changed=False)
        started = time.perf_counter()
        current = msgspec.structs.replace(current, folder=str(self._stage(current.package)))
        repaired = msgspec.structs.replace(record, current=current)
        return self._install(record, current, time.perf_counter() - started, repaired)

    def _back(self, record: SlotRecord) -> Swapped:
        previous = record.previous
        if previous is None:
            raise NotFoundError(f"There is no previous generation of {record.current.model!r}.")
        swapped = self._install(record, previous, 0.0)
        self._board.count(previous.model, Page.ROLLBACKS)
        return swapped

    def _install(
        self, record: SlotRecord | None, generation: GenerationRecord, staging: float, after: SlotRecord | None = None
    ) -> Swapped:
        """Prepare a generation where it is not held yet, and commit it."""
        model = generation.model
        self._members()
        started = time.perf_counter()
        prepared: list[WorkerHandle] = []
        try:
            while True:
                self._prepare_rest(generation, prepared)
                decided = time.perf_counter()
                with self._board.lock:
                    if not self._pool.members() or self._lacking(generation):
                        # A worker joined after the last one was asked, or none is left to consent.
                        continue
                    if prepared:
                        self._faults.at("prepared")
                    stamped = msgspec.structs.replace(generation, committed=time.time())
                    new = after or (record.after(stamped) if record else SlotRecord.first(stamped))
                    self._board.commit(model, new)
                    committing = time.perf_counter() - decided
                    break
        except Exception:
            self._abort(generation, record, prepared)
            raise
        self._report(new, decided - started if prepared else 0.0, committing)
        self._pool.keep(model, tuple(held.number for held in (new.current, new.previous) if held))
        replaced = record.current.number if record and record.current.number != generation.number else None
        return Swapped(
            model, generation.version, generation.package, generation.number, replaced,
            loaded=bool(prepared), stage_seconds=staging,
            prepare_seconds=decided - started if prepared else 0.0, commit_seconds=committing,
        )  # fmt: skip

    def _prepare_rest(self, generation: GenerationRecord, prepared: list[WorkerHandle]) -> None:
        """Prepare one worker after the other, so that the rest answer at full speed."""
        self._members()
        for worker in self._lacking(generation):
            index = self._board.index(generation.model)
            if not worker.prepare(generation.model, index, generation, self._prepare_seconds):
                # It died of something else; its replacement is asked in the next round.
                continue
            prepared.append(worker)
            self._faults.at("worker-prepared")

    def _lacking(self, generation: GenerationRecord) -> list[WorkerHandle]:
        place = (generation.model, generation.number)
        return [worker for worker in self._pool.members() if place not in worker.holds]

    def _members(self) -> list[WorkerHandle]:
        """Return the workers, and wait for the first where none runs yet."""
        deadline = time.monotonic() + MEMBERS_SECONDS
        while not (members := self._pool.members()):
            if time.monotonic() > deadline:
                raise BusyError("No worker of the service runs.", remedy="The service's log has the reason.")
            time.sleep(0.02)
        return members

    def _abort(self, generation: GenerationRecord, record: SlotRecord | None, prepared: list[WorkerHandle]) -> None:
        kept = [held.number for held in (record.current, record.previous) if held] if record else []
        if generation.number in kept:
            return
        with self._board.lock:
            for worker in self._pool.members():
                worker.holds.discard((generation.model, generation.number))
                worker.channel.send(Abort(generation.model, generation.number))
        self._log.info("swap-aborted", model=generation.model, generation=generation.number, prepared=len(prepared))

    def _report(self, record: SlotRecord, preparing: float, committing: float) -> None:
        """Count and log a commit; a rollback's prepare is 0."""
        current = record.current
        self._board.count(current.model, Page.SWAPS)
        self._board.measure(current.model, Page.COMMIT_NS, committing)
        self._board.measure(current.model, Page.PREPARE_NS, preparing)
        self._log.info(
            "swapped", model=current.model, version=current.version, package=current.package,
            generation=current.number, prepare_seconds=preparing, commit_seconds=committing,
        )  # fmt: skip
