"""Which handler answers which method and path, and what access it needs."""

from __future__ import annotations

import re
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import msgspec

from modelyard.serving.http.body import BodyReader
from modelyard.serving.http.exchange import Exchange, Headers
from modelyard.serving.inference import Codec
from modelyard.serving.problems import HttpProblem
from modelyard.serving.tracing import Trace

__all__ = ["Access", "Answering", "Endpoint", "Handler", "Prediction", "Request", "Response", "Route", "Router"]

Access = Literal["public", "infer", "read", "load", "promote"]
"""What a caller must be allowed to do. `public` is health alone."""

REMEMBERED = 4096
_PARAMETER = re.compile(r"\{([a-z_]+)\}")


class Response(msgspec.Struct):
    """An answer; the application adds the request's id."""

    status: int
    headers: Headers
    body: bytes


class Request:
    """A request on its way through a handler.

    Args:
        exchange: Its head and body.
        request_id: Names it in the log and the answer.
        bodies: Reads its body within the limits.
    """

    __slots__ = ("bodies", "exchange", "id", "model", "named", "parameters", "principal", "trace")

    def __init__(self, exchange: Exchange, request_id: str, bodies: BodyReader) -> None:
        self.exchange = exchange
        self.id = request_id
        self.bodies = bodies
        self.parameters: tuple[str, ...] = ()
        """The variable parts of its path, in the order of the route's pattern."""
        self.model: str | None = None
        """The model that it is about, where path, query or the service say so: the one that credentials must allow."""
        self.principal: str | None = None
        """Who asks, where that is known."""
        self.named: Sequence[tuple[str, str]] = ()
        """Headers that name the generation; an answer that tells of an error has them too."""
        self.trace: Trace | None = None
        """Its trace, where somebody wants one."""

    def header(self, name: str) -> str | None:
        """Return a header by its name in lower case."""
        return self.exchange.headers.get(name)

    def routing_key(self) -> str | None:
        """Return what the client is known by: it says so in `x-routing-key`, or else is who it showed to be."""
        return self.header("x-routing-key") or self.principal

    def body(self) -> Coroutine[Any, Any, bytes]:
        """Return the whole body; see `BodyReader.read`."""
        return self.bodies.read(self.exchange)


class Prediction(msgspec.Struct):
    """What a handler returns where a model is asked: it is answered together with others that came at the same time.

    Args:
        model: Its name.
        codec: Reads the body and writes the response.
        version: That one alone may answer.
        label: What it names alone may answer.
        beside: Whether even a small body is too much work for the event loop.
    """

    model: str
    codec: Codec
    version: str | None = None
    label: str | None = None
    beside: bool = False


Answering = Coroutine[Any, Any, Response]
Handler = Callable[[Request], Answering | Prediction]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A handler and the access that it needs."""

    handler: Handler
    access: Access


@dataclass(frozen=True)
class Route:
    """What answers at a path.

    Args:
        pattern: Such as `/v1/models/{name}/predict`; a variable part has no slash, and `name` is a model's.
        endpoints: By method; HEAD is answered as GET, without the body.
        meant: Where no part of the path names a model: which one a request means, or None where it means none or all.
            It is asked before anybody has shown who they are, and raises nothing.
    """

    pattern: str
    endpoints: Mapping[str, Endpoint]
    meant: Callable[[Request], str | None] | None = None

    @cached_property
    def model(self) -> int | None:
        """Which variable part names a model, or None."""
        return self.parameters.index("name") if "name" in self.parameters else None

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the variable parts."""
        return tuple(_PARAMETER.findall(self.pattern))

    @property
    def allow(self) -> str:
        """Value of the `Allow` header."""
        methods = [*self.endpoints, "HEAD"] if "GET" in self.endpoints else list(self.endpoints)
        return ", ".join(sorted(methods))


class Router:
    """Finds routes, and remembers which path belongs to which.

    Args:
        routes: In the order in which they are tried.
    """

    def __init__(self, routes: Sequence[Route]) -> None:
        self.routes = tuple(routes)
        self._patterns = [(re.compile(_PARAMETER.sub("([^/]+)", route.pattern)), route) for route in self.routes]
        self._remembered: dict[str, tuple[Route, tuple[str, ...]]] = {}

    def __iter__(self) -> Iterator[Route]:
        return iter(self.routes)

    def resolve(self, path: str) -> tuple[Route, tuple[str, ...]]:
        """Return the route of a path, and its variable parts; the server has undone percent-encoding already.

        Raises:
            HttpProblem: 404, there is none.
        """
        found = self._remembered.get(path)
        if found is not None:
            return found
        for pattern, route in self._patterns:
            match = pattern.fullmatch(path)
            if match is not None:
                found = route, match.groups()
                if len(self._remembered) >= REMEMBERED:
                    # Whoever asks for invented paths must not fill the memory.
                    self._remembered.clear()
                self._remembered[path] = found
                return found
        raise HttpProblem(404, "not-found", "Nothing is found at this path.", remedy="GET /v1/models lists the models.")
