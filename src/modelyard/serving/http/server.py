"""Granian's RSGI worker on a socket that all workers share. Everything that knows granian's inside is in this file.

Granian's own supervisor opens one listening socket for each worker (SO_REUSEPORT) and starts workers that accept at
once; connections that wait in a dead worker's queue are reset. Here the socket is made once by our supervisor, every
worker accepts from its one queue, and a worker begins only when its models are loaded. See decision record 0070.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import uvloop
from granian._futures import _future_watcher_wrapper, _new_cbscheduler
from granian._granian import RSGIProtocolClosed, RSGIProtocolError, RSGIWorker, SocketHolder, WorkerSignal
from granian.http import HTTP1Settings

from modelyard.serving.auth.tls import PLAINTEXT, TlsArguments

__all__ = ["CONNECTION_LOST", "HttpServer", "new_event_loop"]

CONNECTION_LOST = (RSGIProtocolClosed, RSGIProtocolError)
"""What reading a body raises where the client went away before its end."""

BACKLOG = 1024
CONNECTIONS = 4096

Application = Callable[[Any, Any], Awaitable[None]]


def new_event_loop() -> asyncio.AbstractEventLoop:
    """Return a uvloop event loop, set as this thread's."""
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    asyncio.set_event_loop(loop)
    return loop


class HttpServer:
    """Accepts connections and hands requests to an application in the event loop.

    Args:
        application: An RSGI callable.
        loop: Its event loop.
        descriptor: Of the listening socket, shared with other processes.
        worker: Number of this worker, from 0.
        tls: What granian is told of TLS.
    """

    def __init__(
        self,
        application: Application,
        loop: asyncio.AbstractEventLoop,
        descriptor: int,
        worker: int,
        tls: TlsArguments = PLAINTEXT,
    ) -> None:
        self._loop = loop
        self._signal = WorkerSignal()
        self._done = asyncio.Event()
        self._signal.add_cb(self._when_done)
        # The stub of this compiled class lags behind its signature.
        make: Any = RSGIWorker
        self._worker = make(
            worker + 1,
            (None, _holder(descriptor)),
            None,  # no pipe for granian's own metrics
            1,  # I/O threads
            1,  # I/O threads for files, which are not served
            1,  # Python threads: the event loop's
            30,
            CONNECTIONS,
            "1",
            HTTP1Settings(),
            None,
            False,
            None,
            *tls,
            (None, None),
        )
        # These have no type hints.
        watched: Any = _future_watcher_wrapper(application)  # type: ignore[no-untyped-call]
        self._scheduler: Any = _new_cbscheduler(loop, watched, impl_asyncio=True)  # type: ignore[no-untyped-call]

    def _when_done(self) -> None:
        self._loop.call_soon_threadsafe(self._done.set)

    def start(self) -> None:
        """Begin to accept. Call it in the event loop's thread."""
        self._worker.serve_str(self._scheduler, self._loop, self._signal)

    def drain(self) -> None:
        """Accept no more, close idle connections, and let requests in flight end. Any thread may call it."""
        self._signal.set()

    async def wait_drained(self) -> None:
        """Return when the last connection is closed."""
        await self._done.wait()


def _holder(descriptor: int) -> Any:
    make: Any = SocketHolder
    return make(descriptor, False, BACKLOG)
