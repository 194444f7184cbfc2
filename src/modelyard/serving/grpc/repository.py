"""The model repository of the Open Inference Protocol over gRPC: index, load and unload, as Triton numbers them.

What is loaded comes from the store, by name and version; never from a path, a URL or bytes in the request.
"""

from __future__ import annotations

from typing import Any

from google.protobuf.message import Message

from modelyard.errors import BusyError, ModelyardError, NotFoundError, RefusedError
from modelyard.serving.asking import (
    ControlReply,
    ControlRequest,
    LoadRequest,
    RepositoryIndex,
    RepositoryIndexRequest,
    UnloadRequest,
)
from modelyard.serving.grpc.calls import Call, Method
from modelyard.serving.grpc.messages import message
from modelyard.serving.grpc.open_inference import SERVICE, begin_span
from modelyard.serving.liaison import Liaison
from modelyard.serving.problems import HttpProblem
from modelyard.serving.tracing import Trace, Tracer, origin_of

__all__ = ["Repository"]

VERSION = "version"
"""The parameter of a load that names a version; without it the repository chooses."""
IGNORED = frozenset({"unload_dependents"})
"""Parameters that ask for nothing here: no model depends on another."""

_Index = message("inference.RepositoryIndexResponse")
_Loaded = message("inference.RepositoryModelLoadResponse")
_Unloaded = message("inference.RepositoryModelUnloadResponse")


class Repository:
    """Asks the supervisor for what a worker can't do.

    Args:
        liaison: To the supervisor.
        tracer: Begins traces; None where nobody wants any.
    """

    def __init__(self, liaison: Liaison, tracer: Tracer | None = None) -> None:
        self._liaison = liaison
        self._tracer = tracer

    @property
    def methods(self) -> dict[str, Method]:
        """By path."""
        table = {
            "RepositoryIndex": Method(message("inference.RepositoryIndexRequest"), "read", self.index),
            "RepositoryModelLoad": Method(message("inference.RepositoryModelLoadRequest"), "load", self.load, _name),
            "RepositoryModelUnload": Method(
                message("inference.RepositoryModelUnloadRequest"), "load", self.unload, _name
            ),
        }
        return {f"/{SERVICE}/{name}": method for name, method in table.items()}

    async def index(self, call: Call, request: Any) -> Message:
        """List the versions that the repository knows, and which are served."""
        _check_repository(request.repository_name)
        reply = await self._ask(call, RepositoryIndexRequest())
        answer = _Index()
        for entry in reply.entries if isinstance(reply, RepositoryIndex) else ():
            if entry.state == "READY" or not request.ready:
                answer.models.add(name=entry.name, version=entry.version, state=entry.state, reason=entry.reason)
        made: Message = answer
        return made

    async def load(self, call: Call, request: Any) -> Message:
        """Serve a version of a model; the answer comes when every new request is answered by it."""
        _check_repository(request.repository_name)
        version = None
        for name, value in request.parameters.items():
            if name != VERSION or value.WhichOneof("parameter_choice") != "string_param":
                raise HttpProblem(
                    400, "parameter", f"The parameter {name[:80]!r} is not supported.",
                    remedy="Name a version of the store by the string parameter 'version', or none.",
                )  # fmt: skip
            version = value.string_param
        await self._change(call, "RepositoryModelLoad", LoadRequest(request.model_name, version))
        made: Message = _Loaded()
        return made

    async def unload(self, call: Call, request: Any) -> Message:
        """Serve a model no more."""
        _check_repository(request.repository_name)
        for name in request.parameters:
            if name not in IGNORED:
                raise HttpProblem(400, "parameter", f"The parameter {name[:80]!r} is not supported.")
        await self._change(call, "RepositoryModelUnload", UnloadRequest(request.model_name))
        made: Message = _Unloaded()
        return made

    async def _change(self, call: Call, method: str, request: ControlRequest) -> ControlReply:
        if self._tracer is None:
            return await self._ask(call, request)
        with begin_span(self._tracer, call, method) as trace:
            return await self._ask(call, request, trace)

    async def _ask(self, call: Call, request: ControlRequest, trace: Trace | None = None) -> ControlReply:
        parent, state = call.metadata(b"traceparent"), call.metadata(b"tracestate")
        try:
            return await self._liaison.ask(request, origin_of(call.request_id, trace, parent, state))
        except (NotFoundError, BusyError, RefusedError):
            raise
        except ModelyardError as error:
            # What is wrong with a package may name its files; the service's log has it.
            raise HttpProblem(409, error.code, "The model can't be served.", remedy="See the service's log.") from error


def _name(request: Any) -> str:
    name: str = request.model_name
    return name


def _check_repository(name: str) -> None:
    if name:
        raise HttpProblem(404, "not-found", "There is one repository here, and it has no name.")
