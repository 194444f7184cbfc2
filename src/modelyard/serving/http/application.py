"""The application that every HTTP request meets: its id, its route, who may, the answer or the problem."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, Protocol

from modelyard.serving.batching import Arrivals
from modelyard.serving.http.body import BodyReader
from modelyard.serving.http.exchange import Exchange, Headers
from modelyard.serving.http.routing import Access, Endpoint, Request, Response, Route, Router
from modelyard.serving.logs import Log
from modelyard.serving.problems import MEDIA_TYPE, HttpProblem, media_type_of, problem_of
from modelyard.serving.request_ids import RequestIds
from modelyard.serving.spec import Limits
from modelyard.serving.tracing import Tracer, trace_fields

__all__ = ["Application", "HttpGuard"]

LONGEST_DEADLINE = 3600.0
TRACED = frozenset({"infer", "load", "promote"})
"""What has a span; a probe every second would only bury them."""


class HttpGuard(Protocol):
    """Decides who may do what."""

    def check(self, headers: Mapping[str, str], access: Access, model: str | None) -> str | None:
        """Return who asks, or None where nobody needs to say; raises the error that tells why not."""


class Application:
    """Answers requests by the handlers of its routes; whatever happens, each is answered exactly once.

    Args:
        routes: Of every surface.
        limits: What one request may ask for.
        log: Of this worker.
        worker: Its number, from 0.
        guard: Who may do what; None lets everybody do everything.
        tracer: Begins traces; None where nobody wants any.
        arrivals: Is told that a request is looked at; its connection has counted it.
    """

    def __init__(
        self,
        routes: Sequence[Route],
        limits: Limits,
        log: Log,
        worker: int,
        guard: HttpGuard | None = None,
        tracer: Tracer | None = None,
        arrivals: Arrivals | None = None,
    ) -> None:
        self.router = Router(routes)
        self._bodies = BodyReader(limits)
        self._log = log
        self._guard = guard
        self._tracer = tracer
        self._arrivals = arrivals or Arrivals()
        self._ids = RequestIds(worker)

    async def __call__(self, exchange: Exchange) -> None:
        """Answer one request."""
        self._arrivals.coming -= 1
        headers = exchange.headers
        request_id = self._ids.of(headers.get("x-request-id"))
        request: Request | None = None
        try:
            route, parameters = self.router.resolve(exchange.path)
            method = exchange.method
            endpoint = route.endpoints.get("GET" if method == "HEAD" else method)
            if endpoint is None:
                raise HttpProblem(405, "method", f"{method} is not allowed here.", headers=(("allow", route.allow),))
            request = Request(exchange, request_id, parameters, self._bodies)
            if route.model is not None:
                request.model = parameters[route.model]
            elif route.meant is not None:
                request.model = route.meant(request)
            if self._guard is not None:
                request.principal = self._guard.check(headers, endpoint.access, request.model)
            timeout = headers.get("x-request-timeout")
            tracer = self._tracer
            answering = endpoint.handler(request) if tracer is None else _traced(tracer, request, route, endpoint)
            response = await (answering if timeout is None else self._in_time(answering, timeout))
            response.headers.append(("x-request-id", request_id))
            exchange.answer(response.status, response.headers, response.body)
        except Exception as error:
            self._answer_problem(exchange, error, request_id, request)
        except BaseException:
            exchange.abandon()
            raise

    async def _in_time(self, answering: Coroutine[Any, Any, Response], given: str) -> Response:
        """Answer within the seconds that the client still waits."""
        try:
            seconds = float(given)
            if not 0.0 < seconds <= LONGEST_DEADLINE:
                raise ValueError(given)
        except ValueError:
            answering.close()
            raise HttpProblem(
                400, "malformed", "The header x-request-timeout is no number of seconds.",
                remedy=f"Send more than 0 and at most {LONGEST_DEADLINE:g}.",
            ) from None  # fmt: skip
        try:
            async with asyncio.timeout(seconds):
                return await answering
        except TimeoutError:
            raise HttpProblem(504, "deadline", f"There was no answer within {seconds:g} s.") from None

    def _answer_problem(
        self,
        exchange: Exchange,
        error: Exception,
        request_id: str,
        request: Request | None,
    ) -> None:
        problem = problem_of(error)
        named = request.named if request is not None else ()
        trace = request.trace if request is not None else None
        traced = trace_fields(exchange.headers.get("traceparent")) if trace is None else trace.fields
        if problem.status >= 500 and problem.code != "not-ready":
            self._log.error(
                "request-failed", request=request_id, status=problem.status, reason=repr(error)[:500], **traced
            )
        else:
            self._log.info("request-refused", request=request_id, status=problem.status, code=problem.code, **traced)
        path = exchange.path
        headers = [("content-type", media_type_of(path)), *problem.headers, *named, ("x-request-id", request_id)]
        exchange.answer(problem.status, headers, problem.document(request_id, error=path.startswith("/v2")))

    def refusal(self, problem: HttpProblem) -> tuple[Headers, bytes]:
        """Return how a request is answered whose head could not be read, and take it down."""
        request_id = self._ids.of(None)
        self._log.info("request-refused", request=request_id, status=problem.status, code=problem.code)
        headers = [("content-type", MEDIA_TYPE), *problem.headers, ("x-request-id", request_id)]
        return headers, problem.document(request_id)


async def _traced(tracer: Tracer, request: Request, route: Route, endpoint: Endpoint) -> Response:
    """Answer within a trace."""
    if endpoint.access not in TRACED:
        return await endpoint.handler(request)
    method = request.exchange.method
    attributes = {
        "http.request.method": method, "http.route": route.pattern, "url.path": request.exchange.path,
        "modelyard.request_id": request.id,
    }  # fmt: skip
    parent, state = request.header("traceparent"), request.header("tracestate")
    with tracer.begin(f"{method} {route.pattern}", attributes, parent, state) as trace:
        request.trace = trace
        response = await endpoint.handler(request)
        trace.status = response.status
        return response
