"""What is done by hand to a running service: which version answers, which stands beside it, and how all that stands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import msgspec

from modelyard.errors import NotFoundError, RefusedError
from modelyard.serving.asking import GenerationStatus, ServiceStatus, SlotStatus
from modelyard.serving.client import ServiceClient, ServiceFile
from modelyard.serving.state import check_label

if TYPE_CHECKING:
    from modelyard.yard.yard import Yard

__all__ = ["LabelPlan", "Overview", "Role", "SharePlan", "SwapPlan", "Swapping"]

Role = Literal["canary", "shadow"]
"""What may stand beside the stable version."""


class Overview(msgspec.Struct, frozen=True):
    """A service as `modelyard services` tells it.

    Args:
        environment: Its name.
        state: `ready`, `starting` or `stopped`.
        url: Where its HTTP interface begins, or None.
        grpc: Where it speaks gRPC, or None.
        status: All that it says of itself, or None where it does not run.
    """

    environment: str
    state: str
    url: str | None = None
    grpc: str | None = None
    status: ServiceStatus | None = None


@dataclass(frozen=True, slots=True)
class SwapPlan:
    """What a change would do, found without doing it.

    Args:
        environment: Whose service.
        model: Which slot.
        now: The version that answers, or None.
        then: The version that would, or None where the model would be served no more.
        package: Its digest, or an empty text.
        load: Whether it would have to be loaded first.
    """

    environment: str
    model: str
    now: str | None
    then: str | None
    package: str
    load: bool


@dataclass(frozen=True, slots=True)
class SharePlan:
    """What a change of a canary or shadow would do, found without doing it.

    Args:
        environment: Whose service.
        model: Which slot.
        role: Which of the two.
        now: The version that is canary or shadow, or None.
        now_ppm: Its share of the requests in parts per million.
        then: The version that would be, or None.
        then_ppm: Its share then.
        package: Its digest, or an empty text.
        load: Whether it would have to be loaded first.
    """

    environment: str
    model: str
    role: Role
    now: str | None
    now_ppm: int
    then: str | None
    then_ppm: int
    package: str
    load: bool


@dataclass(frozen=True, slots=True)
class LabelPlan:
    """What giving or taking away a label would do, found without doing it.

    Args:
        environment: Whose service.
        model: Which slot.
        label: Its name.
        now: The version that has it, or None.
        then: The version that would have it, or None.
    """

    environment: str
    model: str
    label: str
    now: str | None
    then: str | None


class Swapping:
    """Looks at the service of an environment, and says what a change of it would do.

    Args:
        yard: The project.
    """

    def __init__(self, yard: Yard) -> None:
        self._services = yard.services

    def overview(self, environment: str | None = None) -> list[Overview]:
        """Return how a service stands, or all that were ever started.

        Raises:
            NotFoundError: There is no such environment.
        """
        if environment is not None:
            self._services.check_known(environment)
        return [self._one(name) for name in ((environment,) if environment else self._services.started())]

    def client(self, environment: str) -> ServiceClient:
        """Return the client of a service that runs.

        Raises:
            NotFoundError: There is no such environment, or its service does not run.
        """
        return self._services.running(environment)

    def plan_swap(self, environment: str, model: str, version: str | None) -> SwapPlan:
        """Say what a swap would do.

        Raises:
            NotFoundError: The service does not run, or there is no such model or version.
            RefusedError: The service follows releases, or the version is not approved.
        """
        status = self.client(environment).status()
        _refuse_followed(status, model)
        live = self._services.versions(environment).resolve(model, version)
        slot = status.slots.get(model, SlotStatus(None))
        loaded = any(_is(one, (live.version, live.package)) for one in _held(slot))
        return SwapPlan(environment, model, _version(slot.current), live.version, live.package, load=not loaded)

    def plan_unload(self, environment: str, model: str) -> SwapPlan:
        """Say what serving a model no more would do.

        Raises:
            NotFoundError: The service does not run, or does not serve the model.
            RefusedError: The service follows releases.
        """
        _refuse_followed(self.client(environment).status(), model)
        slot = self._slot(environment, model)
        return SwapPlan(environment, model, _version(slot.current), None, "", load=False)

    def plan_share(self, environment: str, model: str, role: Role, version: str | None, ppm: int) -> SharePlan:
        """Say what beginning a canary or shadow, or changing the share of a canary, would do.

        Args:
            environment: Whose service.
            model: Which slot.
            role: Which of the two.
            version: Such as `v1.2.0`; None: the one that has the role.
            ppm: The share in parts per million.

        Raises:
            NotFoundError: The service does not run, the model is not served, or there is no such version.
            RefusedError: The version is not approved, or answers already.
        """
        slot = self._slot(environment, model)
        now = slot.canary if role == "canary" else slot.shadow
        if version is None:
            if now is None:
                raise NotFoundError(f"{model!r} has no {role}.", remedy="Begin one.")
            one = now.generation
            return SharePlan(environment, model, role, one.version, now.ppm, one.version, ppm, one.package, load=False)
        live = self._services.versions(environment).resolve(model, version)
        wanted = (live.version, live.package)
        if _is(slot.current, wanted):
            raise RefusedError(f"{model} {live.version} is the stable version already.", remedy="Name another version.")
        if role == "shadow" and slot.canary is not None and _is(slot.canary.generation, wanted):
            raise RefusedError(
                f"{model} {live.version} is the canary, and answers requests already.", remedy="End the canary first."
            )
        loaded = any(_is(one, wanted) for one in _held(slot))
        return SharePlan(
            environment, model, role, _version(now.generation if now else None), now.ppm if now else 0,
            live.version, ppm, live.package, load=not loaded,
        )  # fmt: skip

    def plan_end(self, environment: str, model: str, role: Role) -> SharePlan:
        """Say what ending a canary or shadow would do.

        Raises:
            NotFoundError: The service does not run, or the model has none.
        """
        slot = self._slot(environment, model)
        now = slot.canary if role == "canary" else slot.shadow
        if now is None:
            raise NotFoundError(f"{model!r} has no {role}.", remedy="The status tells what was stopped, and why.")
        return SharePlan(environment, model, role, now.generation.version, now.ppm, None, 0, "", load=False)

    def plan_label(self, environment: str, model: str, label: str, version: str | None) -> LabelPlan:
        """Say what giving a label to a version, or taking it away, would do.

        Raises:
            NotFoundError: The service does not run, the model is not served, the version not loaded, or there is no
                such label to take away.
            InputError: The label can't be one.
        """
        check_label(label)
        slot = self._slot(environment, model)
        versions = {one.number: one.version for one in _held(slot)}
        number = slot.labels.get(label)
        now = None if number is None else versions.get(number, f"generation {number}")
        if version is None and now is None:
            raise NotFoundError(f"{model!r} has no label {label!r}.", remedy=f"Look: modelyard services {environment}")
        if version is not None and version not in versions.values():
            raise NotFoundError(
                f"{model} {version} is not loaded.",
                remedy=f"Labels name what is loaded: {', '.join(dict.fromkeys(versions.values()))}.",
            )
        return LabelPlan(environment, model, label, now, version)

    def plan_promotion(self, environment: str, model: str) -> SwapPlan:
        """Say what a promotion of the canary would do.

        Raises:
            NotFoundError: The service does not run, or the model has no canary.
            RefusedError: The service follows releases, and the canary is not what is released.
        """
        slot = self._slot(environment, model)
        if slot.canary is None:
            raise NotFoundError(f"{model!r} has no canary.", remedy="Begin one.")
        found = slot.canary.generation
        if self.client(environment).status().control == "released":
            live = self._services.live(environment).get(model)
            if live is None or (live.version, live.package) != (found.version, found.package):
                raise RefusedError(
                    f"This service serves what is released, and {model} {found.version} is not.",
                    remedy="Release it: it is promoted then, without a load.",
                )
        return SwapPlan(environment, model, _version(slot.current), found.version, found.package, load=False)

    def plan_rollback(self, environment: str, model: str) -> SwapPlan:
        """Say what a rollback of the service alone would do.

        Raises:
            NotFoundError: The service does not run, or the model has no previous version there.
        """
        slot = self._slot(environment, model)
        if slot.previous is None:
            raise NotFoundError(f"{model!r} has no previous version here.", remedy="Swap to the version that you want.")
        found = slot.previous
        return SwapPlan(environment, model, _version(slot.current), found.version, found.package, load=False)

    def _slot(self, environment: str, model: str) -> SlotStatus:
        slot = self.client(environment).status().slots.get(model)
        if slot is None:
            raise NotFoundError(
                f"No model {model!r} is served in {environment}.", remedy=f"Look: modelyard services {environment}"
            )
        return slot

    def _one(self, environment: str) -> Overview:
        status = self._services.status(environment)
        if status is None:
            return Overview(environment, "stopped")
        file = ServiceFile.read(self._services.folder(environment))
        return Overview(
            environment, "ready" if status.ready else "starting", file.url if file else None,
            file.grpc if file else None, status,
        )  # fmt: skip


def _held(slot: SlotStatus) -> list[GenerationStatus]:
    """Return the generations of a slot that its workers hold, as far as its status tells of them."""
    shares = [share.generation for share in (slot.canary, slot.shadow) if share is not None]
    return [one for one in (slot.current, slot.previous, *shares) if one is not None]


def _is(generation: GenerationStatus | None, wanted: tuple[str, str]) -> bool:
    return generation is not None and (generation.version, generation.package) == wanted


def _refuse_followed(status: ServiceStatus, model: str) -> None:
    if status.control == "released":
        raise RefusedError(
            f"This service serves what is released; {model!r} can't be served otherwise.",
            remedy="Release the version that you want.",
        )


def _version(generation: GenerationStatus | None) -> str | None:
    return generation.version if generation is not None else None
