"""What a description of the HTTP interface tells of the Acumos model runner's paths."""

from __future__ import annotations

from modelyard.serving.http.acumos import ANSWERS, METHOD_KINDS, TEXT
from modelyard.serving.http.schemas import Schema, reference
from modelyard.serving.http.telling import BODY, MODEL_HEADERS, ROUTED, Told, answer
from modelyard.serving.loading import JSON

__all__ = ["acumos_told"]

_TAG = "Acumos model runner"
_TEXT: Schema = {"type": "string"}
_BINARY: Schema = {"type": "string", "format": "binary"}
_CONFIGURATION: Schema = {
    **_BINARY,
    "description": "A JSON object of texts, or Java properties: `modelName`, `modelMethod`, `modelInputType` (CSV or "
    "JSON), `classes`; any other key is left out, and told in the answer. At most 64 KiB.",
}
_PROTO: Schema = {**_BINARY, "description": "A proto file, in UTF-8: at most 256 KiB."}
_PARTS = {"csvFile": _BINARY, "jsonFile": _BINARY, "model": _BINARY, "proto": _PROTO, "modelConfig": _CONFIGURATION}

_FORMS = {
    "/getBinaryDefault": ("csvFile",),
    "/getBinary": ("csvFile", "proto"),
    "/getBinaryJSONDefault": ("jsonFile",),
    "/getBinaryJSON": ("jsonFile", "proto"),
    "/transformCSVDefault": ("csvFile",),
    "/transformDefault": ("csvFile",),
    "/transformJSONDefault": ("jsonFile",),
    "/transformCSV": ("csvFile", "model", "proto"),
    "/transform": ("csvFile", "model", "proto"),
    "/transformJSON": ("jsonFile", "model", "proto"),
    "/model": ("model",),
    "/putModel": ("model",),
    "/proto": ("proto",),
    "/putProto": ("proto",),
    "/model/configuration": ("modelConfig",),
    "/putModelConfig": ("modelConfig",),
}
"""By path, the parts that its form must have."""

_OLDER = ("/transform", "/transformDefault", "/putModel", "/putProto", "/putModelConfig")
_MESSAGES: dict[str, Schema] = {kind: {} for kind in METHOD_KINDS[:-1]} | {JSON: {"schema": {"type": "object"}}}
_ANSWERED = (*BODY, 404, 406, 422, 429)


def acumos_told(pattern: str, method: str) -> Told:
    """Return what is told of a path of the Acumos model runner; messages are told of by the model's own proto.

    Args:
        pattern: Of its route.
        method: Its method.
    """
    if method == "GET":
        return _document(pattern)
    if "{operation}" in pattern:
        return _called(pattern)
    parts = _FORMS[pattern]
    if "csvFile" in parts or "jsonFile" in parts:
        return _file(pattern, parts)
    return _upload(pattern, parts)


def _document(pattern: str) -> Told:
    is_metadata = pattern.endswith("metadata")
    content: Schema = {JSON: {"schema": {"type": "object"}}} if is_metadata else {TEXT: {"schema": _TEXT}}
    what = "The package's `metadata.json`." if is_metadata else "The text of `model.proto`."
    answers = {"200": answer(what, content, *MODEL_HEADERS)}
    return Told(_TAG, answers, ("ModelName",), None, (400, 404, 422, 429, 503))


def _called(pattern: str) -> Told:
    named = "{name}" in pattern
    return Told(
        _TAG,
        {"200": answer("The operation's output message.", _MESSAGES, *MODEL_HEADERS)},
        (*ROUTED, "ContentEncoding") if named else (*ROUTED, "ContentEncoding", "ModelName"),
        {"content": _MESSAGES, "description": "The operation's input message."},
        (*BODY, 404, 406, 422, 429, 503),
        deprecated=pattern.startswith("/operation"),
    )


def _file(pattern: str, parts: tuple[str, ...]) -> Told:
    brings = "proto" in parts
    is_csv = "csvFile" in parts
    what = "The input message of the rows." if pattern.startswith("/getBinary") else "The output message."
    content: Schema = {kind: {} for kind in ANSWERS if kind != JSON} | {JSON: {"schema": {"type": "object"}}}
    headers = (() if brings else MODEL_HEADERS) + (("x-rows-refused",) if is_csv else ())
    return Told(
        _TAG,
        {"200": answer(what, content, *headers)},
        ("Operation", "RowErrors" if is_csv else "Errors", *(() if brings else (*ROUTED, "ModelName"))),
        _form({name: _PARTS[name] for name in parts} | {"operation": _TEXT}, parts),
        _ANSWERED if brings else (*_ANSWERED, 503),
        deprecated=pattern in _OLDER,
    )


def _upload(pattern: str, parts: tuple[str, ...]) -> Told:
    more = ("OwnProto",) if parts == ("model",) else ()
    staged = answer("It waits for other parts, or the set is served.", {JSON: {"schema": reference("Staged")}})
    problems = (*BODY, 409, 422, 429, 503)
    form = _form({name: _PARTS[name] for name in parts}, parts)
    return Told(_TAG, {"200": staged}, ("ModelName", *more), form, problems, deprecated=pattern in _OLDER)


def _form(properties: Schema, required: tuple[str, ...]) -> Schema:
    schema = {"type": "object", "properties": properties, "required": [*required]}
    return {"required": True, "content": {"multipart/form-data": {"schema": schema}}}
