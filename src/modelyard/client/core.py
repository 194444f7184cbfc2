"""Everything that both clients do, without input or output.

Each call is a generator: it yields what a transport shall do (`Send` a request, `Pause`), is given the answer or the
error, and returns the result. The blocking and the asynchronous client only carry out what is yielded, so requests,
answers, errors and retries stand here once.
"""

from __future__ import annotations

import importlib
import re
import sys
import time
import uuid
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

import msgspec
import numpy as np
from numpy.typing import NDArray

from modelyard.client.encoding import ARROW, JSON, Data, Encoding, Named, encode, named, usual
from modelyard.client.errors import (
    ConnectionLostError,
    InvalidRequestError,
    OverloadedError,
    ServerError,
    ServiceError,
    ServiceTimeoutError,
    error_of,
)
from modelyard.client.exchange import Pause, Request, Response, Send
from modelyard.client.paths import model_path, predict_path
from modelyard.client.prediction import Prediction, read_prediction
from modelyard.client.retries import BAD_GATEWAY, UNTRUSTED, Retries
from modelyard.errors import InputError

__all__ = ["Call", "Core"]

T = TypeVar("T")
Call = Generator[Send | Pause, Response | None, T]
"""A call on its way: yields what shall be done, is sent answers, has errors thrown into it, returns the result."""

LONGEST_TIMEOUT = 3600.0
"""What a service takes as `x-request-timeout`."""

UNSUPPORTED_MEDIA_TYPE = 415

PROBE_SECONDS = 5.0
"""How long one look at readiness may take."""

_HEADER = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?")


class _Models(msgspec.Struct):
    models: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class _Prediction:
    """What is asked for, but for the data."""

    path: str
    headers: Mapping[str, str]
    encoding: Encoding | None
    deadline: float


class Core:
    """What is asked of a service, and what its answers mean.

    Args:
        url: Where the service's HTTP interface begins, such as `http://127.0.0.1:8080`.
        api_key: Sent as `X-API-Key`.
        token: Sent as `Authorization: Bearer`.
        timeout: Seconds that a call may take, with all its attempts and pauses.
        retries: When a request is sent again.

    Raises:
        InputError: The URL, a credential or the timeout is impossible.
    """

    def __init__(self, url: str, *, api_key: str | None, token: str | None, timeout: float, retries: Retries) -> None:
        self.url = _checked_url(url)
        self.timeout = timeout
        self.retries = retries
        self._credentials = _credentials(api_key, token)
        self._only_inputs: dict[str, str] = {}
        self._json_only = False
        if not timeout > 0.0:
            raise InputError(f"A timeout of {timeout:g} s is impossible.", remedy="Give more than 0 seconds.")

    def predict(
        self,
        model: str,
        data: Data,
        *,
        version: str | None,
        label: str | None,
        encoding: Encoding | None,
        routing_key: str | None,
        traceparent: str | None,
        timeout: float | None,
    ) -> Call[Prediction]:
        """Predict; see `Client.predict`."""
        deadline = self._deadline(timeout)
        headers = {}
        if routing_key is not None:
            headers["x-routing-key"] = _checked_header("routing key", routing_key)
        headers |= _trace(traceparent)
        asked = _Prediction(predict_path(model, version, label), headers, encoding, deadline)
        given = named(data)
        if not isinstance(given, np.ndarray):
            return (yield from self._predict(asked, given))
        return (yield from self._predict_array(model, asked, given))

    def _predict(self, asked: _Prediction, data: Named) -> Call[Prediction]:
        encoding = asked.encoding or ("json" if self._json_only else usual(data))
        try:
            return (yield from self._predict_as(asked, data, encoding))
        except InvalidRequestError as error:
            if asked.encoding is not None or encoding == "json" or error.status != UNSUPPORTED_MEDIA_TYPE:
                raise
        # A runner without Arrow says so once.
        self._json_only = True
        return (yield from self._predict_as(asked, data, "json"))

    def _predict_as(self, asked: _Prediction, data: Named, encoding: Encoding) -> Call[Prediction]:
        media, body = encode(data, encoding)
        headers = {
            **asked.headers,
            "content-type": media,
            "accept": f"{ARROW}, {JSON};q=0.5" if media == ARROW else JSON,
        }
        return read_prediction((yield from self._send(Request("POST", asked.path, body, headers), asked.deadline)))

    def _predict_array(self, model: str, asked: _Prediction, array: NDArray[Any]) -> Call[Prediction]:
        """Predict an array without a name: it is the model's only input field, whose name is asked for once."""
        name = self._only_inputs.get(model)
        if name is not None:
            try:
                return (yield from self._predict(asked, {name: array}))
            except InvalidRequestError:
                # A swap may have changed the contract since the name was asked for.
                self._only_inputs.pop(model, None)
        described = yield from self._describe(model, asked.deadline)
        fields = [field["name"] for field in (described.get("contract") or {}).get("inputs", ())]
        if len(fields) != 1:
            raise InvalidRequestError(
                f"An array without names fits a model of one input field; {model!r} has {len(fields)}.",
                remedy=f"Give a mapping with {', '.join(fields)}." if fields else "Wait until the model is loaded.",
                sent=False,
            )
        self._only_inputs[model] = fields[0]
        return (yield from self._predict(asked, {fields[0]: array}))

    def models(self) -> Call[list[dict[str, Any]]]:
        """List what is served."""
        return (yield from self._get("/v1/models", self._deadline(None), _Models)).models

    def model(self, name: str) -> Call[dict[str, Any]]:
        """Describe one model."""
        return (yield from self._describe(name, self._deadline(None)))

    def _describe(self, name: str, deadline: float) -> Call[dict[str, Any]]:
        return (yield from self._get(model_path(name), deadline, dict[str, Any]))

    def _get(self, path: str, deadline: float, kind: type[T]) -> Call[T]:
        response = yield from self._send(Request("GET", path, None, {"accept": JSON}), deadline)
        return _decoded(response, kind)

    def manage(self, request: Request, timeout: float | None = None) -> Call[dict[str, Any]]:
        """Carry out a request of `modelyard.client.management`, and return what the answer says."""
        response = yield from self._send(request, self._deadline(timeout))
        return _decoded(response, dict[str, Any]) if response.body else {}

    def index(self, request: Request) -> Call[list[dict[str, Any]]]:
        """Carry out a request for what the repository has."""
        return _decoded((yield from self._send(request, self._deadline(None))), list[dict[str, Any]])

    def probe(self, path: str) -> Call[bool]:
        """Ask `/healthz` or `/readyz` once; nobody there, or an overload, is a no."""
        try:
            yield from self._attempt(Request("GET", path), min(self.timeout, PROBE_SECONDS))
        except ServiceError as error:
            if _passing(error):
                return False
            raise
        return True

    def wait_ready(self, timeout: float) -> Call[None]:
        """Ask until the service is ready."""
        deadline = time.monotonic() + timeout
        pause = 0.02
        while True:
            left = deadline - time.monotonic()
            try:
                yield from self._attempt(Request("GET", "/readyz"), max(min(left, PROBE_SECONDS), 0.001))
            except ServiceError as error:
                if not _passing(error):
                    raise
                if left <= pause:
                    raise ServiceTimeoutError(
                        f"The service was not ready within {timeout:g} s: {error.what}",
                        where=self.url, remedy="Its log may tell why.", status=error.status,
                    ) from error  # fmt: skip
            else:
                return
            yield Pause(pause)
            pause = min(2 * pause, 0.5)

    def _send(self, request: Request, deadline: float) -> Call[Response]:
        """Send a request, and again where the policy says so."""
        request_id = uuid.uuid4().hex
        attempt = 1
        while True:
            try:
                return (yield from self._attempt(request, deadline - time.monotonic(), request_id))
            except ServiceError as error:
                error.attempts = attempt
                left = deadline - time.monotonic()
                pause = self.retries.pause(error, attempt=attempt, idempotent=request.idempotent, left=left)
                if pause is None:
                    raise
            yield Pause(pause)
            attempt += 1

    def _attempt(self, request: Request, left: float, request_id: str | None = None) -> Call[Response]:
        """Send a request once; an answer that tells of an error is raised."""
        request_id = request_id or uuid.uuid4().hex
        if left <= 0.0:
            raise ServiceTimeoutError("The time is up.", where=self.url, request_id=request_id, sent=False)
        headers = {
            **self._credentials,
            **request.headers,
            "x-request-id": request_id,
            "x-request-timeout": f"{max(min(left, LONGEST_TIMEOUT), 0.001):.3f}",
        }
        sent = Request(request.method, request.path, request.body, headers, request.idempotent)
        try:
            response = yield Send(sent, left)
        except ServiceError as error:
            error.request_id = request_id
            raise
        assert response is not None  # noqa: S101  (a transport answers a Send, or raises)
        failure = error_of(response, request_id)
        if failure is not None:
            raise failure
        return response

    def _deadline(self, timeout: float | None) -> float:
        return time.monotonic() + (self.timeout if timeout is None else timeout)


