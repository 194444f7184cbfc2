"""What stands beside the stable generation of a slot: a canary, a shadow, and labels."""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec

from modelyard.errors import InputError, ModelyardError, NotFoundError, RefusedError
from modelyard.serving.install import Change, Installed, Installer
from modelyard.serving.route import MILLION, label_word
from modelyard.serving.state import OWN_LABELS, GenerationRecord, Page, Share, SlotRecord, Stopped, check_label
from modelyard.serving.wire import Role

__all__ = ["Roles"]


class Roles:
    """Begins, changes and ends roles. Ending one waits for nothing, whatever else is being loaded.

    Args:
        installer: Changes slots.
    """

    def __init__(self, installer: Installer) -> None:
        self._installer = installer
        self._board = installer.board

    def canary(self, model: str, version: str, package: str, ppm: int) -> Installed:
        """Let a version answer a share of the requests; another canary ends.

        Args:
            model: Name of the slot.
            version: Such as `v1.2.0`.
            package: Digest of the package.
            ppm: Its share in parts per million.

        Raises:
            NotFoundError: The model is not served.
            RefusedError: The version is the stable one.
            ModelyardError: The package can't be fetched, verified, loaded or committed.
        """
        _check_share(ppm)

        def begun(now: SlotRecord | None, generation: GenerationRecord) -> SlotRecord:
            record = _beside(model, now, generation)
            old = record.canary
            since = old.since if old and old.generation.number == generation.number else time.time()
            return record.with_canary(Share(generation, ppm, since))

        return self._begin("canary", model, version, package, ppm, begun)

    def share(self, model: str, ppm: int) -> SlotRecord:
        """Let the canary answer another share of the requests.

        Raises:
            NotFoundError: The model has no canary.
            StorageError: The state could not be written.
        """
        _check_share(ppm)

        def changed(now: SlotRecord | None) -> SlotRecord:
            if now is None or now.canary is None:
                raise NotFoundError(f"{model!r} has no canary.", remedy="Begin one.")
            return now.with_canary(msgspec.structs.replace(now.canary, ppm=ppm))

        record = self._change(model, changed)
        self._installer.log.info("canary-share", model=model, ppm=ppm)
        return record

    def shadow(self, model: str, version: str, package: str, ppm: int) -> Installed:
        """Show a version a share of the requests after they were answered; another shadow ends.

        Args:
            model: Name of the slot.
            version: Such as `v1.2.0`.
            package: Digest of the package.
            ppm: The share that it sees, in parts per million.

        Raises:
            NotFoundError: The model is not served.
            RefusedError: The version is the stable one or the canary.
            ModelyardError: The package can't be fetched, verified, loaded or committed.
        """
        _check_share(ppm)

        def begun(now: SlotRecord | None, generation: GenerationRecord) -> SlotRecord:
            record = _beside(model, now, generation)
            if record.canary and record.canary.generation.number == generation.number:
                raise RefusedError(
                    f"{model} {version} is the canary, and answers requests already.", remedy="End the canary first."
                )
            old = record.shadow
            since = old.since if old and old.generation.number == generation.number else time.time()
            return record.with_shadow(Share(generation, ppm, since))

        return self._begin("shadow", model, version, package, ppm, begun)

    def end(self, role: Role, model: str) -> SlotRecord:
        """End a canary, so that the stable generation answers all requests again, or a shadow.

        Raises:
            NotFoundError: The model has none.
            StorageError: The state could not be written.
        """

        def ended(now: SlotRecord | None) -> SlotRecord:
            if now is None or _share_of(now, role) is None:
                raise NotFoundError(f"{model!r} has no {role}.", remedy="The status tells what was stopped, and why.")
            return now.with_canary(None) if role == "canary" else now.with_shadow(None)

        record = self._change(model, ended)
        self._installer.log.info(f"{role}-ended", model=model, reason="asked")
        return record

    def stop(
        self, role: Role, model: str, number: int, reason: str, released: tuple[str, str] | None = None
    ) -> SlotRecord | None:
        """End a canary or shadow that passed the limits; None where it had ended, or was promoted, before.

        Args:
            role: Which of the two.
            model: Name of the slot.
            number: Of the generation that was judged.
            reason: What it passed, with the figures.
            released: Version and package that is released; where the canary is just that, it is held off.

        Raises:
            StorageError: The state could not be written.
        """
        found: list[Stopped] = []

        def stopped(now: SlotRecord | None) -> SlotRecord | None:
            share = _share_of(now, role) if now else None
            if now is None or share is None or share.generation.number != number:
                return None
            one = share.generation
            found.append(Stopped(role, number, one.version, one.package, reason, time.time()))
            if role == "shadow":
                return now.with_shadow(None, found[0])
            held_off = released if released == (one.version, one.package) else now.held_off
            return msgspec.structs.replace(now.with_canary(None, found[0]), held_off=held_off)

        record = self._installer.change(model, stopped)
        if not found:
            return None
        self._board.count(model, Page.CANARIES_STOPPED if role == "canary" else Page.SHADOWS_STOPPED)
        self._installer.log.warning(
            f"{role}-stopped", model=model, version=found[0].version, generation=number, reason=reason
        )
        return record

    def label(self, model: str, label: str, version: str | None) -> SlotRecord:
        """Give a label to the generation of a version that is held, or take the label away.

        A label keeps its generation loaded, whatever becomes stable.

        Args:
            model: Name of the slot.
            label: Up to 63 letters, digits, dots, dashes and underscores.
            version: Of a generation that every worker holds; None takes the label away.

        Raises:
            InputError: The label can't be one, or is one of the service's own.
            NotFoundError: The model is not served, the version not held, or there is no such label.
            RefusedError: The model has as many labels as it can have.
            StorageError: The state could not be written.
        """
        check_label(label)

        def labelled(now: SlotRecord | None) -> SlotRecord:
            if now is None:
                raise _not_served(model)
            if version is None:
                if label not in now.labels:
                    raise NotFoundError(f"{model!r} has no label {label!r}.")
                return now.with_label(label, None)
            given = [name for name in now.labels if name not in OWN_LABELS and name != label]
            if len(given) >= Page.MAX_LABELS:
                raise RefusedError(f"{model!r} has {len(given)} labels already.", remedy="Take one away first.")
            if label_word(label) in map(label_word, given):
                raise RefusedError(f"The label {label!r} can't be told from another one.", remedy="Choose another.")
            generation = next((one for one in now.held.values() if one.version == version), None)
            if generation is None:
                raise NotFoundError(
                    f"{model} {version} is not loaded.",
                    remedy="Labels name what is loaded: " + ", ".join(one.version for one in now.held.values()) + ".",
                )
            if not self._held_by_all(generation):
                raise RefusedError(
                    f"Not every worker holds {model} {version} at this moment.", remedy="Try again in a moment."
                )
            return now.with_label(label, generation)

        record = self._change(model, labelled)
        self._installer.log.info("labelled", model=model, label=label, version=version)
        return record

    def expire(self) -> None:
        """Unload the generations whose windows of grace are over."""
        now = time.time()
        for model, record in list(self._board.committed.slots.items()):
            if any(grace.until <= now for grace in record.grace):
                self._installer.change(model, lambda record: record.without_old_graces(now) if record else None)
                self._installer.log.info("grace-over", model=model)

    def _begin(self, role: Role, model: str, version: str, package: str, ppm: int, change: Change) -> Installed:
        with self._installer.turn(model):
            record = self._board.committed.slots.get(model)
            try:
                if record is None:
                    raise _not_served(model)
                held = record.find(version, package)
                if held is not None:
                    # Said before anything is loaded, and again when it is committed.
                    change(record, held)
                generation = held or self._installer.stage(model, version, package)[0]
                installed = self._installer.install(generation, change)
            except Exception as error:
                self._installer.refused(f"{role}-refused", model, version, package, error)
                raise
        self._installer.log.info(
            f"{role}-begun", model=model, version=version, package=package, ppm=ppm, generation=generation.number,
            prepare_seconds=installed.prepare_seconds,
        )  # fmt: skip
        return installed

    def _change(self, model: str, change: Callable[[SlotRecord | None], SlotRecord]) -> SlotRecord:
        record = self._installer.change(model, change)
        if record is None:
            raise ModelyardError(f"The slot of {model!r} is gone.")
        return record

    def _held_by_all(self, generation: GenerationRecord) -> bool:
        place = (generation.model, generation.number)
        return all(place in worker.holds for worker in self._installer.pool.members())


def _beside(model: str, now: SlotRecord | None, generation: GenerationRecord) -> SlotRecord:
    if now is None:
        raise _not_served(model)
    if now.current.number == generation.number:
        raise RefusedError(
            f"{model} {generation.version} is the stable version already.", remedy="Name another version."
        )
    return now


def _share_of(record: SlotRecord, role: Role) -> Share | None:
    return record.canary if role == "canary" else record.shadow


def _not_served(model: str) -> NotFoundError:
    return NotFoundError(f"No model {model!r} is served here.", remedy="Serve a version of it first.")


def _check_share(ppm: int) -> None:
    if not 0 <= ppm <= MILLION:
        raise InputError(f"A share of {ppm} parts per million is impossible.", remedy=f"Ask for 0 to {MILLION}.")
