"""Components of a description of the HTTP interface that are the same whatever is live."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import msgspec

from modelyard.packages.contract import Contract
from modelyard.serving.asking import RepositoryEntry, SlotStatus
from modelyard.serving.http.management import Beside, Labelled
from modelyard.serving.http.schemas import Schema, reference
from modelyard.serving.problems import OPEN_INFERENCE, media_type_of

__all__ = ["HEADERS", "PARAMETERS", "PROBLEMS", "common_schemas", "problem_name", "problems"]

TEXT: Schema = {"type": "string"}
FLAG: Schema = {"type": "boolean"}

PROBLEMS = {
    400: "The request is malformed.",
    401: "No credentials, or none that count.",
    403: "The credentials don't allow it; or, without authentication, a web page of another origin asked.",
    404: "No such model, version or label is served here.",
    406: "No answer in an accepted media type.",
    408: "The body did not arrive in time; the connection is closed.",
    409: "It can't be done as things stand.",
    413: "Too many bytes or rows.",
    415: "Unknown media type, character set or compression.",
    422: "The body does not fit the model's contract; `where` names the place.",
    429: "Too many requests are in flight.",
    500: "The service failed; its log has the reason under the request's id.",
    503: "Not ready yet.",
    504: "No answer within the time that the client gave.",
}
"""What a problem of each status means."""

HEADERS: dict[str, Schema] = {
    "x-request-id": {"description": "The request's own id, or a new one.", "schema": TEXT, "required": True},
    "x-model": {"description": "Name of the model that answered.", "schema": TEXT, "required": True},
    "x-model-version": {"description": "Its version.", "schema": TEXT, "required": True},
    "x-model-generation": {
        "description": "Number of its generation.",
        "schema": {"type": "string", "pattern": "^[0-9]+$"},
        "required": True,
    },
    "x-rows-refused": {
        "description": "Rows that were left out, counted from 0 and separated by commas; only with `errors=rows`.",
        "schema": {"type": "string", "pattern": "^[0-9,]*$"},
    },
    "retry-after": {
        "description": "Seconds to wait before the next try.",
        "schema": {"type": "string", "pattern": "^[0-9]+$"},
        "required": True,
    },
    "www-authenticate": {"description": "Which credentials are wanted.", "schema": TEXT, "required": True},
}

PARAMETERS: dict[str, Schema] = {
    "RequestId": {
        "name": "x-request-id",
        "in": "header",
        "description": "Names the request in the log: at most 64 letters, digits or `._:-`; another is replaced.",
        "schema": TEXT,
    },
    "RequestTimeout": {
        "name": "x-request-timeout",
        "in": "header",
        "description": "Seconds that the client still waits.",
        "schema": {"type": "number", "exclusiveMinimum": 0, "maximum": 3600},
    },
    "RoutingKey": {
        "name": "x-routing-key",
        "in": "header",
        "description": "What the client is known by: while there is a canary, it gets the same of the two each time.",
        "schema": TEXT,
    },
    "HeaderLength": {
        "name": "inference-header-content-length",
        "in": "header",
        "description": "Bytes of the (unpacked) body that are JSON, where raw tensors stand behind it.",
        "schema": {"type": "integer", "minimum": 1},
    },
    "TraceParent": {
        "name": "traceparent",
        "in": "header",
        "description": "The trace that the request belongs to (W3C Trace Context); an invalid one counts as none.",
        "schema": TEXT,
    },
    "TraceState": {
        "name": "tracestate",
        "in": "header",
        "description": "What belongs to `traceparent`; it is passed on.",
        "schema": TEXT,
    },
    "ContentEncoding": {
        "name": "content-encoding",
        "in": "header",
        "description": "How the body is compressed: `gzip` or `deflate`, once.",
        "schema": TEXT,
    },
    "RowErrors": {
        "name": "errors",
        "in": "query",
        "description": "`refuse` refuses the whole file for one row that does not fit; `rows` leaves such rows out and "
        "names them in `x-rows-refused`.",
        "schema": {"enum": ["refuse", "rows"], "default": "refuse"},
    },
    "Errors": {
        "name": "errors",
        "in": "query",
        "description": "`refuse` refuses the whole file for one row that does not fit; only CSV knows another way.",
        "schema": {"enum": ["refuse"], "default": "refuse"},
    },
    "Operation": {
        "name": "operation",
        "in": "query",
        "description": "Of the model; it may be a part of the form instead.",
        "schema": TEXT,
    },
    "OwnProto": {
        "name": "proto",
        "in": "query",
        "description": "`own` takes the proto file in the package, and waits for no other.",
        "schema": {"enum": ["own"]},
    },
    "ModelName": {
        "name": "model",
        "in": "query",
        "description": "Which model, where the service has several.",
        "schema": TEXT,
    },
}
"""Parameters by the name of their component; those of paths are made where the path is."""


def problem_name(path: str, status: int) -> str:
    """Return the component that tells of a problem document which answers a path."""
    return ("OpenInferenceProblem" if path.startswith(OPEN_INFERENCE) else "Problem") + str(status)


def problems() -> dict[str, Schema]:
    """Return the responses that are problem documents: under `/v2` they have another media type."""
    return {problem_name(path, status): _problem(path, status) for status in PROBLEMS for path in ("/", OPEN_INFERENCE)}


def _problem(path: str, status: int) -> Schema:
    beside = {401: ("www-authenticate",), 429: ("retry-after",), 503: ("retry-after",)}.get(status, ())
    schema = reference("OpenInferenceProblem" if path == OPEN_INFERENCE else "Problem")
    return {
        "description": PROBLEMS[status],
        "headers": {name: reference(name, "headers") for name in ("x-request-id", *beside)},
        "content": {media_type_of(path): {"schema": schema}},
    }


@functools.cache
def common_schemas() -> dict[str, Schema]:
    """Return the schemas of bodies that name no model's fields."""
    return _typed() | _open_inference() | _plain()


