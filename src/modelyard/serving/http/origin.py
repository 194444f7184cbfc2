"""Which request the supervisor is asked for, where it was asked over HTTP."""

from __future__ import annotations

from modelyard.serving.http.routing import Request
from modelyard.serving.tracing import Origin, origin_of

__all__ = ["http_origin"]


def http_origin(request: Request) -> Origin:
    """Return what the supervisor is told of a request."""
    return origin_of(request.id, request.trace, request.header("traceparent"), request.header("tracestate"))
