"""What a worker process and its executor say to each other: JSON texts over a socket, each after its length.

JSON and not pickle: a worker that runs foreign code must not be able to make the executor run any.
"""

from __future__ import annotations

import os
import socket
import struct
import threading

import msgspec

from modelyard.records import Event, TaskCall, TaskResult

__all__ = ["Channel", "Decoder", "Done", "Message", "Prepare", "Ready", "Run", "Told"]

_LENGTH = struct.Struct(">I")

LONGEST_FRAME = 64 * 1024 * 1024
"""Bytes of a message: far more than any result, and no more than the executor can hold of a step that means harm."""


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """The worker has started and waits for a task."""

    pid: int


class Prepare(msgspec.Struct, frozen=True, tag="prepare"):
    """The worker shall import modules that a later task will need; it does not answer."""

    modules: list[str]


class Run(msgspec.Struct, frozen=True, tag="run"):
    """The worker shall run a task."""

    call: TaskCall


class Told(msgspec.Struct, frozen=True, tag="told"):
    """Something happened in the running task."""

    event: Event


class Done(msgspec.Struct, frozen=True, tag="done"):
    """The task ended."""

    result: TaskResult


Message = Ready | Prepare | Run | Told | Done


class Decoder:
    """Cuts received bytes into messages."""

    def __init__(self) -> None:
        self._decoder = msgspec.json.Decoder(Message)
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Message]:
        """Return the messages that these bytes complete.

        Raises:
            msgspec.DecodeError: They are no messages, or one is longer than `LONGEST_FRAME`.
        """
        buffer = self._buffer
        buffer += data
        messages = []
        start = 0
        while len(buffer) - start >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(buffer, start)
            if length > LONGEST_FRAME:
                raise msgspec.DecodeError(f"a message of {length} bytes is too long")
            end = start + _LENGTH.size + length
            if len(buffer) < end:
                break
            messages.append(self._decoder.decode(memoryview(buffer)[start + _LENGTH.size : end]))
            start = end
        if start:
            del buffer[:start]
        return messages


class Channel:
    """One end of the socket; sending is safe from every thread.

    Args:
        connection: A connected stream socket, which the channel owns from now on.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._decoder = Decoder()
        self._encoder = msgspec.json.Encoder()
        self._lock = threading.Lock()
        self._owner = os.getpid()
        self._waiting: list[Message] = []

    def fileno(self) -> int:
        """Return the descriptor, for selectors."""
        return self._socket.fileno()

    def send(self, message: Message) -> None:
        """Send a message; raises OSError where nobody is there to take it."""
        if os.getpid() != self._owner:
            # A child that a step forked shares the socket; half a frame of its own would spoil every later one.
            return
        data = self._encoder.encode(message)
        with self._lock:
            self._socket.sendall(_LENGTH.pack(len(data)) + data)

    def receive(self) -> Message | None:
        """Return the next message, or None when the other end is closed."""
        while not self._waiting:
            data = self._socket.recv(1 << 16)
            if not data:
                return None
            self._waiting = self._decoder.feed(data)
        return self._waiting.pop(0)

    def read(self) -> list[Message] | None:
        """Return what has arrived, without waiting where the socket is readable; None when the other end is closed."""
        try:
            data = self._socket.recv(1 << 16)
        except ConnectionResetError:
            return None
        return self._decoder.feed(data) if data else None

    def close(self) -> None:
        """Close this end."""
        self._socket.close()
