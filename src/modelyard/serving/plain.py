"""The plain HTTP interface of a worker: prediction in JSON and CSV, what is served, health and metrics."""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import time
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import msgspec

from modelyard.errors import ModelyardError
from modelyard.serving.http_server import CONNECTION_LOST
from modelyard.serving.loading import CSV, JSON, JSON_COLUMNS
from modelyard.serving.logs import Log
from modelyard.serving.metrics import CONTENT_TYPE, Metrics
from modelyard.serving.problems import MEDIA_TYPE, HttpProblem, problem_of
from modelyard.serving.slots import Generation, Slot, Slots
from modelyard.serving.spec import Limits
from modelyard.serving.state import Page

__all__ = ["PlainApplication"]

LARGE_BODY = 256 * 1024
DISCARD = 32 * 1024 * 1024
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")
_MODEL_PATH = re.compile(r"/v1/models/([^/]+)(/predict)?")
_RETRY = (("retry-after", "1"),)
_BY_COLUMNS = re.compile(rb'^\s*\{\s*"columns"\s*:')
_UTF8 = ("utf-8", "utf8", "us-ascii")

Headers = list[tuple[str, str]]


class RsgiHeaders(Protocol):
    """Request headers as the server hands them over; names are looked up in lower case."""

    def get(self, key: str, default: Any = None) -> Any:
        """Return a header's value."""


class Scope(Protocol):
    """The head of a request (RSGI specification 1.6, https://github.com/emmett-framework/granian)."""

    method: str
    path: str
    query_string: str

    @property
    def headers(self) -> RsgiHeaders:
        """The request's headers."""


class Exchange(Protocol):
    """The body of a request and the way to answer it (RSGI)."""

    async def __call__(self) -> bytes:
        """Return the whole body."""

    def __aiter__(self) -> Any:
        """Yield the body piece by piece."""

    def response_bytes(self, status: int, headers: Headers, body: bytes) -> None:
        """Answer."""


