"""What the supervisor, its workers and its clients say to each other: one JSON object on a line, over a Unix socket."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from typing import Any, ClassVar, Generic, Literal, TypeVar

import msgspec

from modelyard.errors import ModelyardError, RunError
from modelyard.records import Failure
from modelyard.serving.state import GenerationRecord, Stopped
from modelyard.serving.stats import Observation

__all__ = [
    "Abort",
    "Accept",
    "Accepting",
    "Announce",
    "Answered",
    "Ask",
    "CanaryRequest",
    "Channel",
    "ControlReply",
    "ControlRequest",
    "Drain",
    "EndCanaryRequest",
    "EndShadowRequest",
    "Failed",
    "GenerationStatus",
    "Keep",
    "LabelRequest",
    "Load",
    "LoadRequest",
    "Loaded",
    "Named",
    "Observed",
    "Prepare",
    "Prepared",
    "Preparing",
    "PromoteRequest",
    "Refused",
    "RepositoryEntry",
    "RepositoryIndex",
    "RepositoryIndexRequest",
    "Role",
    "RollbackRequest",
    "Routed",
    "ServiceStatus",
    "ShadowRequest",
    "ShareRequest",
    "ShareStatus",
    "SlotLoad",
    "SlotStatus",
    "StagePart",
    "Staged",
    "StatusRequest",
    "StopRequest",
    "Stopping",
    "SwapRequest",
    "Swapped",
    "ToSupervisor",
    "ToWorker",
    "UnloadRequest",
    "Unloaded",
    "error_of",
    "failure_of",
]

Role = Literal["canary", "shadow"]

LONGEST_LINE = 16 * 1024 * 1024


class _Frame(msgspec.Struct, frozen=True, tag_field="frame"):
    """A message; `frame` on the wire is the class's name."""


class SlotLoad(msgspec.Struct, frozen=True):
    """A slot that a starting worker takes over: its place in the shared page and the generations to hold."""

    name: str
    index: int
    generations: tuple[GenerationRecord, ...]


class Load(_Frame, frozen=True, tag=True):
    """To a starting worker: load these before anything is accepted."""

    slots: tuple[SlotLoad, ...]


class Accept(_Frame, frozen=True, tag=True):
    """To a worker: begin to accept connections."""


class Announce(_Frame, frozen=True, tag=True):
    """To a worker: a slot exists from now on, though nothing may be committed in it yet."""

    slot: str
    index: int


class Prepare(_Frame, frozen=True, tag=True):
    """To a worker: load a generation beside the one that answers, warm it up, compare its golden outputs."""

    slot: str
    index: int
    generation: GenerationRecord


class Abort(_Frame, frozen=True, tag=True):
    """To a worker: forget a prepared generation."""

    slot: str
    number: int


class Keep(_Frame, frozen=True, tag=True):
    """To a worker: unload all generations of a slot but these, after their last requests; with none, the slot goes."""

    slot: str
    numbers: tuple[int, ...]


class Named(_Frame, frozen=True, tag=True):
    """To a worker: the labels of a slot, to be told; what they route to stands in the shared page."""

    slot: str
    labels: dict[str, int]


class Drain(_Frame, frozen=True, tag=True):
    """To a worker: accept no more, finish what is in flight, and exit."""


class Loaded(_Frame, frozen=True, tag=True):
    """From a starting worker: what it holds now, and why it does not hold the rest (`slot/number` to failure)."""

    holds: dict[str, tuple[int, ...]]
    failures: dict[str, Failure]
    seconds: float


class Accepting(_Frame, frozen=True, tag=True):
    """From a worker: connections are being accepted."""


class Preparing(_Frame, frozen=True, tag=True):
    """From a worker: the load has begun; if the worker dies from now on, the package may be why."""

    slot: str
    number: int


class Prepared(_Frame, frozen=True, tag=True):
    """From a worker: the generation can be committed; what its inputs are (a digest), and what memory it took."""

    slot: str
    number: int
    seconds: float
    inputs: str = ""
    growth: int = 0


class Refused(_Frame, frozen=True, tag=True):
    """From a worker: the generation can't be served, and why."""

    slot: str
    number: int
    failure: Failure


class Observed(_Frame, frozen=True, tag=True):
    """From a worker: what it has counted of a canary or shadow since it said so last."""

    slot: str
    number: int
    role: Role
    observation: Observation


class StatusRequest(_Frame, frozen=True, tag=True):
    """From a client: how does the service stand?"""


class SwapRequest(_Frame, frozen=True, tag=True):
    """From a client: serve this version of this package in the model's slot."""

    model: str
    version: str
    package: str


class RollbackRequest(_Frame, frozen=True, tag=True):
    """From a client: serve the previous generation again."""

    model: str


class CanaryRequest(_Frame, frozen=True, tag=True):
    """From a client: let a version answer a share of the requests, in parts per million.

    Where a repository was handed in, the package may be left out.
    """

    model: str
    version: str
    package: str
    ppm: int


class ShareRequest(_Frame, frozen=True, tag=True):
    """From a client: let the canary answer another share of the requests."""

    model: str
    ppm: int


class PromoteRequest(_Frame, frozen=True, tag=True):
    """From a client: make the canary the stable generation."""

    model: str


class EndCanaryRequest(_Frame, frozen=True, tag=True):
    """From a client: let the stable generation answer all requests again."""

    model: str


