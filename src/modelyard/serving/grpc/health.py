"""The gRPC health checking protocol (https://github.com/grpc/grpc/blob/master/doc/health-checking.md)."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Any

from google.protobuf.message import Message

from modelyard.serving.grpc.calls import Call, Method
from modelyard.serving.grpc.messages import message
from modelyard.serving.problems import HttpProblem
from modelyard.serving.state import Page

__all__ = ["HEALTH", "Health"]

HEALTH = "grpc.health.v1.Health"
WATCHERS = 1024
"""Calls of `Watch` that a worker holds: they last for as long as their clients like, and anybody may make them."""
LOOK_SECONDS = 0.1

_Request, _Response = message("grpc.health.v1.HealthCheckRequest"), message("grpc.health.v1.HealthCheckResponse")


class Health:
    """Says whether every model that should be live is; anybody may ask.

    Args:
        page: Shared with the supervisor.
        services: Names that may be asked for; the empty name is the whole server.
    """

    def __init__(self, page: Page, services: Collection[str]) -> None:
        self._words = page.words
        self._services = frozenset(services) | {""}
        self._watchers: dict[Call, int] = {}
        self._looking = False

    @property
    def methods(self) -> dict[str, Method]:
        """By path."""
        return {
            f"/{HEALTH}/Check": Method(_Request, "public", self.check),
            f"/{HEALTH}/Watch": Method(_Request, "public", self.watch, server_streaming=True),
        }

    async def check(self, _call: Call, request: Any) -> Message:
        """Return SERVING or NOT_SERVING."""
        status = self._status(request.service)
        if status == "SERVICE_UNKNOWN":
            raise HttpProblem(404, "not-found", "There is no such service here.")
        answer: Message = _Response(status=status)
        return answer

    async def watch(self, call: Call, request: Any) -> None:
        """Send the status, and again whenever it is another one, until the client or the service ends the call.

        A client that does not take what was sent is told the latest alone, once it does.
        """
        if len(self._watchers) >= WATCHERS:
            raise HttpProblem(
                429, "busy", f"{WATCHERS} calls watch this worker already.", remedy="Ask by Check.",
                headers=(("retry-after", "60"),),
            )  # fmt: skip
        self._watchers[call] = self._words[Page.READY]
        self._look_soon()
        try:
            said = None
            while True:
                self._watchers[call] = self._words[Page.READY]
                status = self._status(request.service)
                if status == said:
                    await call.woken()
                else:
                    await call.send(_Response(status=status))
                    said = status
        finally:
            del self._watchers[call]

    def _status(self, service: str) -> str:
        if service not in self._services:
            return "SERVICE_UNKNOWN"
        return "SERVING" if self._words[Page.READY] else "NOT_SERVING"

    def _look_soon(self) -> None:
        if self._watchers and not self._looking:
            self._looking = True
            asyncio.get_running_loop().call_later(LOOK_SECONDS, self._look)

    def _look(self) -> None:
        """Look at the shared word, once for all who watch: the supervisor stores it, and wakes nobody."""
        self._looking = False
        ready = self._words[Page.READY]
        for call, seen in self._watchers.items():
            if seen != ready:
                call.wake()
        self._look_soon()
