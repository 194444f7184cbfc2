"""What the engine and its workers say to each other over pipes: a length, then MessagePack."""

from __future__ import annotations

import io
import os

import msgspec

from modelyard.files import write_all
from modelyard.records import Failure

__all__ = ["Done", "Failed", "Part", "Ready", "Reply", "Setup", "read", "send"]


class Setup(msgspec.Struct, frozen=True, tag="setup"):
    """The first message to a worker.

    Args:
        package: Folder of the package.
        source: Format of the input.
        place: Name of the input, for errors.
        header: Of a CSV file.
        kept: Arrow schema of the columns to keep, serialized.
        target: Format of the output.
        schema: Arrow schema of the output, serialized.
        folder: Where parts go.
        pickle: BLAKE3 of the pickled model that may be loaded, or None.
    """

    package: str
    source: str
    place: str
    header: bytes
    kept: bytes
    target: str
    schema: bytes
    folder: str
    pickle: str | None = None


class Part(msgspec.Struct, frozen=True, tag="part"):
    """A piece to predict; see `sources.Piece`."""

    number: int
    first: int
    line: int
    rows: int
    body: bytes


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """The worker has loaded the model."""


class Done(msgspec.Struct, frozen=True, tag="done"):
    """A part is a durable file."""

    number: int
    rows: int


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """A part can't be made, or (number -1) the model can't be loaded."""

    number: int
    failure: Failure


Reply = Ready | Done | Failed

_LENGTH = 8


def send(descriptor: int, message: msgspec.Struct) -> None:
    """Write a message; raises OSError where nobody reads any more."""
    body = msgspec.msgpack.encode(message)
    write_all(descriptor, len(body).to_bytes(_LENGTH, "little"))
    write_all(descriptor, body)


def read(pipe: io.RawIOBase) -> bytes | None:
    """Return the next message's bytes, or None where the other side is gone."""
    head = _exactly(pipe, _LENGTH)
    return None if head is None else _exactly(pipe, int.from_bytes(head, "little"))


def _exactly(pipe: io.RawIOBase, size: int) -> bytes | None:
    content = bytearray(size)
    view = memoryview(content)
    while view:
        count = os.readv(pipe.fileno(), [view])
        if not count:
            return None
        view = view[count:]
    return bytes(content)
