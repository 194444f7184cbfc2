"""Reads request bodies, and holds no more of one than the limits allow, whatever its head announces."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from modelyard.serving.http.rsgi import Exchange, Scope
from modelyard.serving.http.server import CONNECTION_LOST
from modelyard.serving.problems import HttpProblem
from modelyard.serving.spec import Limits

__all__ = ["read_body", "stream_body"]

DISCARD = 32 * 1024 * 1024
_CLOSE = (("connection", "close"),)


async def read_body(scope: Scope, exchange: Exchange, limits: Limits, *, self_delimiting: bool = False) -> bytes:
    """Return the whole body.

    Args:
        scope: The request's head.
        exchange: Where the body comes from.
        limits: How long it may be, and how long it may take.
        self_delimiting: Whether a body that was cut off can be told from a whole one, as in JSON: the server does not
            say where a chunked body ended too early, so any other needs its length.

    Raises:
        HttpProblem: 400 cut off or contradictory, 408 too slow, 411 no length, 413 too large, 415 compressed.
    """
    _check_encoding(scope)
    try:
        async with asyncio.timeout(limits.body_seconds):
            return await _read(scope, exchange, limits.body_bytes, self_delimiting)
    except TimeoutError:
        raise _too_slow(limits.body_seconds) from None


async def stream_body(
    scope: Scope, exchange: Exchange, limits: Limits, *, body_bytes: int, pause_seconds: float = 30.0
) -> AsyncIterator[bytes]:
    """Yield a body that is too large to be held, piece by piece.

    Args:
        scope: The request's head.
        exchange: Where the body comes from.
        limits: Of a body that is held; only their seconds count, and for one piece instead of the whole.
        body_bytes: How long this one may be.
        pause_seconds: The longest wait for a piece.

    Raises:
        HttpProblem: As `read_body`.
    """
    _check_encoding(scope)
    announced = scope.headers.get("content-length")
    if announced is None:
        raise HttpProblem(411, "length-required", "The body needs its length.", remedy="Send Content-Length.")
    if int(announced) > body_bytes:
        raise _too_large(body_bytes)
    pieces = aiter(exchange)
    size = 0
    while True:
        try:
            async with asyncio.timeout(min(pause_seconds, limits.body_seconds)):
                piece = await anext(pieces)
        except StopAsyncIteration:
            break
        except TimeoutError:
            raise _too_slow(pause_seconds) from None
        except CONNECTION_LOST:
            raise _incomplete() from None
        size += len(piece)
        yield piece
    if size != int(announced):
        raise _incomplete()


def _check_encoding(scope: Scope) -> None:
    encoding = scope.headers.get("content-encoding")
    if encoding and encoding.strip().lower() != "identity":
        raise HttpProblem(415, "content-encoding", "The body is compressed.", remedy="Send it uncompressed.")


async def _read(scope: Scope, exchange: Exchange, limit: int, self_delimiting: bool) -> bytes:
    announced = scope.headers.get("content-length")
    if scope.headers.get("transfer-encoding") is not None:
        if announced is not None:
            raise HttpProblem(400, "malformed", "The request has both a content length and a transfer encoding.")
        if not self_delimiting:
            raise HttpProblem(
                411, "length-required", "A body of this kind needs its length.", remedy="Send Content-Length, or JSON."
            )
    elif announced is None or int(announced) <= limit:
        # The server ends the body at the announced length, and one that falls short of it is an error.
        try:
            return await exchange()
        except CONNECTION_LOST:
            raise _incomplete() from None
    pieces: list[bytes] = []
    size = 0
    async for piece in exchange:
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
