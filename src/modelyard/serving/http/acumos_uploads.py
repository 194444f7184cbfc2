"""Uploads of Acumos clients: parts of a candidate for the slot, and models that serve one request alone."""

from __future__ import annotations

import asyncio
import importlib
import re
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from modelyard.errors import ContractError, RefusedError
from modelyard.files import write_atomically
from modelyard.serving.asking import Staged, StagePart
from modelyard.serving.http.acumos import ANSWERS, OCTETS, PREFIXES, PROTO_BYTES, by_rows, parsed, query_of
from modelyard.serving.http.forms import open_form
from modelyard.serving.http.negotiation import acceptable
from modelyard.serving.http.origin import http_origin
from modelyard.serving.http.routing import Answering, Endpoint, Request, Response, Route
from modelyard.serving.inference import Inference
from modelyard.serving.isolation import Isolation
from modelyard.serving.liaison import Liaison
from modelyard.serving.loading import JSON
from modelyard.serving.problems import HttpProblem, problem_of
from modelyard.serving.sandbox import SandboxLostError, SandboxRefusedError

if TYPE_CHECKING:
    from modelyard.serving.http.acumos_calls import Kind

__all__ = ["AcumosUploads", "read_configuration"]

CONFIGURATION_BYTES = 64 * 1024
BROUGHT = "(brought)"
"""What metrics call the model that a request brings; no slot can have this name."""
_KEYS = {
    "name": "model", "model": "model", "modelname": "model",
    "operation": "operation", "method": "operation", "modelmethod": "operation",
    "inputtype": "input_type", "modelinputtype": "input_type",
    "classes": "classes",
}  # fmt: skip
"""Keys of a configuration, in lower case, and what each says; any other is left out, and told."""
_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|.)", re.DOTALL)
_ESCAPES = {"t": "\t", "n": "\n", "r": "\r", "f": "\f"}


