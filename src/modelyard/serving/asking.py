"""What clients ask of a service, over its Unix socket or through a worker, and what it answers."""

from __future__ import annotations

from typing import Literal

import msgspec

from modelyard.records import Failure
from modelyard.serving.state import Stopped
from modelyard.serving.stats import Observation

__all__ = [
    "CanaryRequest",
    "ControlReply",
    "ControlRequest",
    "EndCanaryRequest",
    "EndShadowRequest",
    "Failed",
    "Frame",
    "GenerationStatus",
    "LabelRequest",
    "LoadRequest",
    "PromoteRequest",
    "RepositoryEntry",
    "RepositoryIndex",
    "RepositoryIndexRequest",
    "RollbackRequest",
    "Routed",
    "ServiceStatus",
    "ShadowRequest",
    "ShareRequest",
    "ShareStatus",
    "SlotStatus",
    "StagePart",
    "Staged",
    "StatusRequest",
    "StopRequest",
    "Stopping",
    "SwapRequest",
    "Swapped",
    "UnloadRequest",
    "Unloaded",
]


class Frame(msgspec.Struct, frozen=True, tag_field="frame"):
    """A message; `frame` on the wire is the class's name."""


class StatusRequest(Frame, frozen=True, tag=True):
    """From a client: how does the service stand?"""


class SwapRequest(Frame, frozen=True, tag=True):
    """From a client: serve this version of this package in the model's slot."""

    model: str
    version: str
    package: str


class RollbackRequest(Frame, frozen=True, tag=True):
    """From a client: serve the previous generation again."""

    model: str


class CanaryRequest(Frame, frozen=True, tag=True):
    """From a client: let a version answer a share of the requests, in parts per million.

    Where a repository was handed in, the package may be left out.
    """

    model: str
    version: str
    package: str
    ppm: int


class ShareRequest(Frame, frozen=True, tag=True):
    """From a client: let the canary answer another share of the requests."""

    model: str
    ppm: int


class PromoteRequest(Frame, frozen=True, tag=True):
    """From a client: make the canary the stable generation."""

    model: str


class EndCanaryRequest(Frame, frozen=True, tag=True):
    """From a client: let the stable generation answer all requests again."""

    model: str


class ShadowRequest(Frame, frozen=True, tag=True):
    """From a client: show a version a share of the requests after they were answered, and compare."""

    model: str
    version: str
    package: str
    ppm: int


class EndShadowRequest(Frame, frozen=True, tag=True):
    """From a client: show the shadow nothing more."""

    model: str


class LabelRequest(Frame, frozen=True, tag=True):
    """From a client: give a label to the generation of a version that is held; without a version, take it away."""

    model: str
    label: str
    version: str | None


class LoadRequest(Frame, frozen=True, tag=True):
    """From a client: serve a version that the repository knows; without a version, the one it names."""

    model: str
    version: str | None = None


class UnloadRequest(Frame, frozen=True, tag=True):
    """From a client: serve a model no more."""

    model: str


class StagePart(Frame, frozen=True, tag=True):
    """From a client: part of a candidate, as a file that is the supervisor's now; `own_proto`: no other is needed."""

    part: Literal["model", "proto", "configuration"]
    file: str
    model: str | None = None
    own_proto: bool = False


class RepositoryIndexRequest(Frame, frozen=True, tag=True):
    """From a client: which versions does the repository know, and which of them are served?"""


class StopRequest(Frame, frozen=True, tag=True):
    """From a client: drain and stop."""


class GenerationStatus(msgspec.Struct, frozen=True):
    """A generation as a client sees it."""

    number: int
    version: str
    package: str
    committed: float


class ShareStatus(msgspec.Struct, frozen=True):
    """A canary or shadow as a client sees it.

    Args:
        generation: What it is.
        ppm: Its share in parts per million.
        since: When it began, in seconds since 1970, UTC.
        observation: What was counted of it since then, by this service.
        error_rate: Share of errors among the latest answers, or None before there are any.
        p99_seconds: What 99 of 100 of the latest answers did not pass, up to 5 % too little; or None.
    """

    generation: GenerationStatus
    ppm: int
    since: float
    observation: Observation = Observation()
    error_rate: float | None = None
    p99_seconds: float | None = None


class SlotStatus(msgspec.Struct, frozen=True):
    """A slot as a client sees it.

    Args:
        current: What answers.
        previous: What a rollback would bring back, or None.
        labels: Names for generations.
        failure: Why no worker can serve the committed generation, or None.
        following: Why what is live could not be made so at the last try, or None.
        canary: What answers a share of the requests, or None.
        shadow: What sees copies of requests, or None.
        grace: By number of a generation whose contract was replaced: until when it answers, in seconds since 1970, UTC.
        stopped: The canary or shadow that passed the limits last, and why, or None.
        held_off: Version and package that is released and not served: it was rolled back, or stopped as a canary.
    """

    current: GenerationStatus | None
    previous: GenerationStatus | None = None
    labels: dict[str, int] = {}
    failure: Failure | None = None
    following: Failure | None = None
    canary: ShareStatus | None = None
    shadow: ShareStatus | None = None
    grace: dict[int, float] = {}
    stopped: Stopped | None = None
    held_off: tuple[str, str] | None = None


