"""Traces of requests: what a client says of its own in `traceparent`, and spans, where a collector wants them.

The header is that of W3C Trace Context (https://www.w3.org/TR/trace-context/). It is for requests alone: the
Recommendation defines none for answers, so none is sent back.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import TracebackType
from typing import Any, NamedTuple, Protocol, Self

from modelyard.serving.problems import problem_of

__all__ = ["Parent", "Trace", "Tracer", "parse_traceparent", "trace_fields"]

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")


class Parent(NamedTuple):
    """What a valid `traceparent` says, in hexadecimal digits."""

    trace_id: str
    span_id: str
    flags: int


def parse_traceparent(text: str | None) -> Parent | None:
    """Return what a `traceparent` says, or None where there is none or an invalid one, which counts as none.

    Args:
        text: The header's value. One of a later version is read as far as version 00 goes, as the Recommendation asks.
    """
    found = _TRACEPARENT.fullmatch(text) if text is not None and len(text) < 512 else None
    if found is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    if version == "ff" or (version == "00" and more) or not trace_id.strip("0") or not span_id.strip("0"):
        return None
    return Parent(trace_id, span_id, int(flags, 16))


def trace_fields(text: str | None) -> dict[str, str]:
    """Return what a log line tells of a request's `traceparent`: its trace, or nothing."""
    parent = parse_traceparent(text)
    return {"trace_id": parent.trace_id} if parent is not None else {}


class Trace:
    """A request on its way, entered by `with`; this one tells the log its trace, and makes no span.

    Args:
        trace_id: 32 hexadecimal digits; empty where the client named none.
    """

    __slots__ = ("status", "trace_id")

    def __init__(self, trace_id: str = "") -> None:
        self.trace_id = trace_id
        self.status = 200
        """HTTP status of the answer, where no error says otherwise."""

    @property
    def fields(self) -> dict[str, str]:
        """What a log line tells of it."""
        return {"trace_id": self.trace_id} if self.trace_id else {}

    def served(self, model: str, version: str, generation: int, rows: int) -> None:
        """Take down what answered a prediction."""

    def end(self, status: int) -> None:
        """Take down how it ended."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            self.end(self.status)
        else:
            # What is no Exception says that the deadline passed, or the client went away.
            self.end(problem_of(error).status if isinstance(error, Exception) else 499)


class Tracer(Protocol):
    """Begins traces."""

    def begin(self, name: str, attributes: Mapping[str, Any], traceparent: str | None, tracestate: str | None) -> Trace:
        """Begin one.

        Args:
            name: Of the span, such as `POST /v1/models/{name}/predict`.
            attributes: Of the span.
            traceparent: The request's header, or None.
            tracestate: The request's header, or None.
        """

    def close(self) -> None:
        """Send what is still to be sent, within two seconds."""
