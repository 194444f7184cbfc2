"""Spans of requests and changes by OpenTelemetry, sent to a collector over OTLP in the background.

The queue is bounded: where the collector is slow or gone, spans are dropped, and no request waits or fails. Samplers,
resource attributes, headers, queue lengths and the rest are those of OpenTelemetry's own variables.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Mapping
from typing import Any

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import (
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
    set_span_in_context,
)

from modelyard import __version__
from modelyard.serving.logs import Log
from modelyard.serving.tracing import SpanOf, Trace, parse_traceparent

__all__ = ["OtelTracer"]

CLOSE_SECONDS = 2.0
QUIET_SECONDS = 60.0
TRACES = "/v1/traces"


class OtelTracer:
    """Begins spans of one process.

    Args:
        endpoint: Of the collector, without or with `/v1/traces`; None: what OpenTelemetry's variables say.
        service: Name of the service.
        log: Takes what the exporter complains of, one line a minute.
    """

    def __init__(self, endpoint: str | None, service: str, log: Log) -> None:
        _listen_to_complaints(log)
        url = None if endpoint is None else endpoint.rstrip("/").removesuffix(TRACES) + TRACES
        self._provider = TracerProvider(resource=_resource(service), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=url)))
        self._tracer = self._provider.get_tracer("modelyard", __version__)

    def begin(
        self, name: str, attributes: Mapping[str, Any], traceparent: str | None, tracestate: str | None,
        of: SpanOf = "request",
    ) -> Trace:  # fmt: skip
        """Begin a span; see `Tracer.begin`."""
        parent = parse_traceparent(traceparent)
        context = None
        if parent is not None:
            state = TraceState.from_header([tracestate]) if tracestate else None
            ids = int(parent.trace_id, 16), int(parent.span_id, 16)
            remote = SpanContext(*ids, is_remote=True, trace_flags=TraceFlags(parent.flags), trace_state=state)
            context = set_span_in_context(NonRecordingSpan(remote))
        if of == "change":
            return _ChangeTrace(self._tracer.start_span(name, context, SpanKind.INTERNAL, attributes))
        return _SpanTrace(self._tracer.start_span(name, context, SpanKind.SERVER, attributes))

    def close(self) -> None:
        """Send what is queued; a collector that does not answer holds up the end of the worker for two seconds."""
        closing = threading.Thread(target=self._provider.shutdown, name="otel-close", daemon=True)
        closing.start()
        closing.join(CLOSE_SECONDS)


class _SpanTrace(Trace):
    __slots__ = ("_span",)

    def __init__(self, span: Span) -> None:
        own = span.get_span_context()
        trace_id = f"{own.trace_id:032x}"
        super().__init__(
            trace_id, (f"00-{trace_id}-{own.span_id:016x}-{int(own.trace_flags):02x}", own.trace_state.to_header())
        )
        self._span = span

    def served(self, model: str, version: str, generation: int, rows: int) -> None:
        self._span.set_attributes(
            {
                "modelyard.model": model,
                "modelyard.version": version,
                "modelyard.generation": generation,
                "modelyard.rows": rows,
            }
        )

    def tell(self, attributes: Mapping[str, Any]) -> None:
        self._span.set_attributes(attributes)

    def end(self, status: int) -> None:
        self._span.set_attribute("http.response.status_code", status)
        # What the client did wrong is no error of a server (semantic conventions for HTTP).
        if status >= 500:
            self._span.set_attribute("error.type", str(status))
            self._span.set_status(Status(StatusCode.ERROR))
        self._span.end()


class _ChangeTrace(_SpanTrace):
    """A change that was not made is an error, whoever is to blame."""

    __slots__ = ()

    def end(self, status: int) -> None:
        if status >= 400:
            self._span.set_status(Status(StatusCode.ERROR))
        self._span.end()


def _resource(service: str) -> Resource:
    """Return what all spans say of where they come from; OpenTelemetry's variables may name the service otherwise."""
    given = os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    named = "OTEL_SERVICE_NAME" in os.environ or "service.name=" in given.replace(" ", "")
    names = {} if named else {"service.name": "modelyard"}
    return Resource.create({**names, "service.version": __version__, "modelyard.service": service})


class _Complaints(logging.Handler):
    """Writes what OpenTelemetry complains of to the service's own log, and not each time anew."""

    def __init__(self, log: Log) -> None:
        super().__init__(logging.WARNING)
        self._log = log
        self._next = 0.0
        self._left_out = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Write one, or count it."""
        now = time.monotonic()
        if now < self._next:
            self._left_out += 1
            return
        self._log.warning("tracing-failed", reason=record.getMessage()[:500], left_out=self._left_out)
        self._next, self._left_out = now + QUIET_SECONDS, 0


def _listen_to_complaints(log: Log) -> None:
    logger = logging.getLogger("opentelemetry")
    logger.handlers = [_Complaints(log)]
    logger.propagate = False
