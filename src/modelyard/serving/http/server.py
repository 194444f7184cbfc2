"""Accepts HTTP connections and hands their requests to an application. See decision record 0100."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Coroutine
from email.utils import formatdate

from modelyard.serving.accepting import Acceptor
from modelyard.serving.batching import Arrivals
from modelyard.serving.http.connection import Connection
from modelyard.serving.http.exchange import Exchange, Headers
from modelyard.serving.problems import HttpProblem

__all__ = ["Application", "HttpServer", "Refusal"]

Application = Callable[[Exchange], Coroutine[None, None, None]]
"""Answers a request, whatever happens, or abandons it."""

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
        arrivals: Counts requests until the application looks at them, which takes down that it did.
    """

    def __init__(
        self,
        application: Application,
        refusal: Refusal,
        loop: asyncio.AbstractEventLoop,
        descriptor: int,
        stall_seconds: float,
        tls: ssl.SSLContext | None = None,
        arrivals: Arrivals | None = None,
    ) -> None:
        super().__init__(lambda: Connection(self, loop), loop, descriptor, tls)
        self.application = application
        self.arrivals = arrivals or Arrivals()
        self.refusal = refusal
        self.stall_seconds = stall_seconds
        self.date = b""
        self._tell_time()

    def _tell_time(self) -> None:
        """Say the time once a second; RFC 9110 wants it on every answer (section 6.6.1)."""
        self.date = b"date: %b\r\n" % formatdate(usegmt=True).encode()

    def _sweep(self) -> None:
        self._tell_time()
        super()._sweep()
