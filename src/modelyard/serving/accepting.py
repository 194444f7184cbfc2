"""Accepts connections from a socket that all workers share, and ends them without failing what they asked."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
import ssl
from collections.abc import Callable
from typing import Protocol

import uvloop

__all__ = ["Acceptor", "Client", "new_event_loop", "raise_descriptors"]

CONNECTIONS = 4096
"""The most that a worker takes on one port, where it may have descriptors for two ports of them."""
FEWEST_CONNECTIONS = 16
RESERVED_DESCRIPTORS = 256
"""Those that connections leave to what the worker loads, receives and asks."""
SWEEP_SECONDS = 1.0
HANDSHAKE_SECONDS = 10.0
PAUSE_SECONDS = 0.1


class Client(Protocol):
    """A client's connection."""

    def sweep(self, now: float) -> None:
        """End it where the client kept us waiting for too long; `now` is the event loop's time."""

    def drain(self) -> None:
        """End it when what it asked is answered."""


def new_event_loop() -> asyncio.AbstractEventLoop:
    """Return a uvloop event loop, set as this thread's."""
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    asyncio.set_event_loop(loop)
    return loop


def raise_descriptors() -> None:
    """Let this process have as many descriptors as full ports need, as far as its hard limit goes.

    The soft limit is 1,024 in most places, for programs that use `select`; none of a worker's do.
    """
    wanted = 2 * CONNECTIONS + RESERVED_DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        wanted = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _most_connections() -> int:
    """Return how many connections one of two ports may have with the descriptors that there are."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return CONNECTIONS
    return max(FEWEST_CONNECTIONS, min(CONNECTIONS, (soft - RESERVED_DESCRIPTORS) // 2))


class Acceptor:
    """Accepts connections, all in one event loop.

    Each worker takes one connection at a time from the one queue, so whoever has less to do takes more; and a worker
    that dies takes none with it that it had not accepted. See decision record 0100.

    Args:
        connection: Makes what speaks the protocol; it calls `opened` and `closed`.
        loop: The event loop.
        descriptor: Of the listening socket, shared with other processes.
        tls: How connections are encrypted, or None.
    """

    def __init__(
        self,
        connection: Callable[[], asyncio.Protocol],
        loop: asyncio.AbstractEventLoop,
        descriptor: int,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._connection = connection
        self._loop = loop
        self._listening = socket.socket(fileno=descriptor)
        self._listening.setblocking(False)
        self._tls = tls
        self._most = _most_connections()
        self.clients: set[Client] = set()
        """Whose connections are open."""
        self._greeting: set[asyncio.Task[None]] = set()
        self._listens = self._draining = False
        self._empty = asyncio.Event()

    @property
    def crowded(self) -> bool:
        """Whether no more connections are taken until some end."""
        return len(self.clients) + len(self._greeting) >= self._most

    # What connections call

    def opened(self, client: Client) -> None:
        """Take down that a connection is there."""
        self.clients.add(client)
        if self._draining:
            client.drain()

    def closed(self, client: Client) -> None:
        """Take down that it is gone."""
        self.clients.discard(client)
        self._look_whether_empty()

    # What the worker calls

    def start(self) -> None:
        """Begin to accept. Call it in the event loop's thread."""
        self._listen(True)
        self._loop.call_later(SWEEP_SECONDS, self._sweep)

    def drain(self) -> None:
        """Accept no more, and close each connection when what it asked is answered. Any thread may call it."""
        self._loop.call_soon_threadsafe(self._drain)

    async def wait_drained(self) -> None:
        """Return when the last connection is closed."""
        await self._empty.wait()

    def _listen(self, wanted: bool) -> None:
        if wanted and not self._listens and not self._draining:
            self._loop.add_reader(self._listening.fileno(), self._accept)
        elif not wanted and self._listens:
            self._loop.remove_reader(self._listening.fileno())
        self._listens = wanted and not self._draining

    def _accept(self) -> None:
        if self.crowded:
            self._listen(False)
            return
        try:
            self._take()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            # Another worker was faster, or the client is gone.
            return
        except OSError:
            # No descriptor to be had: the queue keeps the client until there is one.
            self._listen(False)
            self._loop.call_later(PAUSE_SECONDS, self._listen, True)

    def _take(self) -> None:
        accepted, _ = self._listening.accept()
        accepted.setblocking(False)
        accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        task = self._loop.create_task(self._greet(accepted))
        self._greeting.add(task)
        task.add_done_callback(self._greeted)

    async def _greet(self, accepted: socket.socket) -> None:
        timeout = HANDSHAKE_SECONDS if self._tls is not None else None
        try:
            await self._loop.connect_accepted_socket(
                self._connection, accepted, ssl=self._tls, ssl_handshake_timeout=timeout
            )
        except (OSError, asyncio.CancelledError):
            # No TLS, or the wrong one (an SSLError is an OSError): nothing to tell anybody.
            accepted.close()

    def _greeted(self, task: asyncio.Task[None]) -> None:
        self._greeting.discard(task)
        self._look_whether_empty()

    def _look_whether_empty(self) -> None:
        if self._draining and not self.clients and not self._greeting:
            self._empty.set()

    def _sweep(self) -> None:
        now = self._loop.time()
        for client in list(self.clients):
            client.sweep(now)
        self._listen(True)
        self._loop.call_later(SWEEP_SECONDS, self._sweep)

    def _drain(self) -> None:
        self._draining = True
        self._listen(False)
        with contextlib.suppress(OSError):
            # Who waits in the queue was let in: nobody else may be left to answer, and the kernel would reset them.
            while not self.crowded:
                self._take()
        with contextlib.suppress(OSError):
            self._listening.close()
        for client in list(self.clients):
            client.drain()
        self._look_whether_empty()
