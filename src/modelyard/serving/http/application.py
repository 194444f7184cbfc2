"""The application that every HTTP request meets: its id, its route, who may, the answer or the problem."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Protocol

from modelyard.serving.batching import TOGETHER, answer_together
from modelyard.serving.http.body import BodyReader
from modelyard.serving.http.exchange import Exchange, Headers
from modelyard.serving.http.routing import (
    Access,
    Answering,
    Prediction,
    Request,
    Response,
    Route,
    Router,
)
from modelyard.serving.inference import LARGE_BODY, Inference, Taken
from modelyard.serving.problems import MEDIA_TYPE, HttpProblem, media_type_of, problem_of
from modelyard.serving.request_ids import RequestIds
from modelyard.serving.spec import LONGEST_DEADLINE
from modelyard.serving.tracing import Trace, Tracer, trace_fields

__all__ = ["Application", "HttpGuard"]

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
        inference: Of this worker.
        worker: Its number, from 0.
        guard: Who may do what; None lets everybody do everything.
    """

    def __init__(
        self, routes: Sequence[Route], inference: Inference, worker: int, guard: HttpGuard | None = None
    ) -> None:
        self.router = Router(routes)
        self._inference = inference
        self._bodies = BodyReader(inference.limits)
        self._log = inference.log
        self._guard = guard
        self._ids = RequestIds(worker)
        self._tasks: set[asyncio.Task[None]] = set()

    def __call__(self, turn: Sequence[Exchange]) -> None:
        """Answer the requests that came in one turn of the event loop.

        Those that ask a quick model with a small body are answered at once and together, the others in tasks.
        """
        for first in range(0, len(turn), TOGETHER):
            self._answer(turn[first : first + TOGETHER])

    def _answer(self, exchanges: Sequence[Exchange]) -> None:
        requests: list[Request] = []
        asked: list[Taken] = []
        for exchange in exchanges:
            request = Request(exchange, self._ids.of(exchange.headers.get("x-request-id")), self._bodies)
            try:
                taken = self._begin(request)
            except Exception as error:
                self._refuse(request, error)
                continue
            if taken is not None:
                requests.append(request)
                asked.append(taken)
        for request, taken, result in zip(requests, asked, answer_together(asked), strict=True):
            if isinstance(result, Exception):
                taken.leave(result)
                self._refuse(request, result)
                continue
            taken.leave()
            try:
                self._send(request, result)
            except Exception as error:
                # Those behind it shall have theirs.
                self._refuse(request, error)

    def _begin(self, request: Request) -> Taken | None:
        """Begin to answer a request; return what can be answered at once, and has said what it asks."""
        exchange = request.exchange
        headers = exchange.headers
        route, request.parameters = self.router.resolve(exchange.path)
        method = exchange.method
        endpoint = route.endpoints.get("GET" if method == "HEAD" else method)
        if endpoint is None:
            raise HttpProblem(405, "method", f"{method} is not allowed here.", headers=(("allow", route.allow),))
        if route.model is not None:
            request.model = request.parameters[route.model]
        elif route.meant is not None:
            request.model = route.meant(request)
        if self._guard is not None:
            request.principal = self._guard.check(headers, endpoint.access, request.model)
        # Before anything is taken, which would have to be given back.
        seconds = _seconds(headers.get("x-request-timeout"))
        if self._inference.tracer is not None and endpoint.access in TRACED:
            request.trace = _trace_of(self._inference.tracer, request, route)
        answering = endpoint.handler(request)
        if isinstance(answering, Prediction):
            taken = self._take(request, answering)
            if (
                taken.generation.quick
                and not answering.beside
                and exchange.held <= LARGE_BODY
                and self._bodies.is_ready(exchange)
            ):
                taken.ask(exchange.take(), answering.codec)
                return taken
            answering = self._predict(request, answering, taken)
        task = asyncio.get_running_loop().create_task(self._finish(request, answering, seconds))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return None

    def _take(self, request: Request, prediction: Prediction) -> Taken:
        """Take the generation that answers, before the body is read."""
        taken = self._inference.take(
            prediction.model,
            request.id,
            key=request.routing_key,
            version=prediction.version,
            label=prediction.label,
            trace=request.trace,
        )
        request.named = taken.generation.headers
        return taken

    async def _predict(self, request: Request, prediction: Prediction, taken: Taken) -> Response:
        """Answer a prediction that takes its time."""
        with taken:
            body = await request.body()
            response: Response = await taken.answer(body, prediction.codec, beside=prediction.beside)
            return response

    async def _finish(self, request: Request, answering: Answering, seconds: float | None) -> None:
        """Answer a request in a task of its own, within the seconds that its client still waits."""
        try:
            self._send(request, await (answering if seconds is None else _in_time(answering, seconds)))
        except Exception as error:
            self._refuse(request, error)
        except BaseException:
            request.exchange.abandon()
            if request.trace is not None:
                request.trace.end(499)
            raise

    def _send(self, request: Request, response: Response) -> None:
        request.exchange.answer(response.status, response.headers, response.body, (("x-request-id", request.id),))
        if request.trace is not None:
            request.trace.end(response.status)

    def _refuse(self, request: Request, error: Exception) -> None:
        """Tell a client of an error."""
        exchange = request.exchange
        problem = problem_of(error)
        trace = request.trace
        traced = trace_fields(exchange.headers.get("traceparent")) if trace is None else trace.fields
        if problem.status >= 500 and problem.code != "not-ready":
            self._log.error(
                "request-failed", request=request.id, status=problem.status, reason=repr(error)[:500], **traced
            )
        else:
            self._log.info("request-refused", request=request.id, status=problem.status, code=problem.code, **traced)
        path = exchange.path
        headers = [
            ("content-type", media_type_of(path)), *problem.headers, *request.named, ("x-request-id", request.id)
        ]  # fmt: skip
        try:
            exchange.answer(problem.status, headers, problem.document(request.id, error=path.startswith("/v2")))
        except ValueError:
            # What names the generation can't be sent; those that are answered together with it shall have theirs.
            exchange.abandon()
        if trace is not None:
            trace.end(problem.status)

    def refusal(self, problem: HttpProblem) -> tuple[Headers, bytes]:
        """Return how a request is answered whose head could not be read, and take it down."""
        request_id = self._ids.of(None)
        self._log.info("request-refused", request=request_id, status=problem.status, code=problem.code)
        headers = [("content-type", MEDIA_TYPE), *problem.headers, ("x-request-id", request_id)]
        return headers, problem.document(request_id)


def _trace_of(tracer: Tracer, request: Request, route: Route) -> Trace:
    method = request.exchange.method
    attributes = {
        "http.request.method": method, "http.route": route.pattern, "url.path": request.exchange.path,
        "modelyard.request_id": request.id,
    }  # fmt: skip
    parent, state = request.header("traceparent"), request.header("tracestate")
    return tracer.begin(f"{method} {route.pattern}", attributes, parent, state)


def _seconds(given: str | None) -> float | None:
    """Return how long a client still waits, or None where it does not say; raises HttpProblem 400."""
    if given is None:
        return None
    try:
        seconds = float(given)
        if not 0.0 < seconds <= LONGEST_DEADLINE:
            raise ValueError(given)
    except ValueError:
        raise HttpProblem(
            400, "malformed", "The header x-request-timeout is no number of seconds.",
            remedy=f"Send more than 0 and at most {LONGEST_DEADLINE:g}.",
        ) from None  # fmt: skip
    return seconds


async def _in_time(answering: Answering, seconds: float) -> Response:
    try:
        async with asyncio.timeout(seconds):
            return await answering
    except TimeoutError:
        raise HttpProblem(504, "deadline", f"There was no answer within {seconds:g} s.") from None
