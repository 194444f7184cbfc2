"""What the supervisor and its workers say to each other, and the channel for it: one JSON object on a line."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from typing import Any, ClassVar, Generic, Literal, TypeVar

import msgspec

from modelyard.errors import ModelyardError, RunError
from modelyard.records import Failure
from modelyard.serving.asking import ControlReply, ControlRequest, Frame
from modelyard.serving.state import GenerationRecord
from modelyard.serving.stats import Observation
from modelyard.serving.tracing import NOBODY, Origin

__all__ = [
    "Abort",
    "Accept",
    "Accepting",
    "Announce",
    "Answered",
    "Ask",
    "Channel",
    "Drain",
    "Keep",
    "Load",
    "Loaded",
    "Named",
    "Observed",
    "Prepare",
    "Prepared",
    "Preparing",
    "Refused",
    "Role",
    "SlotLoad",
    "ToSupervisor",
    "ToWorker",
    "error_of",
    "failure_of",
]

Role = Literal["canary", "shadow"]

LONGEST_LINE = 16 * 1024 * 1024


class SlotLoad(msgspec.Struct, frozen=True):
    """A slot that a starting worker takes over: its place in the shared page and the generations to hold."""

    name: str
    index: int
    generations: tuple[GenerationRecord, ...]


class Load(Frame, frozen=True, tag=True):
    """To a starting worker: load these before anything is accepted."""

    slots: tuple[SlotLoad, ...]


class Accept(Frame, frozen=True, tag=True):
    """To a worker: begin to accept connections."""


class Announce(Frame, frozen=True, tag=True):
    """To a worker: a slot exists from now on, though nothing may be committed in it yet."""

    slot: str
    index: int


class Prepare(Frame, frozen=True, tag=True):
    """To a worker: load a generation beside the one that answers, warm it up, compare its golden outputs.

    `about` names, in the log's lines, the request that asked for it: its id and its trace.
    """

    slot: str
    index: int
    generation: GenerationRecord
    about: dict[str, str]


class Abort(Frame, frozen=True, tag=True):
    """To a worker: forget a prepared generation."""

    slot: str
    number: int


class Keep(Frame, frozen=True, tag=True):
    """To a worker: unload all generations of a slot but these, after their last requests; with none, the slot goes."""

    slot: str
    numbers: tuple[int, ...]


class Named(Frame, frozen=True, tag=True):
    """To a worker: the labels of a slot, to be told; what they route to stands in the shared page."""

    slot: str
    labels: dict[str, int]


class Drain(Frame, frozen=True, tag=True):
    """To a worker: accept no more, finish what is in flight, and exit."""


class Loaded(Frame, frozen=True, tag=True):
    """From a starting worker: what it holds now, and why it does not hold the rest (`slot/number` to failure)."""

    holds: dict[str, tuple[int, ...]]
    failures: dict[str, Failure]
    seconds: float


class Accepting(Frame, frozen=True, tag=True):
    """From a worker: connections are being accepted."""


class Preparing(Frame, frozen=True, tag=True):
    """From a worker: the load has begun; if the worker dies from now on, the package may be why."""

    slot: str
    number: int


class Prepared(Frame, frozen=True, tag=True):
    """From a worker: the generation can be committed; what its inputs are (a digest), and what memory it took."""

    slot: str
    number: int
    seconds: float
    inputs: str = ""
    growth: int = 0


class Refused(Frame, frozen=True, tag=True):
    """From a worker: the generation can't be served, and why."""

    slot: str
    number: int
    failure: Failure


class Observed(Frame, frozen=True, tag=True):
    """From a worker: what it has counted of a canary or shadow since it said so last."""

    slot: str
    number: int
    role: Role
    observation: Observation


class Ask(Frame, frozen=True, tag=True):
    """From a worker: what a client asked of it that only the supervisor can do, and by which request."""

    number: int
    request: ControlRequest
    origin: Origin = NOBODY


class Answered(Frame, frozen=True, tag=True):
    """To a worker: the reply to its question of that number."""

    number: int
    reply: ControlReply


ToWorker = Load | Accept | Announce | Prepare | Abort | Keep | Named | Drain | Answered
ToSupervisor = Loaded | Accepting | Preparing | Prepared | Refused | Observed | Ask

Received = TypeVar("Received")


class Channel(Generic[Received]):
    """Frames over a connected stream socket; several threads may send, one receives.

    Args:
        connection: Owned by the channel from now on.
        kind: Union of the frames that may arrive.
    """

    _newline: ClassVar[bytes] = b"\n"

    def __init__(self, connection: socket.socket, kind: Any) -> None:
        self.connection = connection
        self._decoder: msgspec.json.Decoder[Received] = msgspec.json.Decoder(kind)
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

    def receive(self) -> Received | None:
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