def _decoded(response: Response, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(response.body, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ServerError(
            f"The answer tells of no model: {error}.", remedy="Look at the URL: is this a service?",
            status=response.status, request_id=response.header("x-request-id"),
        ) from error  # fmt: skip


def _passing(error: ServiceError) -> bool:
    """Say whether a probe that failed like this may succeed in a moment."""
    may_pass = isinstance(error, OverloadedError | ServiceTimeoutError | ConnectionLostError)
    return (may_pass and error.problem != UNTRUSTED) or error.status == BAD_GATEWAY


def _checked_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        possible = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        possible = possible and not (parts.query or parts.fragment or parts.username is not None)
    except ValueError:
        possible = False
    if not possible:
        # A URL may hold a password: it is not repeated.
        raise InputError(
            "This is not the URL of a service.",
            remedy="Give one such as http://127.0.0.1:8080; credentials go into `api_key` or `token`.",
        )
    return url.rstrip("/")


def _credentials(api_key: str | None, token: str | None) -> dict[str, str]:
    if api_key is not None and token is not None:
        raise InputError("Both an API key and a token are given.", remedy="Give one of them.")
    if api_key is not None:
        return {"x-api-key": _checked_header("API key", api_key, secret=True)}
    if token is not None:
        return {"authorization": f"Bearer {_checked_header('token', token, secret=True)}"}
    return {}


def _checked_header(what: str, value: str, *, secret: bool = False) -> str:
    if not _HEADER.fullmatch(value):
        shown = "" if secret else f" {value!r}"
        raise InvalidRequestError(
            f"The {what}{shown} can't stand in a header.", remedy="Use printable ASCII, with no space around.",
            sent=False,
        )  # fmt: skip
    return value


def _trace(traceparent: str | None) -> dict[str, str]:
    """Return the headers that continue a trace (https://www.w3.org/TR/trace-context/)."""
    if traceparent is not None:
        return {"traceparent": _checked_header("traceparent", traceparent)}
    # A program that has a trace has loaded the library; others need not pay for it.
    if "opentelemetry" not in sys.modules:
        return {}
    try:
        propagate = importlib.import_module("opentelemetry.propagate")
    except ImportError:
        return {}
    headers: dict[str, str] = {}
    propagate.inject(headers)
    return headers
