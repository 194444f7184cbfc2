"""What a handler reads of a request is what is told of its operation: no parameter is missing, and none is invented."""

from __future__ import annotations

import ast
import functools
import inspect
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from modelyard.serving.http.acumos import Acumos
from modelyard.serving.http.acumos_uploads import AcumosUploads
from modelyard.serving.http.application import Application
from modelyard.serving.http.body import BodyReader
from modelyard.serving.http.openapi import Security, document_of
from modelyard.serving.http.routing import Prediction, Request, Route
from modelyard.serving.http.surfaces import routes_of
from modelyard.serving.slots import Slots
from modelyard.serving.spec import Limits
from modelyard.serving.state import Page

PACKAGE = "modelyard.serving.http"
PREDICTING = (Application._predict, Application._take)
"""What the application does with a request alone whose handler returns a prediction."""

TOLD_OTHERWISE = {
    "accept": "the media types of the answer tell of it; OpenAPI ignores a parameter of this name",
    "content-type": "the media types of the body tell of it; OpenAPI ignores a parameter of this name",
    "content-length": "HTTP's own framing of a body",
}
"""Headers that are read and are no parameters, and why."""

NEVER = {("/v1/models", 404): "it describes only models that are there"}
"""Problems that a function which a handler calls may raise, and not for that handler; and why."""


def source_of(function: Any) -> ast.AST:
    return ast.parse(textwrap.dedent(inspect.getsource(function)))


class Reading:
    """Finds what functions read of a request, and what the functions that they call in this package read."""

    def __init__(self, *left_out: Any) -> None:
        self.headers: set[str] = set()
        self.query: set[str] = set()
        self.statuses: set[int] = set()
        """Of the problems that they raise themselves."""
        self._seen: set[Any] = set(left_out)

    def follow(self, function: Any, owner: Any = None) -> Reading:
        while isinstance(function, functools.partial):
            function = function.func
        owner = getattr(function, "__self__", owner)
        function = inspect.unwrap(getattr(function, "__func__", function))
        if function in self._seen or not getattr(function, "__module__", "").startswith(PACKAGE):
            return self
        if not Path(function.__code__.co_filename).exists():
            # What a dataclass or a named tuple writes for itself reads no request.
            return self
        self._seen.add(function)
        for node in ast.walk(source_of(function)):
            self._look(node, function, owner)
        return self

    def _look(self, node: ast.AST, function: Any, owner: Any) -> None:
        if isinstance(node, ast.Attribute) and node.attr == "routing_key":
            self.follow(Request.routing_key)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            self._look_at_name(node, node.func.id, function)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            self._look_at_method(node, node.func, function, owner)

    def _look_at_name(self, call: ast.Call, name: str, function: Any) -> None:
        found = function.__globals__.get(name)
        if name == "query_of":
            self.query.add(self._constant(call.args[1], function))
        elif name == "HttpProblem" and isinstance(call.args[0], ast.Constant):
            self.statuses.add(int(str(call.args[0].value)))
        elif found is Prediction:
            for step in PREDICTING:
                self.follow(step, Application)
        elif inspect.isclass(found) and found is not Request and found.__module__.startswith(PACKAGE):
            for member in vars(found).values():
                if inspect.isfunction(member):
                    self.follow(member, found)
        elif found is not None and inspect.isfunction(inspect.unwrap(found)):
            self.follow(found)

    def _look_at_method(self, call: ast.Call, method: ast.Attribute, function: Any, owner: Any) -> None:
        of = ast.unparse(method.value)
        if method.attr == "header" or (method.attr == "get" and of.endswith("headers")):
            self.headers.add(self._constant(call.args[0], function))
        elif of == "request" and method.attr == "body":
            self.follow(BodyReader.read, BodyReader)
        elif of == "self" and owner is not None:
            # Forms are streamed: what is compressed is refused there, so nobody shall send content-encoding.
            found = inspect.getattr_static(owner if inspect.isclass(owner) else type(owner), method.attr, None)
            if inspect.isfunction(found):
                self.follow(found, owner)

    @staticmethod
    def _constant(node: ast.expr, function: Any) -> str:
        value = node.value if isinstance(node, ast.Constant) else function.__globals__[ast.unparse(node)]
        assert isinstance(value, str)
        return value


def routes() -> tuple[Route, ...]:
    slots = Slots(Page.create())
    inference: Any = SimpleNamespace(slots=slots, slot=slots.__getitem__, limits=Limits(), metrics=None)
    # Nothing is asked of the supervisor.
    return routes_of(inference, None, uploads=Path("/nowhere"))  # type: ignore[arg-type]


def operations() -> Iterator[tuple[str, str, Callable[..., Any], dict[str, Any], dict[str, Any]]]:
    found = routes()
    document = document_of(found, (), Security())
    for route in found:
        for method, endpoint in route.endpoints.items():
            if route.pattern in document["paths"]:
                told = document["paths"][route.pattern][method.lower()]
                yield route.pattern, method, endpoint.handler, told, document


def parameters(told: dict[str, Any], document: dict[str, Any]) -> dict[str, set[str]]:
    named = {"header": set(), "query": set()}
    for entry in told["parameters"]:
        component = document["components"]["parameters"][entry["$ref"].rpartition("/")[2]]
        named[component["in"]].add(component["name"])
    return named


@pytest.fixture(scope="module")
def common() -> set[str]:
    """Headers that are read of every request, whatever its handler."""
    return Reading(*PREDICTING).follow(Application.__call__, Application).headers


def test_the_application_reads_what_is_told_of_every_operation(common):
    assert common == {"x-request-id", "x-request-timeout", "traceparent", "tracestate"}


@pytest.mark.parametrize(("pattern", "method", "handler", "told", "document"), [
    pytest.param(*one, id=f"{one[1]} {one[0]}") for one in operations()
])  # fmt: skip
def test_what_a_handler_reads_is_told_and_what_is_told_is_read(pattern, method, handler, told, document, common):
    reading = Reading().follow(handler)
    named = parameters(told, document)
    assert (reading.headers | common) - TOLD_OTHERWISE.keys() == named["header"], pattern
    assert reading.query == named["query"], pattern
    statuses = {status for status in reading.statuses if (pattern, status) not in NEVER}
    assert statuses <= {int(status) for status in told["responses"]}, pattern


def test_it_finds_what_is_read_behind_several_calls():
    acumos, uploads = (next(r for r in routes() if r.pattern == path) for path in ("/transformCSVDefault", "/model"))
    assert isinstance(acumos.endpoints["POST"].handler.func.__self__, Acumos)
    found = Reading().follow(acumos.endpoints["POST"].handler)
    assert found.query == {"operation", "errors", "model"}
    assert {"accept", "x-routing-key", "content-type"} <= found.headers
    assert {400, 406, 408, 413, 415} <= found.statuses
    assert isinstance(uploads.endpoints["PUT"].handler.__self__, AcumosUploads)
    assert Reading().follow(uploads.endpoints["PUT"].handler).query == {"proto", "model"}