class PlainApplication:
    """Answers requests from the worker's slots.

    A prediction takes the slot's generation once, before its body is read, and keeps it to the end. Small bodies are
    computed in the event loop, because a thread costs more than a small model; bodies over 256 KiB are computed in one
    thread beside it, so that probes and small requests need not wait.

    Args:
        slots: What this worker holds.
        limits: What one request, and the service, may ask for.
        metrics: Of this worker.
        log: Of this worker.
        worker: Its number, from 0.
        workers: How many the service has.
    """

    def __init__(self, slots: Slots, limits: Limits, metrics: Metrics, log: Log, worker: int, workers: int) -> None:
        self._slots = slots
        self._limits = limits
        self._metrics = metrics
        self._log = log
        self._page = slots.page
        self._words = slots.page.words
        self._own = Page.WORKERS + worker
        self._workers = workers
        self._computing = ThreadPoolExecutor(1, thread_name_prefix="predict")
        self._ids = itertools.count(1)
        self._id_prefix = f"{os.urandom(4).hex()}-{worker}"
        self._log_requests = log.wants("debug")

    async def __call__(self, scope: Scope, exchange: Exchange) -> None:
        """Answer one request; whatever happens, it is answered exactly once."""
        given = scope.headers.get("x-request-id")
        request_id = given if given and _REQUEST_ID.fullmatch(given) else f"{self._id_prefix}-{next(self._ids):x}"
        match = _MODEL_PATH.fullmatch(scope.path)
        if match is not None and match[2]:
            await self._predict(scope, exchange, match[1], request_id)
            return
        try:
            headers, body, status = await self._other(scope, match[1] if match else None)
        except Exception as error:
            self._answer_problem(exchange, error, request_id, ())
            return
        headers.append(("x-request-id", request_id))
        exchange.response_bytes(status, headers, b"" if scope.method == "HEAD" else body)

    async def _predict(self, scope: Scope, exchange: Exchange, name: str, request_id: str) -> None:
        started = time.perf_counter()
        self._words[self._own] += 1
        generation: Generation | None = None
        named: tuple[tuple[str, str], ...] = ()
        rows = 0
        status = 200
        try:
            kind, wanted = _negotiate(scope)
            generation = self._take(name)
            named = generation.headers
            self._admit(scope)
            body = await self._in_time(self._read(scope, exchange, kind))
            if len(body) > LARGE_BODY:
                loop = asyncio.get_running_loop()
                rows, answer = await loop.run_in_executor(
                    self._computing, self._compute, generation, kind, wanted, body
                )
            else:
                rows, answer = self._compute(generation, kind, wanted, body)
            headers = [("content-type", wanted), *named, ("x-request-id", request_id)]
            exchange.response_bytes(200, headers, answer)
        except Exception as error:
            status = self._answer_problem(exchange, error, request_id, named)
        finally:
            if generation is not None:
                Slot.release(generation)
            self._words[self._own] -= 1
        seconds = time.perf_counter() - started
        # A name that is not served is the client's invention; as a label it would fill the memory.
        model = generation.record.model if generation else (name if name in self._slots else "")
        version = generation.version if generation else ""
        self._metrics.answered(model, version, status, seconds)
        if self._log_requests:
            self._log.debug(
                "request", request=request_id, model=model, version=version, status=status, rows=rows, seconds=seconds,
                generation=generation.number if generation else None,
            )  # fmt: skip

    def _take(self, name: str) -> Generation:
        slot = self._slots.get(name)
        if slot is None:
            if not self._words[Page.READY]:
                raise HttpProblem(503, "not-ready", "The service has not learned yet what is live.", headers=_RETRY)
            raise HttpProblem(
                404, "not-found", "No model of that name is served here.", remedy="GET /v1/models lists them."
            )
        generation = slot.take()
        if generation is None:
            raise HttpProblem(503, "not-ready", f"The model {slot.name!r} is not loaded.", headers=_RETRY)
        return generation

    def _admit(self, scope: Scope) -> None:
        if self._page.in_flight(self._workers) > self._limits.in_flight:
            raise HttpProblem(
                429,
                "busy",
                f"More than {self._limits.in_flight} requests are in flight.",
                remedy="Try again.",
                headers=_RETRY,
            )
        encoding = scope.headers.get("content-encoding")
        if encoding and encoding.strip().lower() != "identity":
            raise HttpProblem(415, "content-encoding", "The body is compressed.", remedy="Send it uncompressed.")

    async def _in_time(self, reading: Coroutine[Any, Any, bytes]) -> bytes:
        """Return the body, unless its sender takes so long that others would find no place."""
        try:
            async with asyncio.timeout(self._limits.body_seconds):
                return await reading
        except TimeoutError:
            raise HttpProblem(
                408, "timeout", f"The body did not arrive within {self._limits.body_seconds:g} s.",
                remedy="Send it at once.", headers=(("connection", "close"),),
            ) from None  # fmt: skip

    async def _read(self, scope: Scope, exchange: Exchange, kind: str) -> bytes:
        """Return the whole body, and hold no more of it than the limit allows, whatever its head announces."""
        limit = self._limits.body_bytes
        announced = scope.headers.get("content-length")
        if scope.headers.get("transfer-encoding") is not None:
            if announced is not None:
                raise HttpProblem(400, "malformed", "The request has both a content length and a transfer encoding.")
            if kind != JSON:
                # The server does not tell a body that was cut off from a whole one, and half a table is a table too.
                raise HttpProblem(
                    411, "length-required", "A CSV body needs its length.", remedy="Send Content-Length, or JSON."
                )
        elif announced is None or int(announced) <= limit:
            # The server ends the body at the announced length, and one that falls short of it is an error.
            try:
                return await exchange()
            except CONNECTION_LOST:
                raise HttpProblem(400, "incomplete", "The body ended before its announced length.") from None
        pieces: list[bytes] = []
        size = 0
        async for piece in exchange:
            size += len(piece)
            if size <= limit:
                pieces.append(piece)
            elif size > limit + DISCARD:
                break
            else:
                # Most clients read no answer before they have written all: what is too much is read and dropped.
                pieces.clear()
        if size > limit:
            raise HttpProblem(
                413, "too-large", f"The body is larger than {limit} bytes.", remedy="Send fewer rows in one request.",
                headers=(("connection", "close"),),
            )  # fmt: skip
        return b"".join(pieces)

    def _compute(self, generation: Generation, kind: str, wanted: str, body: bytes) -> tuple[int, bytes]:
        served = generation.served
        columns = served.decoders[kind](body)
        rows = len(next(iter(columns.values())))
        if rows > self._limits.rows:
            raise HttpProblem(
                413,
                "too-many-rows",
                f"{rows} rows are more than {self._limits.rows}.",
                remedy="Send fewer rows in one request.",
            )
        try:
            outputs = served.predict(columns)
        except ModelyardError:
            raise
        except Exception as error:
            self._log.error(
                "predict-failed", model=generation.record.model, generation=generation.number, reason=repr(error)[:500]
            )
            raise HttpProblem(
                500, "internal", "The model could not answer.", remedy="The service's log has the reason."
            ) from error
        if wanted != JSON:
            return rows, served.encoders[wanted](outputs)
        by_columns = kind == JSON and _BY_COLUMNS.match(body)
        answer = served.encoders[JSON_COLUMNS if by_columns else JSON](outputs)
        return rows, generation.json_prefix + b"," + answer[1:]

    def _answer_problem(
        self, exchange: Exchange, error: Exception, request_id: str, named: tuple[tuple[str, str], ...]
    ) -> int:
        problem = problem_of(error)
        if problem.status >= 500 and problem.code != "not-ready":
            self._log.error("request-failed", request=request_id, status=problem.status, reason=repr(error)[:500])
        else:
            self._log.info("request-refused", request=request_id, status=problem.status, code=problem.code)
        headers = [("content-type", MEDIA_TYPE), *problem.headers, *named, ("x-request-id", request_id)]
        exchange.response_bytes(problem.status, headers, problem.document(request_id))
        return problem.status

    async def _other(self, scope: Scope, name: str | None) -> tuple[Headers, bytes, int]:
        path = scope.path
        if name is None and path not in ("/v1/models", "/healthz", "/readyz", "/metrics"):
            raise HttpProblem(
                404, "not-found", "Nothing is found at this path.", remedy="GET /v1/models lists the models."
            )
        if scope.method not in ("GET", "HEAD"):
            raise HttpProblem(405, "method", f"{scope.method} is not allowed here.", headers=(("allow", "GET, HEAD"),))
        if name is not None:
            return [("content-type", JSON)], msgspec.json.encode(self._describe(name)), 200
        if path == "/metrics":
            # Reading the files of all workers takes milliseconds.
            text = await asyncio.get_running_loop().run_in_executor(None, self._metrics.render)
            return [("content-type", CONTENT_TYPE)], text, 200
        if path == "/v1/models":
            models = [self._describe(name) for name in sorted(self._slots)]
            return [("content-type", JSON)], msgspec.json.encode({"models": models}), 200
        if path == "/healthz":
            return [("content-type", JSON)], b'{"status":"live"}', 200
        if not self._words[Page.READY]:
            return [("content-type", JSON), *_RETRY], b'{"status":"not ready"}', 503
        return [("content-type", JSON)], b'{"status":"ready"}', 200

    def _describe(self, name: str) -> dict[str, Any]:
        slot = self._slots.get(name)
        if slot is None:
            raise HttpProblem(
                404, "not-found", "No model of that name is served here.", remedy="GET /v1/models lists them."
            )
        generation = slot.committed
        if generation is None:
            return {"name": name, "state": "not loaded", "version": None, "generation": None}
        return {
            "name": name,
            "state": "live",
            "version": generation.version,
            "generation": generation.number,
            "package": generation.record.package,
            "contract": generation.served.contract,
        }


