"""Which tracer a worker has: one that sends spans, one for the log alone, or none."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from modelyard.errors import InputError, MissingExtraError
from modelyard.serving.logs import Log
from modelyard.serving.tracing import SpanOf, Trace, Tracer, parse_traceparent

__all__ = ["check_tracing", "tracer_of"]

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")


class _LogTracer:
    """Gives log lines the clients' traces, and sends nothing."""

    def begin(
        self, _name: str, _attributes: Mapping[str, Any], traceparent: str | None, tracestate: str | None,
        _of: SpanOf = "request",
    ) -> Trace:  # fmt: skip
        parent = parse_traceparent(traceparent)
        if parent is None or traceparent is None:
            return Trace()
        return Trace(parent.trace_id, (traceparent, tracestate or ""))

    def close(self) -> None:
        return


def check_tracing(endpoint: str | None) -> None:
    """Raise an error before anything is started where spans could not be sent.

    Raises:
        InputError: The endpoint is no URL.
        MissingExtraError: OpenTelemetry is asked for, and not installed.
    """
    if endpoint is None:
        return
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InputError(
            f"{endpoint!r} is no URL of a collector.", where="otel_endpoint", remedy="Give http://127.0.0.1:4318."
        )
    try:
        _adapter()
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            "Spans need OpenTelemetry.", where="otel_endpoint", remedy="Install it with: pip install 'modelyard[otel]'"
        ) from error


def tracer_of(endpoint: str | None, service: str, log: Log) -> Tracer | None:
    """Return what begins traces, or None where nobody wants any: then a request pays for the question alone.

    Spans are sent where an endpoint is given, or OpenTelemetry's own variables name one.

    Args:
        endpoint: Where a collector takes OTLP over HTTP, such as `http://127.0.0.1:4318`; None: what the variables say.
        service: Name of the service.
        log: Of the process; takes what the exporter complains of. At the level `debug` its lines name clients' traces.
    """
    if endpoint is not None or _asked(os.environ):
        try:
            tracer: Tracer = _adapter().OtelTracer(endpoint, service, log)
        except ModuleNotFoundError:
            # Variables that a platform sets for all its programs stop none.
            log.warning("tracing-off", reason="OpenTelemetry is not installed: pip install 'modelyard[otel]'")
        else:
            return tracer
    return _LogTracer() if log.wants("debug") else None


def _asked(environment: Mapping[str, str]) -> bool:
    if environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    return environment.get("OTEL_TRACES_EXPORTER", "otlp") == "otlp" and any(map(environment.get, _ENDPOINTS))


def _adapter() -> Any:
    # A tenth of a second and 10 MiB in each worker: only where spans are wanted.
    from modelyard.serving import otel  # noqa: PLC0415

    return otel
