"""Accepts HTTP connections and hands their requests to an application. See decision records 0100 and 0103."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Sequence
from email.utils import formatdate

from modelyard.serving.accepting import Acceptor
from modelyard.serving.http.connection import Connection
from modelyard.serving.http.exchange import Exchange, Headers
from modelyard.serving.problems import HttpProblem

__all__ = ["Application", "HttpServer", "Refusal"]

Application = Callable[[Sequence[Exchange]], None]
"""Answers the requests that came in one turn of the event loop, whatever happens, or abandons them; now or later."""

Refusal = Callable[[HttpProblem], tuple[Headers, bytes]]
"""Says how a request is answered that could not be read."""


class HttpServer(Acceptor):
    """Accepts connections and hands their requests to an application.

    Args:
        application: Answers requests.
        refusal: Says how those are answered that could not be read.
        loop: The event loop.
        descriptor: Of the listening socket, shared with other processes.
        stall_seconds: How long a client may leave an answer unread.
        tls: How connections are encrypted, or None.
    """

    def __init__(
        self,
        application: Application,
        refusal: Refusal,
        loop: asyncio.AbstractEventLoop,
        descriptor: int,
        stall_seconds: float,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        super().__init__(lambda: Connection(self, loop), loop, descriptor, tls)
        self._application = application
        self._turn: list[Exchange] = []
        self.refusal = refusal
        self.stall_seconds = stall_seconds
        self.date = b""
        self._tell_time()

    def begin(self, exchange: Exchange) -> None:
        """Have a request answered, with all others that are read from their sockets in this turn of the event loop."""
        if not self._turn:
            self._loop.call_soon(self._answer)
        self._turn.append(exchange)

    def _answer(self) -> None:
        turn, self._turn = self._turn, []
        self._application(turn)

    def _tell_time(self) -> None:
        """Say the time once a second; RFC 9110 wants it on every answer (section 6.6.1)."""
        self.date = b"date: %b\r\n" % formatdate(usegmt=True).encode()

    def _sweep(self) -> None:
        self._tell_time()
        super()._sweep()
