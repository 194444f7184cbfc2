"""Open Inference Protocol v2 over gRPC (https://github.com/kserve/open-inference-protocol), with Triton's repository.

Tensors come typed or raw, and answers go back as the question came.
"""

from __future__ import annotations

import functools
from typing import Any

from google.protobuf.message import Message

from modelyard import __version__
from modelyard.contracts import Columns
from modelyard.errors import ContractError
from modelyard.packages.codecs.tensor_data import CONTENTS, Tensor, from_raw, from_typed, to_raw, to_typed
from modelyard.packages.codecs.tensors import asked_outputs, columns_of, describe_tensors, tensors_of
from modelyard.serving.grpc.calls import Call, Method
from modelyard.serving.grpc.messages import message
from modelyard.serving.grpc.status import Headers
from modelyard.serving.inference import Inference
from modelyard.serving.loading import Served
from modelyard.serving.problems import HttpProblem, problem_of
from modelyard.serving.slots import Generation, Slot
from modelyard.serving.state import Page
from modelyard.serving.tracing import Trace, Tracer

__all__ = ["SERVICE", "OpenInference", "begin_span"]

SERVICE = "inference.GRPCInferenceService"
EXTENSIONS = ("model_repository", "binary_tensor_data")
RAW_ALONE = "FP16"
"""The one datatype of a contract that has no typed contents."""

_InferResponse = message("inference.ModelInferResponse")


class OpenInference:
    """The methods of `inference.GRPCInferenceService`.

    Args:
        inference: Of this worker.
    """

    def __init__(self, inference: Inference) -> None:
        self._inference = inference
        self._words = inference.words

    @property
    def methods(self) -> dict[str, Method]:
        """By path; a method that is not among them is answered with UNIMPLEMENTED."""
        table = {
            "ServerLive": Method(message("inference.ServerLiveRequest"), "public", self.server_live),
            "ServerReady": Method(message("inference.ServerReadyRequest"), "public", self.server_ready),
            "ServerMetadata": Method(message("inference.ServerMetadataRequest"), "read", self.server_metadata),
            "ModelReady": Method(message("inference.ModelReadyRequest"), "read", self.model_ready, _name),
            "ModelMetadata": Method(message("inference.ModelMetadataRequest"), "read", self.model_metadata, _name),
            "ModelInfer": Method(message("inference.ModelInferRequest"), "infer", self.model_infer, _model_name),
            "ModelStreamInfer": Method(
                message("inference.ModelInferRequest"),
                "infer",
                self.model_stream_infer,
                _model_name,
                client_streaming=True,
            ),
        }
        return {f"/{SERVICE}/{name}": method for name, method in table.items()}

    async def server_live(self, _call: Call, _request: Any) -> Message:
        """Say that a worker answers."""
        return _made("ServerLiveResponse", live=True)

    async def server_ready(self, _call: Call, _request: Any) -> Message:
        """Say whether every model that should be live is."""
        return _made("ServerReadyResponse", ready=bool(self._words[Page.READY]))

    async def server_metadata(self, _call: Call, _request: Any) -> Message:
        """Say who answers, and which extensions there are."""
        return _made("ServerMetadataResponse", name="modelyard", version=__version__, extensions=EXTENSIONS)

    async def model_ready(self, _call: Call, request: Any) -> Message:
        """Say whether a model, or one version of it, would answer."""
        slot = self._inference.slots.get(request.name)
        ready = slot is not None and _generation(slot, request.version) is not None
        return _made("ModelReadyResponse", ready=ready)

    async def model_metadata(self, call: Call, request: Any) -> Message:
        """Describe a model by its contract."""
        slot = self._inference.slots.get(request.name)
        generation = _generation(slot, request.version) if slot is not None else None
        if slot is None or generation is None:
            raise HttpProblem(404, "not-found", "No such model or version is served here.")
        call.named = named(generation)
        numbers = dict.fromkeys(slot.answering())
        held = [slot.generations[number].version for number in numbers if number in slot.generations]
        contract = generation.served.contract
        return _made(
            "ModelMetadataResponse",
            name=request.name,
            versions=list(dict.fromkeys(held)),
            platform="modelyard",
            inputs=describe_tensors(contract.inputs),
            outputs=describe_tensors(contract.outputs),
        )

    async def model_infer(self, call: Call, request: Any) -> Message:
        """Predict."""
        tracer = self._inference.tracer
        if tracer is None:
            return await self._infer(call, request, None)
        with begin_span(tracer, call, "ModelInfer") as trace:
            return await self._infer(call, request, trace)

    async def _infer(self, call: Call, request: Any, trace: Trace | None) -> Message:
        with self._inference.take(
            request.model_name,
            call.request_id,
            key=lambda: _routing_key(call),
            version=request.model_version or None,
            trace=trace,
        ) as taken:
            call.named = named(taken.generation)
            answer: Message = await taken.answer(request, _Codec(request), size=request.ByteSize())
            # The generation before may have answered, within its grace.
            call.named = named(taken.generation)
            return answer

    async def model_stream_infer(self, call: Call, _request: Any) -> None:
        """Answer each request of a stream in its order; one that fails ends itself alone, as in Triton."""
        async for request in call.messages():
            response = message("inference.ModelStreamInferResponse")()
            try:
                response.infer_response.CopyFrom(await self.model_infer(call, request))
            except Exception as error:
                problem = problem_of(error)
                response.error_message = problem.detail + (f" ({problem.where})" if problem.where else "")
                response.infer_response.id = request.id
                self._inference.log.info(
                    "request-refused", request=call.request_id, status=problem.status, code=problem.code
                )
            await call.send(response)


