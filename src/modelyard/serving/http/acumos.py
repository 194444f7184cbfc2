"""The surface of the Acumos model runner: what its clients send, answered by the model that is served.

What the original answers with 200 and an empty body is a problem document here. Uploads are in `acumos_uploads`.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import parse_qs

from modelyard.errors import ContractError
from modelyard.serving.http.forms import Form, open_form
from modelyard.serving.http.negotiation import acceptable, media_type
from modelyard.serving.http.routing import Answering, Endpoint, Request, Response, Route
from modelyard.serving.inference import Inference, Taken
from modelyard.serving.loading import JSON
from modelyard.serving.logs import Log
from modelyard.serving.problems import HttpProblem
from modelyard.serving.slots import Generation
from modelyard.serving.state import Page

if TYPE_CHECKING:
    from modelyard.packages.codecs.proto_schema import Schema
    from modelyard.serving.http.acumos_calls import Call, Kind

__all__ = ["OCTETS", "PREFIXES", "PROTOBUF", "Acumos", "parsed", "query_of"]

PREFIXES = ("", "/modelrunner")
"""The original has the second one as its context path."""

OCTETS = "application/octet-stream"
PROTOBUF = ("application/x-protobuf", "application/vnd.google.protobuf", OCTETS)
ANSWERS = (OCTETS, *PROTOBUF[:2], JSON)
METHOD_KINDS = (*PROTOBUF, JSON)
TEXT = "text/plain; charset=utf-8"
PROTO_BYTES = 256 * 1024
SMALL_BODY = 16 * 1024
"""Reading a larger CSV or JSON file into messages would hold up the event loop for over a millisecond."""

Result = TypeVar("Result")


class Acumos:
    """Predictions and documents, as clients of Acumos ask for them.

    Args:
        inference: Of this worker.
    """

    def __init__(self, inference: Inference) -> None:
        self._inference = inference

    @property
    def routes(self) -> tuple[Route, ...]:
        """At the root and under `/modelrunner`, with the older names."""
        posts: dict[str, Callable[[Request], Answering]] = {
            "/getBinaryDefault": partial(self.get_binary, kind="csv"),
            "/getBinary": partial(self.get_binary_by_own, kind="csv"),
            "/getBinaryJSONDefault": partial(self.get_binary, kind="json"),
            "/getBinaryJSON": partial(self.get_binary_by_own, kind="json"),
            "/transformCSVDefault": partial(self.transform, kind="csv"),
            "/transformDefault": partial(self.transform, kind="csv"),
            "/transformJSONDefault": partial(self.transform, kind="json"),
            "/model/methods/{operation}": self.method,
            "/operation/{operation}": self.method,
            "/v1/models/{name}/methods/{operation}": self.named_method,
        }
        gets: dict[str, Callable[[Request], Answering]] = {
            "/model/artifacts/metadata": self.metadata,
            "/model/artifacts/protobuf": self.protobuf,
        }
        return (
            *(
                Route(prefix + path, {"POST": Endpoint(do, "infer")}, self.meant)
                for prefix in PREFIXES
                for path, do in posts.items()
            ),
            *(
                Route(prefix + path, {"GET": Endpoint(do, "read")}, self.meant)
                for prefix in PREFIXES
                for path, do in gets.items()
            ),
        )

    async def get_binary(self, request: Request, *, kind: Kind) -> Response:
        """Return the serialized input message that a file stands for."""
        wanted = acceptable(request.header("accept"), ANSWERS, OCTETS)
        with self._inference.take(
            self._model(request), request.id, key=request.routing_key, trace=request.trace
        ) as taken:
            request.named = taken.generation.headers
            async with self._form(request, kind) as form:
                await self._prepare(taken.generation)
                call = self._call(request, form, kind, wanted)
                answer = await self._beside(partial(call.carry, taken.generation.served, form.part(_file(kind))))
            return Response(200, [("content-type", wanted), *taken.generation.headers, *call.headers()], answer)

    async def get_binary_by_own(self, request: Request, *, kind: Kind) -> Response:
        """Return the serialized input message that a file stands for, by the proto file that came with it."""
        wanted = acceptable(request.header("accept"), ANSWERS, OCTETS)
        with self._inference.admitted():
            async with self._form(request, kind, PROTO_BYTES) as form:
                schema = await parsed(form.part("proto"), self._inference.log, request)
                call = self._call(request, form, kind, wanted, schema)
                answer = await self._beside(partial(call.carry, None, form.part(_file(kind))))
        return Response(200, [("content-type", wanted), *call.headers()], answer)

    async def transform(self, request: Request, *, kind: Kind) -> Response:
        """Return the serialized output message for a file."""
        wanted = acceptable(request.header("accept"), ANSWERS, OCTETS)
        with self._inference.take(
            self._model(request), request.id, key=request.routing_key, trace=request.trace
        ) as taken:
            request.named = taken.generation.headers
            async with self._form(request, kind) as form:
                await self._prepare(taken.generation)
                call, body = self._call(request, form, kind, wanted), form.part(_file(kind))
            answer = await _answered(taken, body, call, beside=len(body) > SMALL_BODY)
            return Response(200, [("content-type", wanted), *taken.generation.headers, *call.headers()], answer)

    def method(self, request: Request) -> Answering:
        """Call an operation with a message."""
        return self._method(request, self._model(request), request.parameters[0])

    def named_method(self, request: Request) -> Answering:
        """Call an operation of a model that the path names."""
        return self._method(request, *request.parameters)

    async def _method(self, request: Request, name: str, operation: str) -> Response:
        kind = media_type(request.header("content-type"), METHOD_KINDS)
        wanted = acceptable(request.header("accept"), METHOD_KINDS, kind)
        with self._inference.take(name, request.id, key=request.routing_key, trace=request.trace) as taken:
            request.named = taken.generation.headers
            body = await request.body()
            await self._prepare(taken.generation)
            call: Call = _calls().Call(
                "json" if kind == JSON else "binary", operation, wanted, max_rows=self._inference.limits.rows
            )
            beside = kind == JSON and len(body) > SMALL_BODY
            answer = await _answered(taken, body, call, beside=beside)
            return Response(200, [("content-type", wanted), *taken.generation.headers], answer)

    async def metadata(self, request: Request) -> Response:
        """Return `metadata.json` of the model that is served."""
        with self._inference.take(self._model(request), request.id) as taken:
            request.named = taken.generation.headers
            document = taken.generation.served.documents.get("metadata.json")
            if document is None:
                raise HttpProblem(404, "not-found", "The package has no metadata.json.")
            return Response(200, [("content-type", JSON), *taken.generation.headers], document)

    async def protobuf(self, request: Request) -> Response:
        """Return the text of `model.proto` of the model that is served."""
        with self._inference.take(self._model(request), request.id) as taken:
            request.named = taken.generation.headers
            served = taken.generation.served
            text: bytes = _calls().proto_of(served.documents, served.contract)
            return Response(200, [("content-type", TEXT), *taken.generation.headers], text)

    def meant(self, request: Request) -> str | None:
        """Return the model that the query names, or the only one there is; None where it can't be told."""
        try:
            name = query_of(request, "model")
        except HttpProblem:
            # Told to who may ask at all: the handler reads the query, too.
            return None
        only = [*self._inference.slots][:2]
        return name or (only[0] if len(only) == 1 else None)

    def _model(self, request: Request) -> str:
        """Return the name of the model that is meant: the one that credentials were checked for."""
        slots = self._inference.slots
        name = query_of(request, "model") or request.model
        if name is not None:
            return name
        if not self._inference.words[Page.READY]:
            raise HttpProblem(
                503, "not-ready", "The service has not learned yet what is live.", headers=(("retry-after", "1"),)
            )
        if not slots:
            raise HttpProblem(404, "not-found", "No model is served here.", remedy="PUT one to /model, with its proto.")
        raise HttpProblem(
            400, "malformed", "The service has several models, and the request names none.",
            remedy=f"Send the query parameter model, with one of {', '.join(sorted(slots)[:20])}.",
        )  # fmt: skip

    def _form(self, request: Request, kind: Kind, proto: int = 0) -> Any:
        parts = {_file(kind): self._inference.limits.body_bytes, "operation": 1024}
        limits = self._inference.limits
        return open_form(request, parts | ({"proto": proto} if proto else {}), patience=limits.body_seconds)

    def _call(self, request: Request, form: Form, kind: Kind, wanted: str, schema: Schema | None = None) -> Call:
        call: Call = _calls().Call(
            kind, query_of(request, "operation") or form.text("operation") or None, wanted,
            by_rows=by_rows(request, kind), max_rows=self._inference.limits.rows, schema=schema,
        )  # fmt: skip
        return call

    async def _prepare(self, generation: Generation) -> None:
        """Read the model's own proto file in a thread, once for each generation."""
        if "acumos-schema" in generation.served.kept:
            return
        schema: Schema = await asyncio.to_thread(lambda: _calls().schema_of(generation.served))
        if schema.warnings:
            self._inference.log.warning(
                "proto-warnings", model=generation.record.model, generation=generation.number, warnings=schema.warnings
            )

    async def _beside(self, work: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._inference.computing, work)


