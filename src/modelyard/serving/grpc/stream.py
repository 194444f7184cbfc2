"""One stream of an HTTP/2 connection: a call's bytes in and out, within the windows of both sides."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Protocol

from h2.errors import ErrorCodes

from modelyard.serving.grpc.status import Headers

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
        ended: Whether the client has sent all.
    """

    __slots__ = (
        "_connection", "_tail", "_waiting", "done", "ended", "number", "receiver", "relieved", "stalled_since",
    )  # fmt: skip

    receiver: Receiver

    def __init__(self, connection: Connection, number: int, ended: bool) -> None:
        self._connection = connection
        self.number = number
        self.ended = ended
        """Whether the client has sent all."""
        self.done = False
        """Whether our answer is complete, though parts of it may wait."""
        self.stalled_since = connection.now
        """Since when, on the event loop's clock, the client keeps us waiting; 0 where it does not."""
        self.relieved: asyncio.Event | None = None
        """Set when nothing waits any more."""
        self._waiting: deque[memoryview] = deque()
        self._tail: Headers = ()

    @property
    def waiting(self) -> bool:
        """Whether bytes wait for the client's window."""
        return bool(self._waiting)

    def end(self) -> None:
        """Hand on that the client has sent all."""
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
            self._connection.reset(self.number, ErrorCodes.CANCEL)
            self.abandon()
            self._connection.forget(self)
        else:
            self.receiver.stalled()

    def consumed(self, count: int) -> None:
        """Let the client send again what was taken."""
        self._connection.consumed(self.number, count)

    def begin(self, head: Headers) -> None:
        """Send the headers of the answer."""
        if not self.done:
            self._connection.send_headers(self.number, head)

    def send(self, data: bytes) -> None:
        """Send bytes, as far as the windows allow; the rest waits."""
        if data and not self.done:
            self._waiting.append(memoryview(data))
            self.pump()

    def finish(self, tail: Headers) -> None:
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
            size = min(len(part), connection.room(self.number))
            if size <= 0:
                break
            connection.send_data(self.number, part[:size])
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
            connection.send_headers(self.number, self._tail, end=True)
            self._tail = ()
            if not self.ended:
                # The answer came before the end of the question: the rest of it is not needed (RFC 9113, 8.1).
                connection.reset(self.number, ErrorCodes.NO_ERROR)
            connection.forget(self)
