"""The Open Inference Protocol v2 over REST (https://github.com/kserve/open-inference-protocol).

With the extensions for binary tensors and for the model repository
(https://github.com/triton-inference-server/server/tree/main/docs/protocol): what is loaded comes from the store, by
name and version, never from a URL or a path.
"""

from __future__ import annotations

from importlib.metadata import version as version_of
from typing import Any

import msgspec

from modelyard.contracts import Columns
from modelyard.packages.codecs import tensors
from modelyard.serving.asking import LoadRequest, RepositoryIndex, RepositoryIndexRequest, UnloadRequest
from modelyard.serving.http.origin import http_origin
from modelyard.serving.http.routing import Endpoint, Prediction, Request, Response, Route
from modelyard.serving.inference import Inference, model_missing
from modelyard.serving.liaison import Liaison
from modelyard.serving.loading import JSON, Served
from modelyard.serving.problems import HttpProblem
from modelyard.serving.slots import Generation, Slot
from modelyard.serving.state import Page

__all__ = ["EXTENSIONS", "PLATFORM", "OpenInference", "server_metadata"]

EXTENSIONS = ("binary_tensor_data", "model_repository")
PLATFORM = "onnx_onnxv1"
OCTETS = "application/octet-stream"
HEADER_LENGTH = "inference-header-content-length"


class _Index(msgspec.Struct):
    ready: bool = False


class _Load(msgspec.Struct):
    parameters: dict[str, Any] = {}


def server_metadata() -> dict[str, Any]:
    """Return what the server says of itself."""
    return {"name": "modelyard", "version": version_of("modelyard"), "extensions": list(EXTENSIONS)}


class _Tensors:
    """How one request's tensors are read and answered.

    Args:
        model: That the path names.
        length: Bytes of the JSON before binary tensors, or None.
        rows: The most that there may be.
    """

    __slots__ = ("_asked", "_length", "_model", "_rows")

    _asked: tensors.Request

    def __init__(self, model: str, length: int | None, rows: int) -> None:
        self._model = model
        self._length = length
        self._rows = rows

    def decode(self, served: Served, body: bytes) -> Columns:
        """Return checked columns."""
        self._asked = tensors.decode(served.contract, body, self._length, self._rows)
        return self._asked.columns

    def encode(self, generation: Generation, outputs: Columns) -> Response:
        """Return the response, with the outputs that the request asks for."""
        answer, head = tensors.encode(
            generation.served.contract,
            outputs,
            self._asked,
            model_name=self._model,
            model_version=generation.version,
            parameters={"generation": generation.number},
        )
        if head is None:
            return Response(200, (("content-type", JSON), *generation.headers), answer)
        return Response(200, [("content-type", OCTETS), *generation.headers, (HEADER_LENGTH, str(head))], answer)