def _typed() -> dict[str, Schema]:
    kinds = (SlotStatus, RepositoryEntry, Contract, Beside, Labelled)
    _, typed = msgspec.json.schema_components(kinds, ref_template="#/components/schemas/{name}")
    for schema in typed.values():
        if "description" in schema:
            schema["description"] = schema["description"].partition("\n\n")[0]
    beside = typed.pop("Beside")
    shadow = {"properties": {**beside["properties"], "version": TEXT}, "required": ["share_ppm", "version"]}
    return typed | {"Canary": beside, "Shadow": {**beside, **shadow}, "Label": typed.pop("Labelled")}


def _open_inference() -> dict[str, Schema]:
    version = {"type": ["string", "null"]}
    parameters = {"type": "object", "properties": {"version": version}, "additionalProperties": False}
    tensors = {"type": "array", "items": reference("TensorMetadata")}
    shape = {"type": "array", "items": {"type": "integer", "minimum": -1}}
    return {
        "IndexRequest": _object({"ready": FLAG}, required=()),
        "LoadRequest": _object({"parameters": parameters}, required=()),
        "UnloadRequest": _object({"parameters": {"type": "object"}}, required=()),
        "ModelReady": _object({"name": TEXT, "ready": FLAG}),
        "ServerReady": _object({"ready": FLAG}),
        "ServerLive": _object({"live": FLAG}),
        "ServerMetadata": _object({"name": TEXT, "version": TEXT, "extensions": {"type": "array", "items": TEXT}}),
        "TensorMetadata": _object({"name": TEXT, "datatype": TEXT, "shape": shape}),
        "ModelMetadata": _object(
            {
                "name": TEXT,
                "versions": {"type": "array", "items": TEXT},
                "platform": TEXT,
                "inputs": tensors,
                "outputs": tensors,
                "parameters": {"type": "object"},
            }
        ),
    }


def _plain() -> dict[str, Schema]:
    description = {
        "name": TEXT,
        "state": {"enum": ["live", "not loaded"]},
        "version": {"type": ["string", "null"]},
        "generation": {"type": ["integer", "null"]},
        "package": TEXT,
        "contract": reference("Contract"),
    }
    members = {
        "type": {"type": "string", "format": "uri"},
        "title": TEXT,
        "status": {"type": "integer", "minimum": 400, "maximum": 599},
        "detail": TEXT,
        "where": TEXT,
        "remedy": TEXT,
        "request_id": TEXT,
    }
    error = {**TEXT, "description": "The detail, as the protocol has it."}
    required = ("type", "title", "status", "detail", "request_id")
    names = {"type": "array", "items": TEXT}
    staged: dict[str, Schema] = {
        "status": {"const": "ok"},
        "staged": {**names, "description": "Parts that wait."},
        "missing": {**names, "description": "Parts that they wait for."},
        "unfit": {**names, "description": "Operations of the proto file that don't fit the model."},
        "ignored": {**names, "description": "Keys of a configuration that mean nothing here."},
        "model": TEXT,
        "version": TEXT,
        "generation": {"type": "integer", "minimum": 1},
        "package": TEXT,
    }
    return {
        "Staged": _object(staged, required=("status",)),
        "Status": _object({"status": TEXT}),
        "ModelDescription": _object(description, required=("name", "state", "version", "generation")),
        "Models": _object({"models": {"type": "array", "items": reference("ModelDescription")}}),
        "Problem": _object(members, required),
        "OpenInferenceProblem": _object({"error": error, **members}, ("error", *required)),
    }


def _object(properties: dict[str, Schema], required: Sequence[str] | None = None) -> Schema:
    names = list(properties) if required is None else list(required)
    return {"type": "object", "properties": properties, **({"required": names} if names else {})}
