"""What can be told of an operation of the HTTP interface, beyond its path, method, access and docstring."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from modelyard.serving.http.routing import Access
from modelyard.serving.http.schemas import Schema, reference

__all__ = ["BODY", "EVERY", "MODEL_HEADERS", "ROUTED", "Told", "answer", "problems_of"]

BODY = (400, 408, 413, 415)
"""Whoever reads a body may say these."""

ROUTED = ("RoutingKey",)
"""Parameters of whatever a canary may answer."""

EVERY = ("RequestTimeout", "RequestId", "TraceParent", "TraceState")
"""Parameters of every operation."""

MODEL_HEADERS = ("x-model", "x-model-version", "x-model-generation")
"""Of an answer that a model gave."""


@dataclass(frozen=True)
class Told:
    """What is told of an operation.

    Args:
        tag: The surface that it belongs to.
        answers: By status.
        parameters: Names of components, besides those of every operation.
        body: The request's, or None.
        problems: Statuses of problem documents beyond those of its access.
        deprecated: Whether it is there for old clients alone.
    """

    tag: str
    answers: Mapping[str, Schema]
    parameters: tuple[str, ...] = ()
    body: Schema | None = None
    problems: tuple[int, ...] = ()
    deprecated: bool = False


def answer(description: str, content: Schema, *headers: str) -> Schema:
    """Return an answer that is told of; it names the request, whatever other headers it has."""
    names = (*headers, "x-request-id")
    return {
        "description": description,
        "headers": {name: reference(name, "headers") for name in names},
        "content": content,
    }


def problems_of(access: Access, told: Told, *, secured: bool) -> list[int]:
    """Return the statuses of all problem documents that an operation may answer."""
    # A wrong deadline is 400, one that passed is 504.
    found = {400, 500, 504, *told.problems}
    if not secured:
        found.add(403)
    elif access != "public":
        found |= {401, 403, 503}
    return sorted(found - {int(status) for status in told.answers})
