"""One stream of an HTTP/2 connection: a call's bytes in and out, within the windows of both sides."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Protocol

from modelyard.serving.grpc.frames import HEAD, ErrorCode, Flag, Kind, frame, reset

if TYPE_CHECKING:
    from modelyard.serving.grpc.connection import Connection

__all__ = ["NOBODY", "Receiver", "Stream"]


class Receiver(Protocol):
    """Takes what comes on a stream."""

    def receive(self, data: bytes) -> None:
        """Take some bytes."""

    def end(self) -> None:
        """Take down that there are no more."""

    def abandon(self) -> None:
        """Take down that nobody waits for an answer any more."""

    def stalled(self) -> None:
        """Take down that the client keeps us waiting for too long."""

    def drain(self) -> None:
        """Take down that the service stops: what never ends by itself is to end."""


class _Nobody:
    """Takes what comes when a call is over."""

    def receive(self, _data: bytes) -> None:
        pass

    def end(self) -> None:
        pass

    def abandon(self) -> None:
        pass

    def stalled(self) -> None:
        pass

    def drain(self) -> None:
        pass


NOBODY: Receiver = _Nobody()
"""The receiver of a stream whose call is over."""


class Stream:
    """A stream.

    Args:
        connection: That it is part of.
        number: Of the stream.
        window: Bytes that the client may send.
        peer_window: Bytes that we may send.
    """

    __slots__ = (
        "_connection", "_tail", "_waiting", "done", "ended", "number", "peer_window", "receiver", "relieved",
        "stalled_since", "unacknowledged", "window",
    )  # fmt: skip

    receiver: Receiver

    def __init__(self, connection: Connection, number: int, window: int, peer_window: int) -> None:
        self._connection = connection
        self.number = number
        self.window = window
        self.peer_window = peer_window
        self.unacknowledged = 0
        self.ended = False
        """Whether the client has sent all."""
        self.done = False
        """Whether our answer is complete, though parts of it may wait."""
        self.stalled_since = 0.0
        """Since when, on the event loop's clock, the client keeps us waiting; 0 where it does not."""
        self.relieved: asyncio.Event | None = None
        """Set when nothing waits any more."""
        self._waiting: deque[memoryview] = deque()
        self._tail = b""

    @property
    def waiting(self) -> bool:
        """Whether bytes wait for the client's window."""
        return bool(self._waiting)

    def receive(self, data: bytes) -> None:
        """Hand on bytes that came."""
        self.receiver.receive(data)

    def end(self) -> None:
        """Hand on that the client has sent all."""
        self.ended = True
        self.stalled_since = 0.0
        self.receiver.end()

    def abandon(self) -> None:
        """Hand on that nobody waits any more."""
        self.done = True
        self._waiting.clear()
        self.receiver.abandon()

    def stalled(self) -> None:
        """Hand on that the client keeps us waiting, or end what it does not take."""
        if self.done:
            self._connection.write(reset(self.number, ErrorCode.CANCEL))
            self.abandon()
            self._connection.forget(self)
        else:
            self.receiver.stalled()

    def consumed(self, count: int) -> None:
        """Let the client send again what was taken."""
        self._connection.consumed(self, count)

    def begin(self, block: bytes) -> None:
        """Send the headers of the answer."""
        self._connection.write(frame(Kind.HEADERS, Flag.END_HEADERS, self.number, block))

    def send(self, data: bytes) -> None:
        """Send bytes, as far as the windows allow; the rest waits."""
        if data and not self.done:
            self._waiting.append(memoryview(data))
            self.pump()

    def answer(self, head: bytes, data: bytes, tail: bytes) -> None:
        """Send a whole answer, and be done: in one write, where the windows allow.

        Args:
            head: Header block.
            data: The body.
            tail: Header block of the trailers.
        """
        connection, size = self._connection, len(data)
        fits = size <= connection.peer_frame and size <= self.peer_window and size <= connection.peer_window
        if not fits or connection.paused:
            self.begin(head)
            self.send(data)
            self.finish(tail)
            return
        self.done = True
        connection.peer_window -= size
        number = self.number
        connection.write(
            b"".join(
                (
                    HEAD.pack(0, len(head), Kind.HEADERS, Flag.END_HEADERS, number), head,
                    HEAD.pack(size >> 16, size & 0xFFFF, Kind.DATA, 0, number), data,
                    HEAD.pack(0, len(tail), Kind.HEADERS, Flag.END_HEADERS | Flag.END_STREAM, number), tail,
                )
            )
        )  # fmt: skip
        self._close()

    def finish(self, tail: bytes) -> None:
        """Send the trailers behind all that waits, and be done."""
        if not self.done:
            self.done = True
            self._tail = tail
            self.pump()

    def pump(self) -> None:
        """Send what waits, as far as the windows allow."""
        connection = self._connection
        while self._waiting and not connection.paused:
            part = self._waiting[0]
            size = min(len(part), self.peer_window, connection.peer_window, connection.peer_frame)
            if size <= 0:
                break
            connection.write(frame(Kind.DATA, 0, self.number, part[:size]))
            connection.earn(size / 1024)
            self.peer_window -= size
            connection.peer_window -= size
            self.stalled_since = 0.0
            if size == len(part):
                self._waiting.popleft()
            else:
                self._waiting[0] = part[size:]
        if self._waiting:
            self.stalled_since = self.stalled_since or connection.now
            return
        if self.relieved is not None:
            self.relieved.set()
        if self.done and self._tail:
            connection.write(frame(Kind.HEADERS, Flag.END_HEADERS | Flag.END_STREAM, self.number, self._tail))
            self._tail = b""
            self._close()

    def _close(self) -> None:
        connection = self._connection
        if not self.ended:
            # The answer came before the end of the question: whatever is on its way is not needed (RFC 9113, 8.1).
            connection.write(reset(self.number, ErrorCode.NO_ERROR))
        connection.earn(2.0)
        connection.forget(self)