async def parsed(text: bytes, log: Log, request: Request) -> Schema:
    """Return what a proto file says, read in a thread; raises InputError with line and column.

    Args:
        text: Of a client.
        log: Takes the compiler's warnings.
        request: That brought the text.
    """
    schema: Schema = await asyncio.to_thread(lambda: _calls().parse(text))
    if schema.warnings:
        log.info("proto-warnings", request=request.id, warnings=schema.warnings)
    return schema


async def _answered(taken: Taken, body: bytes, call: Call, *, beside: bool) -> bytes:
    try:
        answer: bytes = await taken.answer(body, call, beside=beside)
        return answer
    except ContractError as error:
        # That there is no such operation was told as a misfit, so that a generation in grace could have it.
        missing = call.missing
        if missing is None:
            raise
        raise HttpProblem(404, missing.code, missing.what, remedy=missing.remedy) from error


def query_of(request: Request, name: str) -> str | None:
    """Return a query parameter, or None; raises HttpProblem 400 where it stands there twice."""
    query = request.exchange.query
    if not query or name not in query:
        return None
    try:
        given = parse_qs(query, keep_blank_values=True, max_num_fields=32, errors="strict").get(name)
    except ValueError:
        raise HttpProblem(400, "malformed", "The query can't be read.") from None
    if given is None:
        return None
    if len(given) > 1:
        raise HttpProblem(400, "malformed", f"The query has the parameter {name!r} twice.")
    return given[0] or None


def by_rows(request: Request, kind: Kind) -> bool:
    """Say whether the request asks to answer row by row; raises HttpProblem 400 where it can't be."""
    errors = query_of(request, "errors")
    if errors in (None, "refuse"):
        return False
    if errors != "rows" or kind != "csv":
        raise HttpProblem(
            400, "malformed", "The parameter errors can't be followed.",
            remedy="Send errors=refuse, or with a CSV file errors=rows.",
        )  # fmt: skip
    return True


def _file(kind: Kind) -> str:
    return "csvFile" if kind == "csv" else "jsonFile"


def _calls() -> Any:
    """Return the module that speaks protobuf: it is loaded when it is first asked for, as it takes 11 MB."""
    return importlib.import_module("modelyard.serving.http.acumos_calls")
