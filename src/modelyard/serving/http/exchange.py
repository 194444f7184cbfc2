"""A request as it arrives over HTTP, and the way to answer it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Protocol

__all__ = ["BodyLostError", "Exchange", "Headers", "Way"]

Headers = Sequence[tuple[str, str]]
"""Of an answer; names in lower case. A tuple stands for what other answers have too: it is written once and kept."""


class BodyLostError(Exception):
    """The client went away, or broke the protocol, before the end of its body."""


class Way(Protocol):
    """What an exchange came over."""

    def want(self, exchange: Exchange) -> None:
        """Let more of its body come."""

    def answer(self, exchange: Exchange, status: int, headers: Headers, body: bytes, own: Headers) -> None:
        """Send what answers it; see `Exchange.answer`."""

    def abandon(self, exchange: Exchange) -> None:
        """Take down that nothing will answer it."""


class Exchange:
    """A request and its answer.

    Args:
        way: What it came over.
        method: Such as `POST`.
        path: Without the query; percent-encoding is undone.
        query: What follows the question mark, as it came.
        headers: By name in lower case; what came more than once is joined by commas (RFC 9110, section 5.2).
    """

    __slots__ = (
        "_pieces", "_waiting", "_way", "answered", "complete", "headers", "held", "lost", "method", "path", "query",
        "reading", "received",
    )  # fmt: skip

    def __init__(self, way: Way, method: str, path: str, query: str, headers: dict[str, str]) -> None:
        self._way = way
        self.method = method
        self.path = path
        self.query = query
        self.headers = headers
        self.complete = False
        """Whether the whole body has come."""
        self.lost = False
        """Whether its rest never comes."""
        self.answered = False
        self.reading = False
        """Whether somebody waits for the whole body, so that it need not be slowed down."""
        self.received = 0
        """Bytes of the body that have come."""
        self.held = 0
        """Bytes of them that nobody has taken yet."""
        self._pieces: list[bytes] = []
        self._waiting: asyncio.Future[None] | None = None

    async def read(self) -> bytes:
        """Return the whole body; raises BodyLostError."""
        self.reading = True
        while not self.complete:
            await self._more()
        return self.take()

    async def pieces(self) -> AsyncIterator[bytes]:
        """Yield the body as it comes; raises BodyLostError."""
        while True:
            if self._pieces:
                yield self.take()
            elif self.complete:
                return
            else:
                await self._more()

    def take(self) -> bytes:
        """Return what has come of the body since the last time."""
        pieces = self._pieces
        self._pieces = []
        self.held = 0
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def answer(self, status: int, headers: Headers, body: bytes, own: Headers = ()) -> None:
        """Answer it; what comes after the first answer is dropped.

        Args:
            status: Of HTTP.
            headers: All but those that HTTP itself needs.
            body: Left out where it answers a HEAD.
            own: More headers, which no other answer has.
        """
        if not self.answered:
            self._way.answer(self, status, headers, body, own)
            self.answered = True

    def abandon(self) -> None:
        """End it without an answer."""
        if not self.answered:
            self._way.abandon(self)

    # What the connection calls

    def add(self, piece: bytes) -> None:
        """Take a piece of the body."""
        self.received += len(piece)
        if not self.answered:
            self._pieces.append(piece)
            self.held += len(piece)
            if not self.reading:
                self._wake()

    def finish(self) -> None:
        """Take down that the body is complete."""
        self.complete = True
        self._wake()

    def lose(self) -> None:
        """Take down that the rest of the body never comes."""
        if not self.complete:
            self.lost = True
            self._wake()

    async def _more(self) -> None:
        if self.lost:
            raise BodyLostError
        self._way.want(self)
        self._waiting = asyncio.get_running_loop().create_future()
        await self._waiting
        self._waiting = None

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)
