"""The interface described in OpenAPI 3.1 (https://spec.openapis.org/oas/v3.1.1), from the contracts that are live.

A document is made when it is first asked for, and kept as long as the same generations are live.
"""

from __future__ import annotations

import asyncio
import functools
import html
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version as version_of
from typing import Any
from urllib.parse import quote

import msgspec

from modelyard.serving.auth.spec import AuthSpec, TlsSpec
from modelyard.serving.http.components import HEADERS, PARAMETERS, common_schemas, problem_name, problems
from modelyard.serving.http.operations import LEFT_OUT, told_of
from modelyard.serving.http.routing import Endpoint, Request, Response, Route
from modelyard.serving.http.schemas import Model, Schema, component, reference
from modelyard.serving.http.telling import EVERY, problems_of
from modelyard.serving.inference import Inference, model_missing
from modelyard.serving.loading import JSON

__all__ = ["OpenApi", "Security", "document_of"]

DIALECT = "3.1.1"
PAGE_HEADERS = (
    ("content-type", "text/html; charset=utf-8"),
    ("content-security-policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"),
)
_VARIABLE = re.compile(r"\{([a-z_]+)\}")
_EXAMPLES = {"label": "stable"}


@dataclass(frozen=True)
class Security:
    """How clients prove who they are.

    Args:
        keys: Whether API keys count.
        tokens: Whether tokens of an issuer count.
        certificates: Whether a connection needs a client's certificate.
    """

    keys: bool = False
    tokens: bool = False
    certificates: bool = False

    @classmethod
    def of(cls, auth: AuthSpec | None, tls: TlsSpec | None) -> Security:
        """Return what a service was told."""
        return cls(
            auth is not None and auth.keys is not None,
            auth is not None and auth.issuer is not None,
            tls is not None and tls.client_ca is not None,
        )

    @property
    def on(self) -> bool:
        """Whether credentials are asked for."""
        return self.keys or self.tokens

    def schemes(self) -> dict[str, Schema]:
        """Return the security schemes."""
        found: dict[str, Schema] = {}
        if self.on:
            kinds = [name for name, counts in (("API key", self.keys), ("JWT", self.tokens)) if counts]
            found["bearer"] = {"type": "http", "scheme": "bearer", "bearerFormat": " or ".join(kinds)}
        if self.keys:
            found["apiKey"] = {"type": "apiKey", "in": "header", "name": "X-API-Key"}
        if self.certificates:
            found["certificate"] = {"type": "mutualTLS"}
        return found

    def required(self, access: str) -> list[Schema]:
        """Return what an operation asks for, any one of several."""
        beside: Schema = {"certificate": []} if self.certificates else {}
        ways = [{name: [access]} for name in self.schemes() if name != "certificate"] if access != "public" else []
        return [{**way, **beside} for way in ways] or ([beside] if beside else [])


class OpenApi:
    """Answers with descriptions of the interface.

    Args:
        inference: Of the worker.
        routes: Of every surface; its own are added.
        security: How clients prove who they are.
    """

    def __init__(self, inference: Inference, routes: Sequence[Route], security: Security) -> None:
        self._inference = inference
        self._routes = (*routes, *self.routes)
        self._security = security
        self._kept: dict[tuple[str, str], tuple[tuple[Any, ...], bytes]] = {}

    @property
    def routes(self) -> tuple[Route, ...]:
        """The documents, and a page for people."""
        return (
            Route("/openapi.json", {"GET": Endpoint(self.all, "read")}),
            Route("/v1/models/{name}/openapi.json", {"GET": Endpoint(self.one, "read")}),
            Route("/docs", {"GET": Endpoint(self.page, "read")}),
        )

    async def all(self, _request: Request) -> Response:
        """Describe the whole interface in OpenAPI 3.1."""
        return Response(200, [("content-type", JSON)], await self._document("", msgspec.json.encode))

    async def one(self, request: Request) -> Response:
        """Describe in OpenAPI 3.1 how one model is asked."""
        return Response(200, [("content-type", JSON)], await self._document(request.parameters[0], msgspec.json.encode))

    async def page(self, _request: Request) -> Response:
        """Describe the whole interface on a page for people."""
        return Response(200, list(PAGE_HEADERS), await self._document("", _page))

    async def _document(self, name: str, write: Callable[[Any], bytes]) -> bytes:
        models = self._live(name)
        key = tuple((model.name, model.generation) for model in models)
        place = (name, write.__name__)
        kept = self._kept.get(place)
        if kept is None or kept[0] != key:
            make = functools.partial(document_of, self._routes, models, self._security, one=bool(name))
            text = await asyncio.get_running_loop().run_in_executor(None, lambda: write(make()))
            kept = self._kept[place] = (key, text)
        return kept[1]

    def _live(self, name: str) -> tuple[Model, ...]:
        slots = self._inference.slots
        chosen = [self._inference.slot(name)] if name else [slots[found] for found in sorted(slots)]
        models = []
        for slot in chosen:
            generation = slot.committed
            if generation is not None:
                served = generation.served
                models.append(Model(slot.name, generation.version, generation.number, served.contract, served.golden))
            elif name:
                raise model_missing(slot)
        return tuple(models)