class AcumosUploads:
    """Takes models, proto files and configurations.

    Args:
        inference: Of this worker.
        liaison: Asks the supervisor.
        folder: Of uploads.
        explicit: Whether clients say what is served.
    """

    def __init__(self, inference: Inference, liaison: Liaison, folder: Path, *, explicit: bool) -> None:
        self._inference = inference
        self._liaison = liaison
        self._incoming = folder / "incoming"
        self._explicit = explicit
        self._isolation = Isolation(folder / "work", inference.limits.sandbox)
        self._uploading = 0

    @property
    def routes(self) -> tuple[Route, ...]:
        """At the root and under `/modelrunner`, with the older names."""
        puts: dict[str, Callable[[Request], Answering]] = {
            "/model": self.put_model,
            "/putModel": self.put_model,
            "/proto": self.put_proto,
            "/putProto": self.put_proto,
            "/model/configuration": self.put_configuration,
            "/putModelConfig": self.put_configuration,
        }
        posts: dict[str, Callable[[Request], Answering]] = {
            "/transformCSV": partial(self.transform, kind="csv"),
            "/transform": partial(self.transform, kind="csv"),
            "/transformJSON": partial(self.transform, kind="json"),
        }
        routes = [(path, {"PUT": Endpoint(do, "load"), "POST": Endpoint(do, "load")}) for path, do in puts.items()]
        routes += [(path, {"POST": Endpoint(do, "infer")}) for path, do in posts.items()]
        return tuple(Route(prefix + path, endpoints) for prefix in PREFIXES for path, endpoints in routes)

    async def put_model(self, request: Request) -> Response:
        """Stage a model: a package as a zip file, or an ONNX file; `proto=own` takes a package's own proto file."""
        self._check_explicit()
        proto = query_of(request, "proto")
        if proto not in (None, "own"):
            raise HttpProblem(400, "malformed", "The parameter proto can't be followed.", remedy="Send proto=own.")
        with self._place():
            async with self._form(request, {}) as form:
                return await self._stage(request, "model", form.file("model"), own_proto=proto == "own")

    async def put_proto(self, request: Request) -> Response:
        """Stage a proto file."""
        self._check_explicit()
        with self._inference.admitted():
            async with self._small_form(request, {"proto": PROTO_BYTES}) as form:
                text = form.part("proto")
            schema = await parsed(text, self._inference.log, request)
            if not schema.operations:
                raise ContractError(
                    "The proto file has no operation.",
                    where="part 'proto'",
                    remedy="Declare a service with an rpc that does not stream.",
                )
            return await self._stage(request, "proto", await self._written(text))

    async def put_configuration(self, request: Request) -> Response:
        """Stage a configuration."""
        self._check_explicit()
        with self._inference.admitted():
            async with self._small_form(request, {"modelConfig": CONFIGURATION_BYTES}) as form:
                form.part("modelConfig")
                wishes, ignored = read_configuration(form.text("modelConfig") or "")
            file = await self._written(msgspec.json.encode(wishes))
            return await self._stage(request, "configuration", file, ignored=ignored)

    async def transform(self, request: Request, *, kind: Kind) -> Response:
        """Answer a file by the model and the proto file that came with it; the slot is not touched."""
        wanted = acceptable(request.header("accept"), ANSWERS, OCTETS)
        name = "csvFile" if kind == "csv" else "jsonFile"
        with self._counted(), self._place():
            async with self._form(request, {name: self._inference.limits.body_bytes, "operation": 1024}) as form:
                proto, body, upload = form.part("proto"), form.part(name), form.file("model")
                operation = query_of(request, "operation") or form.text("operation") or None
                schema = await parsed(proto, self._inference.log, request)
                _calls().find_operation(schema, operation)
                ask = {
                    "kind": kind, "operation": operation, "wanted": wanted, "by_rows": by_rows(request, kind),
                    "max_rows": self._inference.limits.rows,
                }  # fmt: skip
                headers, answer = await self._isolated(request, upload, proto, ask, body)
        return Response(200, [("content-type", wanted), *headers], answer)

    async def _isolated(
        self, request: Request, upload: Path, proto: bytes, ask: dict[str, Any], body: bytes
    ) -> tuple[list[tuple[str, str]], bytes]:
        try:
            return await self._isolation.answer(upload, proto, ask, body)
        except SandboxLostError as error:
            self._inference.log.error("upload-lost", request=request.id, reason=error.what)
            raise HttpProblem(422, "upload", error.what, remedy=error.remedy) from error
        except SandboxRefusedError as error:
            failure = error.failure
            if error.status >= 500:
                self._inference.log.error("upload-failed", request=request.id, reason=failure.what)
                raise HttpProblem(
                    500, "internal", "The model could not answer.", remedy="The service's log has the reason."
                ) from error
            raise HttpProblem(
                error.status, failure.code, failure.what, where=failure.where or None, remedy=failure.remedy or None
            ) from error

    @contextmanager
    def _counted(self) -> Iterator[None]:
        """Count a request that brings its own model among the predictions, under a name that no slot has."""
        started, status = time.perf_counter(), 499
        try:
            yield
            status = 200
        except Exception as error:
            status = problem_of(error).status
            raise
        finally:
            self._inference.metrics.answered(BROUGHT, "", status, time.perf_counter() - started)

    @contextmanager
    def _place(self) -> Iterator[None]:
        """Hold one of the few places for uploads of models: they take room on the disk, and time."""
        most = self._inference.limits.uploads
        if self._uploading >= most:
            raise HttpProblem(
                429, "busy", f"More than {most} uploads are in flight.", remedy="Try again.",
                headers=(("retry-after", "1"),),
            )  # fmt: skip
        with self._inference.admitted():
            self._uploading += 1
            try:
                yield
            finally:
                self._uploading -= 1

    def _form(self, request: Request, small: dict[str, int]) -> Any:
        limits = self._inference.limits
        proto = {"proto": PROTO_BYTES} if small else {}
        large = {"model": limits.upload_bytes}
        return open_form(request, small | proto, large, self._incoming, patience=limits.body_seconds)

    def _small_form(self, request: Request, small: dict[str, int]) -> Any:
        return open_form(request, small, patience=self._inference.limits.body_seconds)

    async def _written(self, content: bytes) -> Path:
        file = self._incoming / secrets.token_hex(16)
        await asyncio.to_thread(write_atomically, file, content, 0o600)
        return file

    async def _stage(
        self, request: Request, part: Literal["model", "proto", "configuration"], file: Path, *,
        own_proto: bool = False, ignored: tuple[str, ...] = (),
    ) -> Response:  # fmt: skip
        asked = StagePart(part, file.name, query_of(request, "model"), own_proto)
        reply = await self._liaison.ask(asked, http_origin(request))
        if not isinstance(reply, Staged):
            raise RuntimeError("the supervisor answers something else")
        if reply.refused is not None:
            failure = reply.refused
            raise HttpProblem(
                reply.status, failure.code, failure.what, where=failure.where or None, remedy=failure.remedy or None
            )
        told: dict[str, Any] = {"status": "ok"}
        if reply.swapped is None:
            told |= {"staged": reply.staged, "missing": reply.missing}
        else:
            swapped = reply.swapped
            told |= {
                "model": swapped.model, "version": swapped.version, "generation": swapped.generation,
                "package": swapped.package,
            }  # fmt: skip
        if reply.unfit:
            told["unfit"] = reply.unfit
        if ignored:
            told["ignored"] = ignored
        return Response(200, [("content-type", JSON)], msgspec.json.encode(told))

    def _check_explicit(self) -> None:
        if not self._explicit:
            raise RefusedError(
                "This service serves what is released; nothing can be uploaded to it.",
                remedy="Release the version that you want.",
            )