class OpenInference:
    """The surface at `/v2`.

    Args:
        inference: Of this worker.
        liaison: Asks the supervisor.
    """

    def __init__(self, inference: Inference, liaison: Liaison) -> None:
        self._inference = inference
        self._slots = inference.slots
        self._liaison = liaison

    @property
    def routes(self) -> tuple[Route, ...]:
        """What lies under `/v2`."""
        model, pinned = "/v2/models/{name}", "/v2/models/{name}/versions/{version}"
        return (
            *(Route(f"{path}/infer", {"POST": Endpoint(self.infer, "infer")}) for path in (model, pinned)),
            *(Route(f"{path}/ready", {"GET": Endpoint(self.model_ready, "read")}) for path in (model, pinned)),
            *(Route(path, {"GET": Endpoint(self.model, "read")}) for path in (model, pinned)),
            Route("/v2/health/live", {"GET": Endpoint(self.live, "public")}),
            Route("/v2/health/ready", {"GET": Endpoint(self.ready, "public")}),
            Route("/v2", {"GET": Endpoint(self.server, "read")}),
            Route("/v2/repository/index", {"POST": Endpoint(self.index, "read")}),
            Route("/v2/repository/models/{name}/load", {"POST": Endpoint(self.load, "load")}),
            Route("/v2/repository/models/{name}/unload", {"POST": Endpoint(self.unload, "load")}),
        )

    def infer(self, request: Request) -> Prediction:
        """Predict from tensors."""
        name, *version = request.parameters
        length = _header_length(request.header(HEADER_LENGTH))
        return Prediction(name, _Tensors(name, length, self._inference.limits.rows), version[0] if version else None)

    async def model(self, request: Request) -> Response:
        """Describe a model's tensors."""
        name, *version = request.parameters
        slot = self._slot(name)
        generation = slot.held(version[0]) if version else slot.committed
        if generation is None:
            raise model_missing(slot, version[0] if version else None)
        contract = generation.served.contract
        return _json(
            {
                "name": name,
                "versions": slot.versions(),
                "platform": PLATFORM,
                "inputs": tensors.describe_tensors(contract.inputs),
                "outputs": tensors.describe_tensors(contract.outputs),
                "parameters": {"version": generation.version, "generation": generation.number},
            }
        )

    async def model_ready(self, request: Request) -> Response:
        """Say whether a model, or one version of it, answers."""
        name, *version = request.parameters
        slot = self._slots.get(name)
        ready = slot is not None and (slot.held(version[0]) if version else slot.committed) is not None
        return _json({"name": name, "ready": ready}, 200 if ready else 404)

    async def server(self, _request: Request) -> Response:
        """Describe the server."""
        return _json(server_metadata())

    async def live(self, _request: Request) -> Response:
        """Say that a worker answers."""
        return _json({"live": True})

    async def ready(self, _request: Request) -> Response:
        """Say whether every model that should be live is."""
        ready = bool(self._inference.words[Page.READY])
        return _json({"ready": ready}, 200 if ready else 503)

    async def index(self, request: Request) -> Response:
        """List the versions that may be loaded, and those that are served."""
        asked = _given(await request.body(), _Index)
        found = await self._liaison.ask(RepositoryIndexRequest())
        entries = found.entries if isinstance(found, RepositoryIndex) else ()
        return _json([entry for entry in entries if entry.state == "READY" or not asked.ready])

    async def load(self, request: Request) -> Response:
        """Serve a version that the repository knows: the parameter `version`, or the one it names itself."""
        parameters = _given(await request.body(), _Load).parameters
        version = parameters.pop("version", None)
        if parameters or not isinstance(version, str | None):
            raise HttpProblem(
                400, "malformed", f"The parameter {next(iter(parameters), 'version')!r} can't be followed.",
                remedy='Send {"parameters": {"version": "v1.2.0"}}, or nothing; models come from the store alone.',
            )  # fmt: skip
        await self._liaison.ask(LoadRequest(request.parameters[0], version), http_origin(request))
        return _json({})

    async def unload(self, request: Request) -> Response:
        """Serve a model no more."""
        # Whether dependent models go too, as a parameter may ask, makes no difference: there are none.
        _given(await request.body(), _Load)
        await self._liaison.ask(UnloadRequest(request.parameters[0]), http_origin(request))
        return _json({})

    def _slot(self, name: str) -> Slot:
        return self._inference.slot(name)


def _given(body: bytes, kind: type[Any]) -> Any:
    if not body:
        return kind()
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise HttpProblem(400, "malformed", f"The body is not what this path takes: {error}.") from None


def _header_length(given: str | None) -> int | None:
    if given is None:
        return None
    if not (given.isascii() and given.isdigit() and len(given) < 20):
        raise HttpProblem(400, "malformed", "The header Inference-Header-Content-Length is no count of bytes.")
    return int(given)


def _json(content: Any, status: int = 200) -> Response:
    return Response(status, [("content-type", JSON)], msgspec.json.encode(content))
