"""Traces of requests: what a client says of its own in `traceparent`, and spans, where a collector wants them.

The header is that of W3C Trace Context (https://www.w3.org/TR/trace-context/). It is for requests alone: the
Recommendation defines none for answers, so none is sent back.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Literal, NamedTuple, Protocol, Self

import msgspec

from modelyard.serving.problems import problem_of

__all__ = ["NOBODY", "Origin", "Parent", "SpanOf", "Trace", "Tracer", "origin_of", "parse_traceparent", "trace_fields"]

SpanOf = Literal["request", "change"]
"""What a span is about: a request that came over the network, or a change that the supervisor makes."""

LONGEST_STATE = 512
"""Characters of `tracestate` that are passed on; the Recommendation asks for as many at least."""

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


class Origin(msgspec.Struct, frozen=True):
    """The request that something is done for, as another process is told of it.

    Args:
        request: Its id.
        traceparent: The span that it is part of; empty where there is none.
        tracestate: What belongs to that.
    """

    request: str = ""
    traceparent: str = ""
    tracestate: str = ""


NOBODY = Origin()


class Trace:
    """A request on its way, entered by `with`; this one tells the log its trace, and makes no span.

    Args:
        trace_id: 32 hexadecimal digits; empty where the client named none.
        onward: `traceparent` and `tracestate` for who does a part of the work.
    """

    __slots__ = ("onward", "status", "trace_id")

    def __init__(self, trace_id: str = "", onward: tuple[str, str] = ("", "")) -> None:
        self.trace_id = trace_id
        self.onward = onward
        self.status = 200
        """HTTP status of the answer, where no error says otherwise."""

    @property
    def fields(self) -> dict[str, str]:
        """What a log line tells of it."""
        return {"trace_id": self.trace_id} if self.trace_id else {}

    def served(self, model: str, version: str, generation: int, rows: int) -> None:
        """Take down what answered a prediction."""

    def tell(self, attributes: Mapping[str, Any]) -> None:
        """Take down what else is known of it."""

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


def origin_of(request: str, trace: Trace | None, traceparent: str | None, tracestate: str | None) -> Origin:
    """Return what another process is told of a request.

    Args:
        request: Its id.
        trace: Its trace, where somebody wants one.
        traceparent: Its header, or None.
        tracestate: Its header, or None.
    """
    if trace is not None:
        traceparent, tracestate = trace.onward
    if traceparent is None or parse_traceparent(traceparent) is None:
        return Origin(request)
    return Origin(request, traceparent, tracestate if tracestate and len(tracestate) <= LONGEST_STATE else "")


class Tracer(Protocol):
    """Begins traces."""

    def begin(
        self, name: str, attributes: Mapping[str, Any], traceparent: str | None, tracestate: str | None,
        of: SpanOf = "request",
    ) -> Trace:  # fmt: skip
        """Begin one.

        Args:
            name: Of the span, such as `POST /v1/models/{name}/predict`.
            attributes: Of the span.
            traceparent: The request's header, or None.
            tracestate: The request's header, or None.
            of: What it is about.
        """

    def close(self) -> None:
        """Send what is still to be sent, within two seconds."""
