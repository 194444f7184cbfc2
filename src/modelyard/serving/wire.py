"""What the supervisor, its workers and its clients say to each other: one JSON object on a line, over a Unix socket."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Any, ClassVar, Generic, TypeVar

import msgspec

from modelyard.errors import ModelyardError, RunError
from modelyard.records import Failure
from modelyard.serving.state import GenerationRecord

__all__ = [
    "Abort",
    "Accept",
    "Accepting",
    "Announce",
    "Answered",
    "Ask",
    "Channel",
    "ControlReply",
    "ControlRequest",
    "Drain",
    "Failed",
    "GenerationStatus",
    "Keep",
    "Load",
    "Loaded",
    "Prepare",
    "Prepared",
    "Preparing",
    "Refused",
    "RollbackRequest",
    "ServiceStatus",
    "SlotLoad",
    "SlotStatus",
    "StatusRequest",
    "StopRequest",
    "Stopping",
    "SwapRequest",
    "Swapped",
    "ToSupervisor",
    "ToWorker",
    "error_of",
    "failure_of",
]

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
    """From a worker: the generation can be committed."""

    slot: str
    number: int
    seconds: float


class Refused(_Frame, frozen=True, tag=True):
    """From a worker: the generation can't be served, and why."""

    slot: str
    number: int
    failure: Failure


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


class StopRequest(_Frame, frozen=True, tag=True):
    """From a client: drain and stop."""


class GenerationStatus(msgspec.Struct, frozen=True):
    """A generation as a client sees it."""

    number: int
    version: str
    package: str
    committed: float


class SlotStatus(msgspec.Struct, frozen=True):
    """A slot as a client sees it.

    Args:
        current: What answers.
        previous: What a rollback would bring back, or None.
        labels: Names for generations.
        failure: Why no worker can serve the committed generation, or None.
        following: Why what is live could not be made so at the last try, or None.
    """

    current: GenerationStatus | None
    previous: GenerationStatus | None = None
    labels: dict[str, int] = {}
    failure: Failure | None = None
    following: Failure | None = None


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


class Stopping(_Frame, frozen=True, tag=True):
    """The service drains and stops."""


class Failed(_Frame, frozen=True, tag=True):
    """What a client asked for was not done, and why; everything is as before."""

    failure: Failure


ControlRequest = StatusRequest | SwapRequest | RollbackRequest | StopRequest
ControlReply = ServiceStatus | Swapped | Stopping | Failed


class Ask(_Frame, frozen=True, tag=True):
    """From a worker: what a client asked of it that only the supervisor can do."""

    number: int
    request: ControlRequest


class Answered(_Frame, frozen=True, tag=True):
    """To a worker: the reply to its question of that number."""

    number: int
    reply: ControlReply


ToWorker = Load | Accept | Announce | Prepare | Abort | Keep | Drain | Answered
ToSupervisor = Loaded | Accepting | Preparing | Prepared | Refused | Ask

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
        except OSError:
            return False
        return True

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