class _Codec:
    """How one request's tensors are read and answered."""

    __slots__ = ("_request",)

    def __init__(self, request: Any) -> None:
        self._request = request

    def decode(self, served: Served, body: Any) -> Columns:
        """Return checked columns."""
        return _decode(served, body)

    def encode(self, generation: Generation, outputs: Columns) -> Message:
        """Return the response, with the outputs that the request asks for."""
        return _encode(self._request, generation, outputs)


def begin_span(tracer: Tracer, call: Call, method: str) -> Trace:
    """Begin the span of a call, in its client's trace."""
    attributes = {
        "rpc.system": "grpc", "rpc.service": SERVICE, "rpc.method": method, "modelyard.request_id": call.request_id
    }  # fmt: skip
    return tracer.begin(f"{SERVICE}/{method}", attributes, call.metadata(b"traceparent"), call.metadata(b"tracestate"))


def named(generation: Generation) -> Headers:
    """Return the headers that name a generation."""
    return _encoded(generation.headers)


@functools.lru_cache(maxsize=64)
def _encoded(headers: tuple[tuple[str, str], ...]) -> Headers:
    return tuple((name.encode(), value.encode()) for name, value in headers)


def _made(name: str, /, **members: Any) -> Message:
    made: Message = message(f"inference.{name}")(**members)
    return made


def _name(request: Any) -> str:
    name: str = request.name
    return name


def _model_name(request: Any) -> str:
    name: str = request.model_name
    return name


def _routing_key(call: Call) -> str | None:
    key = call.metadata(b"x-routing-key")
    if key is None and getattr(call.principal, "known", False):
        name: str = call.principal.name
        return name
    return key


def _generation(slot: Slot, version: str) -> Generation | None:
    """Return what would answer, without taking it."""
    if not version:
        return slot.committed
    generation = slot.take_version(version)
    if generation is not None:
        Slot.release(generation)
    return generation


def _decode(served: Served, request: Any) -> Columns:
    raws = request.raw_input_contents
    if raws and len(raws) != len(request.inputs):
        raise ContractError(
            f"There are {len(request.inputs)} inputs and {len(raws)} raw contents.",
            where="raw_input_contents",
            remedy="Send raw contents for each input, in the same order, or for none.",
        )
    # An output that does not exist is told before anything is predicted.
    asked_outputs(served.contract, _outputs(request), _plain(request.parameters))
    tensors = []
    for index, given in enumerate(request.inputs):
        if "shared_memory_region" in given.parameters:
            raise ContractError(
                "The parameter 'shared_memory_region' is not supported.", where=f"tensor {given.name[:80]!r}"
            )
        tensors.append(_raw(given, raws[index]) if raws else _typed(given))
    return columns_of(served.contract, tensors)


def _raw(given: Any, raw: bytes) -> Tensor:
    if given.HasField("contents"):
        raise ContractError("The tensor has both raw and typed contents.", where=f"tensor {given.name[:80]!r}")
    return from_raw(given.name, given.datatype, given.shape, raw)


def _typed(given: Any) -> Tensor:
    field = CONTENTS.get(given.datatype)
    filled = [descriptor.name for descriptor, _ in given.contents.ListFields()]
    if field is not None and filled not in ([], [field]):
        raise ContractError(
            f"The contents of {given.datatype} stand in {field}.", where=f"tensor {given.name[:80]!r}",
            remedy=f"Fill {field} alone.",
        )  # fmt: skip
    return from_typed(given.name, given.datatype, given.shape, getattr(given.contents, field) if field else ())


def _outputs(request: Any) -> list[tuple[str, dict[str, Any]]] | None:
    return [(out.name, _plain(out.parameters)) for out in request.outputs] or None


def _plain(parameters: Any) -> dict[str, Any]:
    return {name: getattr(value, value.WhichOneof("parameter_choice") or "string_param") for name, value in
            parameters.items()}  # fmt: skip


def _encode(request: Any, generation: Generation, columns: Columns) -> Message:
    contract = generation.served.contract
    asked = asked_outputs(contract, _outputs(request), _plain(request.parameters))
    tensors = tensors_of(contract, columns, asked)
    answer = _InferResponse(model_name=request.model_name, model_version=generation.version, id=request.id)
    answer.parameters["model_generation"].int64_param = generation.number
    answer.parameters["model_version"].string_param = generation.version
    raw = bool(request.raw_input_contents) or any(tensor.datatype == RAW_ALONE for tensor in tensors)
    for tensor in tensors:
        told = answer.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        if raw:
            answer.raw_output_contents.append(to_raw(tensor.data))
        else:
            getattr(told.contents, CONTENTS[tensor.datatype]).extend(to_typed(tensor.data))
    made: Message = answer
    return made
