"""Hands gRPC connections their calls. See decision record 0094."""

from __future__ import annotations

import asyncio
import ssl

from modelyard.serving.accepting import Acceptor
from modelyard.serving.grpc.calls import Call, Dispatcher
from modelyard.serving.grpc.connection import Connection
from modelyard.serving.grpc.stream import Stream

__all__ = ["GrpcServer"]


class GrpcServer(Acceptor):
    """Accepts connections and hands their calls to a dispatcher.

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
        super().__init__(lambda: Connection(self, loop), loop, descriptor, tls)
        self._dispatcher = dispatcher
        self.stall_seconds = dispatcher.limits.body_seconds

    def receiver(self, stream: Stream, headers: dict[bytes, bytes], size: int) -> Call:
        """Return who takes a call whose headers came."""
        return self._dispatcher.receiver(stream, headers, size)
