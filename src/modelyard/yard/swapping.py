"""What is done by hand to a running service: which version answers, which stands beside it, and how all that stands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from modelyard.errors import NotFoundError, RefusedError
from modelyard.serving.asking import GenerationStatus, ServiceStatus, SlotStatus
from modelyard.serving.client import ServiceClient, ServiceFile

if TYPE_CHECKING:
    from modelyard.yard.yard import Yard

__all__ = ["Overview", "SwapPlan", "Swapping"]


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
        then: The version that would.
        package: Its digest.
        load: Whether it would have to be loaded first.
    """

    environment: str
    model: str
    now: str | None
    then: str
    package: str
    load: bool


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
        if status.control == "released":
            raise RefusedError(
                f"This service serves what is released; {model!r} can't be served otherwise.",
                remedy="Release the version that you want.",
            )
        live = self._services.versions(environment).resolve(model, version)
        slot = status.slots.get(model, SlotStatus(None))
        held = [one for one in (slot.current, slot.previous) if one is not None]
        held += [share.generation for share in (slot.canary, slot.shadow) if share is not None]
        loaded = any((one.version, one.package) == (live.version, live.package) for one in held)
        return SwapPlan(environment, model, _version(slot.current), live.version, live.package, load=not loaded)

    def plan_promotion(self, environment: str, model: str) -> SwapPlan:
        """Say what a promotion of the canary would do.

        Raises:
            NotFoundError: The service does not run, or the model has no canary.
        """
        slot = self._slot(environment, model)
        if slot.canary is None:
            raise NotFoundError(f"{model!r} has no canary.", remedy="Begin one.")
        found = slot.canary.generation
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


def _version(generation: GenerationStatus | None) -> str | None:
    return generation.version if generation is not None else None
