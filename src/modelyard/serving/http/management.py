"""What is done to the models of a service over HTTP: roll back, canary, shadow, labels."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from modelyard.serving.asking import (
    CanaryRequest,
    ControlRequest,
    EndCanaryRequest,
    EndShadowRequest,
    LabelRequest,
    PromoteRequest,
    RollbackRequest,
    ServiceStatus,
    ShadowRequest,
    ShareRequest,
    StatusRequest,
)
from modelyard.serving.http.origin import http_origin
from modelyard.serving.http.routing import Endpoint, Request, Response, Route
from modelyard.serving.liaison import Liaison
from modelyard.serving.loading import JSON
from modelyard.serving.problems import HttpProblem
from modelyard.serving.route import MILLION

__all__ = ["Beside", "Labelled", "Management"]

Share = Annotated[int, msgspec.Meta(ge=0, le=MILLION)]


class Beside(msgspec.Struct, forbid_unknown_fields=True):
    """A version beside the stable one: its share in parts per million, and which, where it is not there yet."""

    share_ppm: Share
    version: str | None = None


class Labelled(msgspec.Struct, forbid_unknown_fields=True):
    """What a label shall name."""

    version: str


class Management:
    """Handlers that ask the supervisor, and answer with how the model's slot stands then.

    Args:
        liaison: Asks it.
    """

    def __init__(self, liaison: Liaison) -> None:
        self._liaison = liaison

    @property
    def routes(self) -> tuple[Route, ...]:
        """What lies under `/v1/models/{name}` and changes it, and how it stands."""
        model = "/v1/models/{name}"
        return (
            Route(f"{model}/status", {"GET": Endpoint(self.status, "read")}),
            Route(f"{model}/rollback", {"POST": Endpoint(self.rollback, "promote")}),
            Route(
                f"{model}/canary",
                {"PUT": Endpoint(self.canary, "promote"), "DELETE": Endpoint(self.end_canary, "promote")},
            ),
            Route(f"{model}/canary/promote", {"POST": Endpoint(self.promote, "promote")}),
            Route(
                f"{model}/shadow",
                {"PUT": Endpoint(self.shadow, "promote"), "DELETE": Endpoint(self.end_shadow, "promote")},
            ),
            Route(
                f"{model}/labels/{{label}}",
                {"PUT": Endpoint(self.label, "promote"), "DELETE": Endpoint(self.remove_label, "promote")},
            ),
        )

    async def status(self, request: Request) -> Response:
        """Tell how the slot stands: what is committed, its canary and shadow, its labels."""
        return await self._standing(request.parameters[0])

    async def rollback(self, request: Request) -> Response:
        """Serve the previous generation again."""
        return await self._do(request, RollbackRequest(request.parameters[0]))

    async def canary(self, request: Request) -> Response:
        """Let a version answer a share of the requests, or change the share of the one that does."""
        asked: Beside = await _body(request, Beside)
        name = request.parameters[0]
        if asked.version is None:
            return await self._do(request, ShareRequest(name, asked.share_ppm))
        return await self._do(request, CanaryRequest(name, asked.version, "", asked.share_ppm))

    async def end_canary(self, request: Request) -> Response:
        """Let the stable generation answer all requests again."""
        return await self._do(request, EndCanaryRequest(request.parameters[0]))

    async def promote(self, request: Request) -> Response:
        """Make the canary the stable generation."""
        return await self._do(request, PromoteRequest(request.parameters[0]))

    async def shadow(self, request: Request) -> Response:
        """Show a version a share of the requests, and compare its answers."""
        asked: Beside = await _body(request, Beside)
        if asked.version is None:
            raise HttpProblem(400, "malformed", "The body names no version.", remedy='Send {"version", "share_ppm"}.')
        return await self._do(request, ShadowRequest(request.parameters[0], asked.version, "", asked.share_ppm))

    async def end_shadow(self, request: Request) -> Response:
        """Show the shadow nothing more."""
        return await self._do(request, EndShadowRequest(request.parameters[0]))

    async def label(self, request: Request) -> Response:
        """Give a label to a version that is held."""
        asked: Labelled = await _body(request, Labelled)
        name, label = request.parameters
        return await self._do(request, LabelRequest(name, label, asked.version))

    async def remove_label(self, request: Request) -> Response:
        """Take a label away."""
        name, label = request.parameters
        return await self._do(request, LabelRequest(name, label, None))

    async def _do(self, request: Request, asked: ControlRequest) -> Response:
        await self._liaison.ask(asked, http_origin(request))
        return await self._standing(request.parameters[0])

    async def _standing(self, name: str) -> Response:
        status = await self._liaison.ask(StatusRequest())
        slot = status.slots.get(name) if isinstance(status, ServiceStatus) else None
        if slot is None:
            raise HttpProblem(
                404, "not-found", "No model of that name is served here.", remedy="GET /v1/models lists them."
            )
        told = msgspec.to_builtins(slot)
        for failure in (told["failure"], told["following"]):
            if failure:
                # A folder of this machine, perhaps.
                failure["where"] = ""
        return Response(200, [("content-type", JSON)], msgspec.json.encode(told))


async def _body(request: Request, kind: type[Any]) -> Any:
    try:
        return msgspec.json.decode(await request.body(), type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise HttpProblem(400, "malformed", f"The body is not what this path takes: {error}.") from None
