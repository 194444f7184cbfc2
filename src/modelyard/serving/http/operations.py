"""What a description of the HTTP interface tells of each operation beyond its path, method, access and docstring."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from modelyard.serving.http.acumos_operations import acumos_told
from modelyard.serving.http.openinference import OCTETS
from modelyard.serving.http.schemas import Model, Schema, csv_header, described_columns, reference
from modelyard.serving.http.telling import BODY, MODEL_HEADERS, ROUTED, Told, answer
from modelyard.serving.loading import ARROW, CSV, JSON, PARQUET
from modelyard.serving.metrics import CONTENT_TYPE

__all__ = ["LEFT_OUT", "told_of"]

TEXT: Schema = {"type": "string"}

PREDICTION = (*BODY, 404, 406, 422, 429, 503)
CHANGE = (404, 409, 503)

MODELRUNNER = "/modelrunner"
LEFT_OUT: tuple[tuple[str, str], ...] = (
    (MODELRUNNER, "The same as without this prefix, for clients that have it in their address."),
)
"""Prefixes of paths that are not described, and why."""


def told_of(pattern: str, method: str, model: Model | None) -> Told:
    """Return what is told of an operation.

    Args:
        pattern: Of its route.
        method: Its method.
        model: The live model that the path is told of, or None.
    """
    for surface in (_PLAIN, _OPEN_INFERENCE, _MANAGEMENT, _PROBES):
        make = surface.get((method, pattern))
        if make is not None:
            return make(model)
    if pattern.startswith(("/v1", "/v2")) and "/methods/" not in pattern:
        return Told("Other", {"200": {"description": "Done."}}, problems=(*PREDICTION, 409))
    return acumos_told(pattern, method)


def _json(schema: Schema, **more: Any) -> Schema:
    return {JSON: {"schema": schema, **more}}


def _named(**values: Any) -> Schema:
    """Return examples by name; none of those without a value."""
    found = {name.replace("_", " "): {"value": value} for name, value in values.items() if value is not None}
    return {"examples": found} if found else {}


def _predict(model: Model | None) -> Told:
    if model is None:
        body: Schema = {JSON: {"schema": {"type": ["object", "array"]}}, CSV: {"schema": TEXT}, ARROW: {}, PARQUET: {}}
        given: Schema = {JSON: {"schema": {"type": "object"}}, CSV: {"schema": TEXT}, ARROW: {}, PARQUET: {}}
    else:
        examples = model.examples()
        rows, columns, text = (examples.get(name, (None, None)) for name in ("rows", "columns", "csv"))
        inputs, outputs = model.contract.inputs, model.contract.outputs
        body = {
            **_json(reference(model.part("Request")), **_named(by_rows=rows[0], by_columns=columns[0])),
            CSV: {"schema": {**TEXT, "description": csv_header(inputs)}, **_named(by_rows=text[0])},
            ARROW: {"x-columns": described_columns(inputs)},
            PARQUET: {"x-columns": described_columns(inputs)},
        }
        given = {
            **_json(reference(model.part("Answer")), **_named(by_rows=rows[1], by_columns=columns[1])),
            CSV: {"schema": {**TEXT, "description": csv_header(outputs)}, **_named(by_rows=text[1])},
            ARROW: {"x-columns": described_columns(outputs)},
            PARQUET: {"x-columns": described_columns(outputs)},
        }
    return Told(
        "Predictions",
        {"200": answer("What the model says, in the media type that `Accept` prefers.", given, *MODEL_HEADERS)},
        (*ROUTED, "ContentEncoding"),
        {"required": True, "content": body, "description": "May be compressed by gzip or deflate."},
        PREDICTION,
    )


def _infer(model: Model | None) -> Told:
    examples = model.examples().get("tensors", (None, None)) if model is not None else (None, None)
    asked = reference(model.part("InferRequest")) if model is not None else {"type": "object"}
    answered = reference(model.part("InferAnswer")) if model is not None else {"type": "object"}
    raw = {"description": "JSON, and raw little-endian tensors behind it."}
    return Told(
        "Open Inference Protocol",
        {
            "200": answer(
                "What the model says.",
                {**_json(answered, **_named(tensors=examples[1])), OCTETS: {"schema": raw}},
                *MODEL_HEADERS,
            )
        },
        (*ROUTED, "ContentEncoding", "HeaderLength"),
        {
            "required": True,
            "content": {**_json(asked, **_named(tensors=examples[0])), OCTETS: {"schema": raw}},
            "description": "May be compressed by gzip or deflate.",
        },
        PREDICTION,
    )


def _simple(
    tag: str, schema: Schema, *, body: Schema | None = None, problems: tuple[int, ...] = (), description: str = "So."
) -> Callable[[Model | None], Told]:
    told = Told(tag, {"200": answer(description, _json(schema))}, ("ContentEncoding",) if body else (), body, problems)
    return lambda _model: told


def _body(name: str, *, required: bool = True, **examples: Any) -> Schema:
    return {"required": required, "content": _json(reference(name), **_named(**examples))}


def _load(model: Model | None) -> Told:
    example = {"parameters": {"version": model.version}} if model is not None else None
    return Told(
        _OIP,
        {"200": answer("It is served.", _json(_EMPTY))},
        ("ContentEncoding",),
        _body("LoadRequest", required=False, the_live_version=example),
        (*BODY, *CHANGE, 422),
    )


def _model_ready(_model: Model | None) -> Told:
    content = _json(reference("ModelReady"))
    return Told(_OIP, {"200": answer("Ready.", content), "404": answer("Not ready.", content)})


def _server_ready(_model: Model | None) -> Told:
    content = _json(reference("ServerReady"))
    return Told(_OIP, {"200": answer("Ready.", content), "503": answer("Not ready.", content)})


def _probe_ready(_model: Model | None) -> Told:
    content = _json(reference("Status"))
    later = answer("Not ready.", content, "retry-after")
    return Told(_HEALTH, {"200": answer("Ready.", content), "503": later})


def _metrics(_model: Model | None) -> Told:
    return Told(_HEALTH, {"200": answer("Metrics of all workers.", {CONTENT_TYPE: {"schema": TEXT}})})


def _page(_model: Model | None) -> Told:
    content = {"text/html; charset=utf-8": {"schema": TEXT}}
    return Told(_DESCRIPTION, {"200": answer("A page.", content)})


_OIP = "Open Inference Protocol"
_HEALTH = "Health and metrics"
_MANAGE = "Management"
_DESCRIPTION = "Descriptions"
_EMPTY: Schema = {"type": "object", "maxProperties": 0}
_V1, _V2 = "/v1/models/{name}", "/v2/models/{name}"
_PINNED = _V2 + "/versions/{version}"
_REPOSITORY = "/v2/repository/models/{name}"
_STANDING = (*CHANGE, 400)

Table = Mapping[tuple[str, str], Callable[[Model | None], Told]]

_PLAIN: Table = {
    ("POST", f"{_V1}/predict"): _predict,
    ("POST", _V1 + "/versions/{version}/predict"): _predict,
    ("POST", _V1 + "/labels/{label}/predict"): _predict,
    ("GET", _V1): _simple("Predictions", reference("ModelDescription"), problems=(404, 503)),
    ("GET", "/v1/models"): _simple("Predictions", reference("Models")),
    ("GET", f"{_V1}/openapi.json"): _simple(_DESCRIPTION, {"type": "object"}, problems=(404, 503)),
    ("GET", "/openapi.json"): _simple(_DESCRIPTION, {"type": "object"}),
    ("GET", "/docs"): _page,
}

_OPEN_INFERENCE: Table = {
    ("POST", f"{_V2}/infer"): _infer,
    ("POST", f"{_PINNED}/infer"): _infer,
    ("GET", f"{_V2}/ready"): _model_ready,
    ("GET", f"{_PINNED}/ready"): _model_ready,
    ("GET", _V2): _simple(_OIP, reference("ModelMetadata"), problems=(404, 503)),
    ("GET", _PINNED): _simple(_OIP, reference("ModelMetadata"), problems=(404, 503)),
    ("GET", "/v2"): _simple(_OIP, reference("ServerMetadata")),
    ("GET", "/v2/health/live"): _simple(_OIP, reference("ServerLive")),
    ("GET", "/v2/health/ready"): _server_ready,
    ("POST", "/v2/repository/index"): _simple(
        _OIP,
        {"type": "array", "items": reference("RepositoryEntry")},
        body=_body("IndexRequest", required=False, all={}, what_is_served={"ready": True}),
        problems=(*BODY, 503),
    ),
    ("POST", f"{_REPOSITORY}/load"): _load,
    ("POST", f"{_REPOSITORY}/unload"): _simple(
        _OIP, _EMPTY, body=_body("UnloadRequest", required=False), problems=(*BODY, *CHANGE)
    ),
}

_MANAGEMENT: Table = {
    ("GET", f"{_V1}/status"): _simple(_MANAGE, reference("SlotStatus"), problems=(404, 503)),
    **{
        (method, f"{_V1}/{path}"): _simple(_MANAGE, reference("SlotStatus"), problems=_STANDING)
        for method, path in (
            ("POST", "rollback"),
            ("POST", "canary/promote"),
            ("DELETE", "canary"),
            ("DELETE", "shadow"),
            ("DELETE", "labels/{label}"),
        )
    },
    **{
        ("PUT", f"{_V1}/{path}"): _simple(
            _MANAGE, reference("SlotStatus"), body=_body(name), problems=(*BODY, *CHANGE, 422)
        )
        for path, name in (("canary", "Canary"), ("shadow", "Shadow"), ("labels/{label}", "Label"))
    },
}

_PROBES: Table = {
    ("GET", "/healthz"): _simple(_HEALTH, reference("Status")),
    ("GET", "/readyz"): _probe_ready,
    ("GET", "/metrics"): _metrics,
}