def document_of(
    routes: Sequence[Route], models: Sequence[Model], security: Security, *, one: bool = False
) -> dict[str, Any]:
    """Return an OpenAPI document; the same for the same arguments, to the byte.

    Args:
        routes: What is described. What names a model stands there once for each; without models, with its variable.
        models: That are live.
        security: How clients prove who they are.
        one: Whether only paths that name a model are told of.
    """
    paths: dict[str, Schema] = {}
    for route in routes:
        if any(route.pattern.startswith(prefix) for prefix, _ in LEFT_OUT):
            continue
        if route.model is None:
            if not one:
                paths[route.pattern] = _path(route, None, security)
        else:
            for model in models or (None,):
                name = quote(model.name, safe="") if model is not None else "{name}"
                paths[route.pattern.replace("{name}", name)] = _path(route, model, security)
    document = {
        "openapi": DIALECT,
        "info": _info(models, one=one),
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": _schemas(models),
            "responses": problems(),
            "parameters": PARAMETERS,
            "headers": HEADERS,
            "securitySchemes": security.schemes(),
        },
    }
    return _only_what_is_used(document)


def _info(models: Sequence[Model], *, one: bool) -> Schema:
    served = ", ".join(f"{model.name} {model.version}" for model in models) or "nothing yet"
    return {
        "title": models[0].name if one and models else "Modelyard service",
        "version": models[0].version if one and models else version_of("modelyard"),
        "description": f"Served: {served}. GET is answered for HEAD, too. Errors are problem documents (RFC 9457).",
    }


def _path(route: Route, model: Model | None, security: Security) -> Schema:
    parameters = [name for name in _VARIABLE.findall(route.pattern) if model is None or name != "name"]
    told: Schema = {}
    if parameters:
        told["parameters"] = [_variable(name, model) for name in parameters]
    for method, endpoint in route.endpoints.items():
        told[method.lower()] = _operation(route.pattern, method, endpoint, model, security)
    return told


def _variable(name: str, model: Model | None) -> Schema:
    examples = _EXAMPLES | ({"version": model.version, "operation": model.contract.operation} if model else {})
    told = {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
    return told | ({"example": examples[name]} if name in examples else {})


def _operation(pattern: str, method: str, endpoint: Endpoint, model: Model | None, security: Security) -> Schema:
    told = told_of(pattern, method, model)
    place = pattern.replace("{name}", component(model.name)) if model is not None else pattern
    operation: Schema = {
        "operationId": method.lower() + re.sub(r"[^A-Za-z0-9.-]+", "_", place).rstrip("_"),
        "tags": [told.tag],
        "summary": _summary(endpoint.handler),
        "x-access": endpoint.access,
        "parameters": [reference(name, "parameters") for name in (*told.parameters, *EVERY)],
    }
    if told.deprecated:
        operation["deprecated"] = True
    if told.body is not None:
        operation["requestBody"] = told.body
    operation["responses"] = {
        **told.answers,
        **{
            str(status): reference(problem_name(pattern, status), "responses")
            for status in problems_of(endpoint.access, told, secured=security.on)
        },
    }
    operation["security"] = security.required(endpoint.access)
    return operation


def _summary(handler: Any) -> str:
    text = getattr(handler, "func", handler).__doc__ or ""
    return str(text).partition("\n")[0].rstrip(".")


def _schemas(models: Sequence[Model]) -> dict[str, Schema]:
    found: dict[str, Schema] = {}
    for model in models:
        found |= model.schemas()
    return found | common_schemas()


def _only_what_is_used(document: dict[str, Any]) -> dict[str, Any]:
    """Leave out components that nothing refers to."""
    components = document["components"]
    used: set[tuple[str, str]] = set()
    todo: list[Any] = [document["paths"]]
    while todo:
        part = todo.pop()
        if isinstance(part, list):
            todo += part
        elif isinstance(part, dict):
            target = part.get("$ref")
            if isinstance(target, str):
                kind, name = target.removeprefix("#/components/").split("/", 1)
                if (kind, name) not in used:
                    used.add((kind, name))
                    todo.append(components[kind][name])
            todo += part.values()
    for kind, members in components.items():
        if kind != "securitySchemes":
            components[kind] = {name: member for name, member in members.items() if (kind, name) in used}
    document["components"] = {kind: members for kind, members in components.items() if members}
    return document


def _page(document: dict[str, Any]) -> bytes:
    """Return a document as a page: a table of its operations, and no script."""
    rows = []
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            if method == "parameters":
                continue
            kinds = operation.get("requestBody", {}).get("content", {})
            cells = (operation["tags"][0], method.upper(), path, operation["summary"], operation["x-access"])
            rows.append(
                "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in (*cells, ", ".join(kinds))) + "</tr>"
            )
    info = {name: html.escape(text) for name, text in document["info"].items()}
    heads = "".join(f"<th>{head}</th>" for head in ("surface", "method", "path", "what", "access", "body"))
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>{info['title']}</title><style>body{{font:15px system-ui;margin:2rem}}table{{border-collapse:collapse}}"
        "td,th{text-align:left;padding:.3rem .8rem;border-bottom:1px solid #ccc}"
        "td:nth-child(2),td:nth-child(3){font-family:monospace}</style>"
        f"<h1>{info['title']}</h1><p>{info['description']}</p>"
        "<p>The same in <a href=openapi.json>OpenAPI 3.1</a>, with the schemas of all bodies.</p>"
        f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table></html>"
    ).encode()
