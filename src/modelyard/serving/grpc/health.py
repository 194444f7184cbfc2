"""The gRPC health checking protocol (https://github.com/grpc/grpc/blob/master/doc/health-checking.md)."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from google.protobuf.message import Message

from modelyard.serving.grpc.calls import Call, Method
from modelyard.serving.grpc.messages import message
from modelyard.serving.problems import HttpProblem
from modelyard.serving.state import Page

__all__ = ["Health"]

_Request, _Response = message("grpc.health.v1.HealthCheckRequest"), message("grpc.health.v1.HealthCheckResponse")


class Health:
    """Says whether every model that should be live is; anybody may ask.

    `Watch` is left out: its callers ask again by themselves where it is missing, as the protocol says.

    Args:
        page: Shared with the supervisor.
        services: Names that may be asked for; the empty name is the whole server.
    """

    def __init__(self, page: Page, services: Collection[str]) -> None:
        self._words = page.words
        self._services = frozenset(services) | {""}

    @property
    def methods(self) -> dict[str, Method]:
        """By path."""
        return {"/grpc.health.v1.Health/Check": Method(_Request, "public", self.check)}

    async def check(self, _call: Call, request: Any) -> Message:
        """Return SERVING or NOT_SERVING."""
        if request.service not in self._services:
            raise HttpProblem(404, "not-found", "There is no such service here.")
        answer: Message = _Response(status="SERVING" if self._words[Page.READY] else "NOT_SERVING")
        return answer