class ShadowRequest(_Frame, frozen=True, tag=True):
    """From a client: show a version a share of the requests after they were answered, and compare."""

    model: str
    version: str
    package: str
    ppm: int


class EndShadowRequest(_Frame, frozen=True, tag=True):
    """From a client: show the shadow nothing more."""

    model: str


class LabelRequest(_Frame, frozen=True, tag=True):
    """From a client: give a label to the generation of a version that is held; without a version, take it away."""

    model: str
    label: str
    version: str | None


class LoadRequest(_Frame, frozen=True, tag=True):
    """From a client: serve a version that the repository knows; without a version, the one it names."""

    model: str
    version: str | None = None


class UnloadRequest(_Frame, frozen=True, tag=True):
    """From a client: serve a model no more."""

    model: str


class StagePart(_Frame, frozen=True, tag=True):
    """From a client: part of a candidate, as a file that is the supervisor's now; `own_proto`: no other is needed."""

    part: Literal["model", "proto", "configuration"]
    file: str
    model: str | None = None
    own_proto: bool = False


class RepositoryIndexRequest(_Frame, frozen=True, tag=True):
    """From a client: which versions does the repository know, and which of them are served?"""


class StopRequest(_Frame, frozen=True, tag=True):
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


class ServiceStatus(_Frame, frozen=True, tag=True):
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


class Swapped(_Frame, frozen=True, tag=True):
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


class Routed(_Frame, frozen=True, tag=True):
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


class Unloaded(_Frame, frozen=True, tag=True):
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


class RepositoryIndex(_Frame, frozen=True, tag=True):
    """What the repository knows and the service serves, by name and version."""

    entries: tuple[RepositoryEntry, ...]


class Staged(_Frame, frozen=True, tag=True):
    """A part waits for those that are missing; or the set is served; or it is refused, with the status of HTTP.

    `unfit` are operations of its proto file that do not fit the model.
    """

    staged: tuple[str, ...]
    missing: tuple[str, ...]
    unfit: tuple[str, ...] = ()
    swapped: Swapped | None = None
    refused: Failure | None = None
    status: int = 200


class Stopping(_Frame, frozen=True, tag=True):
    """The service drains and stops."""


class Failed(_Frame, frozen=True, tag=True):
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


class Ask(_Frame, frozen=True, tag=True):
    """From a worker: what a client asked of it that only the supervisor can do."""

    number: int
    request: ControlRequest


class Answered(_Frame, frozen=True, tag=True):
    """To a worker: the reply to its question of that number."""

    number: int
    reply: ControlReply


ToWorker = Load | Accept | Announce | Prepare | Abort | Keep | Named | Drain | Answered
ToSupervisor = Loaded | Accepting | Preparing | Prepared | Refused | Observed | Ask

Frame = TypeVar("Frame")


class Channel(Generic[Frame]):
    """Frames over a connected stream socket; several threads may send, one receives.

    Args:
        connection: Owned by the channel from now on.
        kind: Union of the frames that may arrive.
    """

    _newline: ClassVar[bytes] = b"\n"

    def __init__(self, connection: socket.socket, kind: Any) -> None:
        self.connection = connection
        self._decoder: msgspec.json.Decoder[Frame] = msgspec.json.Decoder(kind)
        self._buffer = bytearray()
        self._sending = threading.Lock()

    def send(self, frame: msgspec.Struct) -> bool:
        """Send a frame; say whether the other side still takes any."""
        data = msgspec.json.encode(frame) + self._newline
        try:
            with self._sending:
                self.connection.sendall(data)
        except BlockingIOError:
            # The other side reads nothing for too long, and may have a part of the frame: nothing more can follow it.
            with contextlib.suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)
            return False
        except OSError:
            return False
        return True

    def limit_sending(self, seconds: int) -> None:
        """End the conversation where the other side does not take a frame within so many seconds."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", seconds, 0))

    def receive(self) -> Frame | None:
        """Return the next frame, or None when the other side is gone.

        Raises:
            msgspec.MsgspecError: The line is no frame of this channel.
        """
        while (end := self._buffer.find(self._newline)) < 0:
            if len(self._buffer) > LONGEST_LINE:
                raise msgspec.DecodeError("the line is too long")
            try:
                data = self.connection.recv(65536)
            except OSError:
                return None
            if not data:
                return None
            self._buffer += data
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return self._decoder.decode(line)

    def close(self) -> None:
        """End the conversation; the other side receives None."""
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)
        self.connection.close()


def failure_of(error: BaseException) -> Failure:
    """Return an error as it travels; one that is not Modelyard's own keeps its class name and text."""
    if isinstance(error, ModelyardError):
        return Failure(error.code, error.what, error.where or "", error.remedy or "")
    return Failure("error", f"{type(error).__name__}: {error}")


def error_of(failure: Failure) -> ModelyardError:
    """Return the error that a failure was made of."""
    classes: list[type[ModelyardError]] = [ModelyardError]
    for kind in classes:
        classes.extend(kind.__subclasses__())
    # BlueprintError has another constructor; the runner never raises it.
    found = next((kind for kind in classes if kind.code == failure.code and kind.code != "blueprint"), RunError)
    return found(failure.what, where=failure.where or None, remedy=failure.remedy or None)