def _negotiate(scope: Scope) -> tuple[str, str]:
    """Return the media types of the body and of the answer."""
    if scope.method != "POST":
        raise HttpProblem(405, "method", f"{scope.method} is not allowed here.", headers=(("allow", "POST"),))
    content_type = scope.headers.get("content-type")
    kind = _media_type(content_type)
    accept = scope.headers.get("accept")
    if accept is None or accept == "*/*":
        return kind, kind
    return kind, _acceptable(accept, kind)


def _media_type(content_type: str | None) -> str:
    if content_type == JSON:
        return JSON
    kind, _, parameters = (content_type or JSON).partition(";")
    kind = kind.strip().lower()
    if kind not in (JSON, CSV):
        raise HttpProblem(415, "media-type", "The body's media type is not known.", remedy=f"Send {JSON} or {CSV}.")
    for parameter in parameters.split(";"):
        key, _, value = parameter.partition("=")
        if key.strip().lower() == "charset" and value.strip().strip('"').lower() not in _UTF8:
            raise HttpProblem(415, "charset", "The body's character set is not known.", remedy="Send UTF-8.")
    return kind


def _acceptable(accept: str, kind: str) -> str:
    """Return the media type that an `Accept` header prefers (RFC 9110, 12.5.1); of equals, the body's own."""
    quality: dict[str, tuple[float, int]] = {}
    for part in accept.split(","):
        given, *parameters = (piece.strip().lower() for piece in part.split(";"))
        weight = 1.0
        for parameter in parameters:
            if parameter.startswith("q="):
                try:
                    weight = float(parameter[2:])
                except ValueError:
                    weight = 0.0
        for known in (JSON, CSV):
            precision = {known: 3, known.partition("/")[0] + "/*": 2, "*/*": 1}.get(given, 0)
            if precision > quality.get(known, (0.0, 0))[1]:
                quality[known] = (weight, precision)
    best = max((JSON, CSV), key=lambda known: (quality.get(known, (0.0, 0))[0], known == kind))
    if quality.get(best, (0.0, 0))[0] <= 0.0:
        raise HttpProblem(
            406, "not-acceptable", "No answer in an accepted media type.", remedy=f"Accept {JSON} or {CSV}."
        )
    return best