def read_configuration(text: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return what a configuration wishes for, and the keys that mean nothing here.

    Args:
        text: A JSON object of texts, or Java properties.

    Raises:
        HttpProblem: 400, it is neither, or a value is impossible.
    """
    given = _read_json(text) if text.lstrip().startswith("{") else _read_properties(text)
    if any(0xD800 <= ord(letter) < 0xE000 for pair in given.items() for part in pair for letter in part):
        raise HttpProblem(400, "malformed", "The configuration has half a character.")
    wishes: dict[str, Any] = {}
    ignored = []
    for key, value in given.items():
        known = _KEYS.get(key.lower())
        if known is None:
            ignored.append(key[:80])
        elif value:
            wishes[known] = value
    kind = wishes.get("input_type", "CSV").upper()
    if kind not in ("CSV", "JSON"):
        raise HttpProblem(400, "malformed", "The input type is neither CSV nor JSON.", where="modelInputType")
    if "input_type" in wishes:
        wishes["input_type"] = kind
    if "classes" in wishes:
        wishes["classes"] = [label.strip() for label in wishes["classes"].split(",")]
    return wishes, tuple(sorted(ignored)[:50])


def _read_json(text: str) -> dict[str, str]:
    try:
        given: dict[str, Any] = msgspec.json.decode(text, type=dict[str, Any])
    except (msgspec.MsgspecError, RecursionError) as error:
        raise HttpProblem(400, "malformed", f"The configuration is no JSON object: {error}.") from None
    return {key: _as_text(value) for key, value in given.items()}


def _as_text(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(map(_as_text, value))
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _read_properties(text: str) -> dict[str, str]:
    """Read the format of `java.util.Properties.load`."""
    found: dict[str, str] = {}
    for line in re.sub(r"(?<!\\)((?:\\\\)*)\\\r?\n[ \t]*", r"\1", text).splitlines():
        line = line.strip()
        if not line or line[0] in "#!":
            continue
        match = re.match(r"((?:\\.|[^\\=:\s])+)\s*[=:\s]?\s*(.*)", line)
        if match is None:
            raise HttpProblem(400, "malformed", "The configuration has a line without a key.", where=line[:40])
        found[_unescaped(match[1])] = _unescaped(match[2])
    return found


def _unescaped(text: str) -> str:
    def one(match: re.Match[str]) -> str:
        code = match[1]
        if len(code) == 5:
            return chr(int(code[1:], 16))
        return _ESCAPES.get(code, code)

    return _ESCAPE.sub(one, text)


def _calls() -> Any:
    return importlib.import_module("modelyard.serving.http.acumos_calls")
