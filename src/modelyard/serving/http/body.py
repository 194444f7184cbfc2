"""Reads request bodies, and holds no more of one than the limits allow, whatever its head announces."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator
from typing import Any

from modelyard.serving.http.compression import coding_of, inflate
from modelyard.serving.http.exchange import BodyLostError, Exchange
from modelyard.serving.problems import HttpProblem
from modelyard.serving.spec import Limits

__all__ = ["BodyReader"]

DISCARD = 32 * 1024 * 1024
BESIDE = 8 * 1024
"""A compressed body longer than this is unpacked in a thread: it may be two hundred times as long."""
_CLOSE = (("connection", "close"),)


class BodyReader:
    """Reads bodies within limits. It belongs to the event loop's thread.

    Args:
        limits: How long a body may be, and how long it may take to arrive.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._patience = _Patience(limits.body_seconds)

    def is_ready(self, exchange: Exchange) -> bool:
        """Say whether the whole body has come, is not too long, and is not compressed: it can be taken as it is."""
        return (
            exchange.complete
            and exchange.held <= self._limits.body_bytes
            and "content-encoding" not in exchange.headers
        )

    async def read(self, exchange: Exchange) -> bytes:
        """Return the whole body, unpacked where it is compressed.

        Args:
            exchange: The request.

        Raises:
            HttpProblem: 400 cut off, 408 too slow, 413 too large, 415 compressed in an unknown way.
        """
        if self.is_ready(exchange):
            return exchange.take()
        coding = coding_of(exchange.headers.get("content-encoding"))
        body = await self._arrived(exchange)
        if coding is None:
            return body
        limits = self._limits
        unpack = functools.partial(inflate, body, coding, limit=limits.body_bytes, ratio=limits.decompression_ratio)
        if len(body) <= BESIDE:
            return unpack()
        return await asyncio.get_running_loop().run_in_executor(None, unpack)

    async def _arrived(self, exchange: Exchange) -> bytes:
        """Return the whole body as it came."""
        announced = exchange.headers.get("content-length")
        within = announced is not None and int(announced) <= self._limits.body_bytes
        task = self._patience.begin()
        try:
            return await (exchange.read() if within else self._read_pieces(exchange))
        except BodyLostError:
            raise _incomplete() from None
        except asyncio.CancelledError:
            if self._patience.ended(task):
                raise _too_slow(self._limits.body_seconds) from None
            raise
        finally:
            self._patience.end(task)

    async def _read_pieces(self, exchange: Exchange) -> bytes:
        limit = self._limits.body_bytes
        pieces: list[bytes] = []
        size = 0
        async for piece in exchange.pieces():
            size += len(piece)
            if size <= limit:
                pieces.append(piece)
            elif size > limit + DISCARD:
                break
            else:
                # Most clients read no answer before they have written all: what is too much is read and dropped.
                pieces.clear()
        if size > limit:
            raise _too_large(limit)
        return b"".join(pieces)

    async def stream(self, exchange: Exchange, *, body_bytes: int) -> AsyncIterator[bytes]:
        """Yield a body that is too large to be held, piece by piece; each may take as long as a whole small one.

        Args:
            exchange: The request.
            body_bytes: How long it may be.

        Raises:
            HttpProblem: As `read`.
        """
        if coding_of(exchange.headers.get("content-encoding")) is not None:
            raise HttpProblem(415, "content-encoding", "The body is compressed.", remedy="Send it uncompressed.")
        announced = exchange.headers.get("content-length")
        if announced is not None and int(announced) > body_bytes:
            raise _too_large(body_bytes)
        pieces = exchange.pieces()
        size = 0
        while True:
            try:
                async with asyncio.timeout(self._limits.body_seconds):
                    piece = await anext(pieces)
            except StopAsyncIteration:
                break
            except TimeoutError:
                raise _too_slow(self._limits.body_seconds) from None
            except BodyLostError:
                raise _incomplete() from None
            size += len(piece)
            if size > body_bytes:
                raise _too_large(body_bytes)
            yield piece


class _Patience:
    """Cancels tasks that wait too long. One timer looks after all of them: one for each would cost as much as reading.

    Args:
        seconds: How long a task may wait; it may become a quarter longer.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._since: dict[asyncio.Task[Any], float] = {}
        self._ended: set[asyncio.Task[Any]] = set()
        self._looking = False

    def begin(self) -> asyncio.Task[Any]:
        """Look after the current task."""
        loop = asyncio.get_running_loop()
        task = asyncio.current_task(loop)
        if task is None:
            raise RuntimeError("there is no task to look after")
        self._since[task] = loop.time()
        if not self._looking:
            self._looking = True
            loop.call_later(self._seconds / 4, self._look, loop)
        return task

    def end(self, task: asyncio.Task[Any]) -> None:
        """Look after a task no more."""
        self._since.pop(task, None)

    def ended(self, task: asyncio.Task[Any]) -> bool:
        """Say whether it was this that cancelled a task, and take the cancellation back."""
        if task not in self._ended:
            return False
        self._ended.remove(task)
        task.uncancel()
        return True

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        latest = loop.time() - self._seconds
        for task in [task for task, since in self._since.items() if since < latest]:
            del self._since[task]
            self._ended.add(task)
            task.cancel()
        self._looking = bool(self._since)
        if self._looking:
            loop.call_later(self._seconds / 4, self._look, loop)


def _too_large(limit: int) -> HttpProblem:
    return HttpProblem(
        413, "too-large", f"The body is larger than {limit} bytes.", remedy="Send less in one request.", headers=_CLOSE
    )


def _too_slow(seconds: float) -> HttpProblem:
    return HttpProblem(
        408, "timeout", f"The body did not arrive within {seconds:g} s.", remedy="Send it at once.", headers=_CLOSE
    )


def _incomplete() -> HttpProblem:
    return HttpProblem(400, "incomplete", "The body ended before its announced length.")
