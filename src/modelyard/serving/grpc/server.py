"""Accepts gRPC connections from the socket that all workers share. See decision record 0094."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl

from modelyard.serving.grpc.calls import Call, Dispatcher
from modelyard.serving.grpc.connection import Connection
from modelyard.serving.grpc.stream import Stream

__all__ = ["GrpcServer"]

CONNECTIONS = 4096
SWEEP_SECONDS = 1.0
HANDSHAKE_SECONDS = 10.0
PAUSE_SECONDS = 0.1


class GrpcServer:
    """Accepts connections and hands their calls to a dispatcher, all in one event loop.

    Args:
        dispatcher: Answers calls.
        loop: The event loop.
        descriptor: Of the listening socket, shared with other processes.
        tls: How connections are encrypted, or None.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        loop: asyncio.AbstractEventLoop,
        descriptor: int,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._dispatcher = dispatcher
        self._loop = loop
        self._listening = socket.socket(fileno=descriptor)
        self._listening.setblocking(False)
        self._tls = tls
        self._connections: set[Connection] = set()
        self._greeting: set[asyncio.Task[None]] = set()
        self._listens = self._draining = False
        self._empty = asyncio.Event()
        self.stall_seconds = dispatcher.limits.body_seconds

    # What connections call

    def receiver(self, stream: Stream, headers: dict[bytes, bytes], size: int) -> Call:
        """Return who takes a call whose headers came."""
        return self._dispatcher.receiver(stream, headers, size)

    def opened(self, connection: Connection) -> None:
        """Take down that a connection is there."""
        self._connections.add(connection)
        if self._draining:
            connection.drain()

    def closed(self, connection: Connection) -> None:
        """Take down that it is gone."""
        self._connections.discard(connection)
        if self._draining and not self._connections and not self._greeting:
            self._empty.set()

    # What the worker calls

    def start(self) -> None:
        """Begin to accept. Call it in the event loop's thread."""
        self._listen(True)
        self._loop.call_later(SWEEP_SECONDS, self._sweep)

    def _listen(self, wanted: bool) -> None:
        if wanted and not self._listens and not self._draining:
            self._loop.add_reader(self._listening.fileno(), self._accept)
        elif not wanted and self._listens:
            self._loop.remove_reader(self._listening.fileno())
        self._listens = wanted and not self._draining

    def _accept(self) -> None:
        """Take one connection at a time: the others in the queue may go to workers that have less to do."""
        if len(self._connections) + len(self._greeting) >= CONNECTIONS:
            self._listen(False)
            return
        try:
            accepted, _ = self._listening.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            # Another worker was faster, or the client is gone.
            return
        except OSError:
            # No descriptor to be had: the queue keeps the client until there is one.
            self._listen(False)
            self._loop.call_later(PAUSE_SECONDS, self._listen, True)
            return
        accepted.setblocking(False)
        accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        task = self._loop.create_task(self._greet(accepted))
        self._greeting.add(task)
        task.add_done_callback(self._greeted)

    async def _greet(self, accepted: socket.socket) -> None:
        timeout = HANDSHAKE_SECONDS if self._tls is not None else None
        try:
            await self._loop.connect_accepted_socket(
                lambda: Connection(self, self._loop), accepted, ssl=self._tls, ssl_handshake_timeout=timeout
            )
        except (OSError, asyncio.CancelledError):
            # No TLS, or the wrong one (an SSLError is an OSError): nothing to tell anybody.
            accepted.close()

    def _greeted(self, task: asyncio.Task[None]) -> None:
        self._greeting.discard(task)
        if self._draining and not self._connections and not self._greeting:
            self._empty.set()

    def _sweep(self) -> None:
        now = self._loop.time()
        for connection in list(self._connections):
            connection.sweep(now)
        self._listen(True)
        self._loop.call_later(SWEEP_SECONDS, self._sweep)

    def drain(self) -> None:
        """Accept no more, and close each connection when its calls are answered. Any thread may call it."""
        self._loop.call_soon_threadsafe(self._drain)

    def _drain(self) -> None:
        self._draining = True
        self._listen(False)
        with contextlib.suppress(OSError):
            self._listening.close()
        for connection in list(self._connections):
            connection.drain()
        if not self._connections and not self._greeting:
            self._empty.set()

    async def wait_drained(self) -> None:
        """Return when the last connection is closed."""
        await self._empty.wait()