class ServiceStatus(Frame, frozen=True, tag=True):
    """How a service stands.

    Args:
        name: Of the service.
        pid: Of the supervisor.
        host: Address that it listens on.
        port: Port that it listens on.
        started: Seconds since 1970, UTC.
        ready: Whether every model that should be live is.
        workers: Process ids of the workers that accept.
        restarts: How many workers had to be replaced since the start.
        slots: By model name.
        failure: Why what is live could not be learned at the last try, or None.
        control: `released`: what is served follows what is released; `explicit`: clients say.
        grpc_port: Port for gRPC, or None.
    """

    name: str
    pid: int
    host: str
    port: int
    started: float
    ready: bool
    workers: tuple[int, ...]
    restarts: int
    slots: dict[str, SlotStatus]
    failure: Failure | None = None
    control: Literal["released", "explicit"] = "explicit"
    grpc_port: int | None = None

    @property
    def obstacle(self) -> Failure | None:
        """What stands in the way of serving all that should be live, or None."""
        failures = [self.failure]
        for slot in self.slots.values():
            failures += [slot.following, slot.failure]
        return next((failure for failure in failures if failure is not None), None)


class Swapped(Frame, frozen=True, tag=True):
    """A swap or rollback that is committed: from now on every new request is answered by this generation.

    Args:
        model: Name of the slot.
        version: What answers now.
        package: Its digest.
        generation: Its number.
        replaced: Number of the generation before it, or None.
        changed: False where this was served already and nothing was done.
        loaded: False where the generation was held already, as in a rollback.
        stage_seconds: Fetching and verifying the package.
        prepare_seconds: Loading and warming up in all workers, one after the other.
        commit_seconds: From the decision to the acknowledgement: the durable write and the store.
    """

    model: str
    version: str
    package: str
    generation: int
    replaced: int | None
    changed: bool = True
    loaded: bool = True
    stage_seconds: float = 0.0
    prepare_seconds: float = 0.0
    commit_seconds: float = 0.0


class Routed(Frame, frozen=True, tag=True):
    """A change beside the stable generation that is committed: every new request is routed so from now on.

    Args:
        model: Name of the slot.
        slot: How it stands now.
        loaded: Whether a worker had to load anything.
        prepare_seconds: Loading and warming up in all workers, one after the other.
        commit_seconds: From the decision to the acknowledgement.
    """

    model: str
    slot: SlotStatus
    loaded: bool = False
    prepare_seconds: float = 0.0
    commit_seconds: float = 0.0


class Unloaded(Frame, frozen=True, tag=True):
    """The model is served no more."""

    model: str


class RepositoryEntry(msgspec.Struct, frozen=True):
    """A version that the repository knows or the service serves.

    Args:
        name: Of the model.
        version: Such as `v1.2.0`.
        state: `READY` or `UNAVAILABLE`, as the model repository extension of the Open Inference Protocol has it.
        reason: Why it is in that state, or an empty text.
    """

    name: str
    version: str
    state: Literal["READY", "UNAVAILABLE"]
    reason: str = ""


class RepositoryIndex(Frame, frozen=True, tag=True):
    """What the repository knows and the service serves, by name and version."""

    entries: tuple[RepositoryEntry, ...]


class Staged(Frame, frozen=True, tag=True):
    """A part waits for those that are missing; or the set is served; or it is refused, with the status of HTTP.

    `unfit` are operations of its proto file that do not fit the model.
    """

    staged: tuple[str, ...]
    missing: tuple[str, ...]
    unfit: tuple[str, ...] = ()
    swapped: Swapped | None = None
    refused: Failure | None = None
    status: int = 200


class Stopping(Frame, frozen=True, tag=True):
    """The service drains and stops."""


class Failed(Frame, frozen=True, tag=True):
    """What a client asked for was not done, and why; everything is as before."""

    failure: Failure


ControlRequest = (
    StatusRequest
    | SwapRequest
    | RollbackRequest
    | CanaryRequest
    | ShareRequest
    | PromoteRequest
    | EndCanaryRequest
    | ShadowRequest
    | EndShadowRequest
    | LabelRequest
    | LoadRequest
    | UnloadRequest
    | RepositoryIndexRequest
    | StagePart
    | StopRequest
)
ControlReply = ServiceStatus | Swapped | Routed | Unloaded | RepositoryIndex | Staged | Stopping | Failed
