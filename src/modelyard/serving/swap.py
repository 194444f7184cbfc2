"""The two-phase swap: stage and verify, prepare in every worker, commit by one store; a failure changes nothing."""

from __future__ import annotations

import time

import msgspec

from modelyard.errors import NotFoundError
from modelyard.serving.asking import Swapped
from modelyard.serving.install import Installed, Installer
from modelyard.serving.state import GenerationRecord, Page, SlotRecord

__all__ = ["Swapper"]


class Swapper:
    """Changes what is stable in a slot.

    Args:
        installer: Changes slots.
        grace_seconds: How long what is replaced answers what fits only its contract, where that is another.
    """

    def __init__(self, installer: Installer, *, grace_seconds: float) -> None:
        self._installer = installer
        self._board = installer.board
        self._grace_seconds = grace_seconds

    def swap(self, model: str, version: str, package: str) -> Swapped:
        """Serve a version of a package in the model's slot.

        Returns when every request that begins from now on is answered by it. What is served already is left alone, and
        what is held already (the previous one, the canary, what has a label) comes without a load. Where something
        changes, a canary ends.

        Args:
            model: Name of the slot.
            version: Such as `v1.2.0`.
            package: Digest of the package.

        Raises:
            ModelyardError: The package can't be fetched, verified, loaded or committed; the old generation goes on.
        """
        with self._installer.turn(model):
            try:
                return self._swap(model, version, package)
            except Exception as error:
                self._board.count(model, Page.FAILED)
                if model not in self._board.committed.slots and not self._board.expects(model):
                    self._installer.unload(model)
                self._installer.refused("swap-refused", model, version, package, error)
                raise

    def rollback(self, model: str, held_off: tuple[str, str] | None = None) -> Swapped:
        """Serve the previous generation again, without a load; a canary ends.

        Args:
            model: Name of the slot.
            held_off: Version and package that must not come back although they are released.

        Raises:
            NotFoundError: The model is not served, or has no previous generation.
            StorageError: The state could not be written.
        """
        record = self._board.committed.slots.get(model)
        if record is None or record.previous is None:
            raise NotFoundError(
                f"There is no previous generation of {model!r} to roll back to.",
                remedy="Release the version that you want, or swap to it where no releases are followed.",
            )
        wanted = record.previous

        def back(now: SlotRecord | None, generation: GenerationRecord) -> SlotRecord:
            if now is None or now.current.number != record.current.number:
                raise NotFoundError(
                    f"{model!r} was changed by somebody else at this moment.", remedy="Look, and ask again."
                )
            return msgspec.structs.replace(self._stable(now, generation), held_off=held_off)

        swapped = self._done(self._installer.install(wanted, back))
        self._board.count(model, Page.ROLLBACKS)
        return swapped

    def promote(self, model: str) -> Swapped:
        """Make the canary the stable generation, without a load; what was stable becomes the previous.

        Raises:
            NotFoundError: The model has no canary.
            StorageError: The state could not be written.
        """
        canary = self._board.committed.slots[model].canary if model in self._board.committed.slots else None
        if canary is None:
            raise _no_canary(model)

        def promoted(now: SlotRecord | None, generation: GenerationRecord) -> SlotRecord:
            # It may have been stopped, or replaced by another, since it was looked up.
            if now is None or now.canary is None or now.canary.generation.number != generation.number:
                raise _no_canary(model)
            return self._stable(now, generation)

        swapped = self._done(self._installer.install(canary.generation, promoted))
        self._installer.log.info("canary-promoted", model=model, generation=swapped.generation)
        return swapped

    def retire(self, model: str) -> None:
        """Serve a model no more.

        Raises:
            StorageError: The state could not be written.
        """
        if not self._board.knows(model):
            # Names that clients invent must not use up the places of the shared page, which are never given again.
            return
        with self._installer.turn(model):
            self._board.retire(model)
            self._installer.unload(model)
            self._installer.log.info("retired", model=model)

    def _swap(self, model: str, version: str, package: str) -> Swapped:
        record = self._board.committed.slots.get(model)
        if record is not None and record.current.same_package(version, package):
            return self._mend(record)
        held = record.find(version, package) if record else None
        rollback = record is not None and held is not None and held is record.previous
        staging = 0.0
        if held is None:
            held, staging = self._installer.stage(model, version, package)
        swapped = self._done(self._installer.install(held, self._stable), staging)
        if rollback:
            self._board.count(model, Page.ROLLBACKS)
        return swapped

    def _stable(self, record: SlotRecord | None, generation: GenerationRecord) -> SlotRecord:
        now = time.time()
        if record is None:
            return SlotRecord.first(msgspec.structs.replace(generation, committed=now))
        if record.current.number != generation.number:
            generation = msgspec.structs.replace(generation, committed=now)
        return msgspec.structs.replace(record.after(generation, now, self._grace_seconds), held_off=None)

    def _mend(self, record: SlotRecord) -> Swapped:
        """Load what is committed already in the workers that lack it, as after a start that could not read it."""
        current = record.current
        place = (current.model, current.number)
        if all(place in worker.holds for worker in self._installer.members()):
            if record.held_off is not None:
                self._installer.change(
                    current.model, lambda now: msgspec.structs.replace(now, held_off=None) if now else None
                )
            return Swapped(current.model, current.version, current.package, current.number, None, changed=False)
        started = time.perf_counter()
        folder, pickle = self._installer.restage(current.package)
        current = msgspec.structs.replace(current, folder=str(folder), pickle=pickle)
        staging = time.perf_counter() - started

        def mended(now: SlotRecord | None, generation: GenerationRecord) -> SlotRecord:
            return (now or record).replaced({generation.number: generation})

        return self._done(self._installer.install(current, mended), staging)

    def _done(self, installed: Installed, staging: float = 0.0) -> Swapped:
        """Count, log and return a commit; the prepare of a rollback or promotion takes 0 s."""
        before, current = installed.before, installed.after.current
        board, log = self._board, self._installer.log
        board.count(current.model, Page.SWAPS)
        board.measure(current.model, Page.COMMIT_NS, installed.commit_seconds)
        board.measure(current.model, Page.PREPARE_NS, installed.prepare_seconds)
        log.info(
            "swapped", model=current.model, version=current.version, package=current.package,
            generation=current.number, prepare_seconds=installed.prepare_seconds,
            commit_seconds=installed.commit_seconds,
        )  # fmt: skip
        if before and before.canary and before.canary.generation.number != current.number:
            log.info("canary-ended", model=current.model, generation=before.canary.generation.number, reason="swapped")
        return Swapped(
            current.model, current.version, current.package, current.number,
            before.current.number if before and before.current.number != current.number else None,
            loaded=installed.loaded, stage_seconds=staging, prepare_seconds=installed.prepare_seconds,
            commit_seconds=installed.commit_seconds,
        )  # fmt: skip


def _no_canary(model: str) -> NotFoundError:
    return NotFoundError(f"{model!r} has no canary.", remedy="Begin one; or it was stopped: the status has the reason.")
