"""What may go wrong between a client and a service, and how an answer becomes an error.

A program that asks a service handles these; all are `ModelyardError`, with `what`, `where` and `remedy`::

    ServiceError                       anything a service did not do
    ├── InvalidRequestError            400, 422 and their like: what was sent is wrong; `where` names row and field
    ├── UnauthorizedError              401: no credentials, or none that count
    ├── AccessDeniedError              403: these credentials do not allow it
    ├── ModelNotFoundError             404: no such model, version or path
    ├── ConflictError                  409: the service's state does not allow it
    ├── TooLargeError                  413: more bytes or rows than the service takes
    ├── OverloadedError                429, 503: try again, after `retry_after` seconds
    ├── ServiceTimeoutError            408, 504, or no answer in time; a `TimeoutError` too
    ├── ConnectionLostError            no connection, or it broke before the answer; a `ConnectionError` too
    └── ServerError                    500 and its like, or an answer that is none of a service
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from modelyard.client.exchange import Response
from modelyard.errors import ModelyardError

__all__ = [
    "ConflictError",
    "ConnectionLostError",
    "AccessDeniedError",
    "InvalidRequestError",
    "ModelNotFoundError",
    "OverloadedError",
    "ServerError",
    "ServiceError",
    "ServiceTimeoutError",
    "TooLargeError",
    "UnauthorizedError",
    "error_of",
]

_ROW = re.compile(r"\brow (\d+)\b")
_FIELD = re.compile(r"\b(?:field|column) '([^']*)'")
_SHOWN = 200


class ServiceError(ModelyardError):
    """A service did not do what it was asked.

    Args:
        what: As for every error; the service's own sentence, where it gave one.
        where: As for every error.
        remedy: As for every error.
        status: HTTP status of the answer; None where there was none.
        request_id: Names the request in the service's log.
        problem: Short, stable name of the problem (RFC 9457): `contract`, `busy`, …; None where the answer has none.
        retry_after: Seconds to wait before asking again, as the service says; None where it does not.
        sent: Whether the request may have reached the service.
    """

    code = "service"

    def __init__(
        self,
        what: str,
        *,
        where: str | None = None,
        remedy: str | None = None,
        status: int | None = None,
        request_id: str | None = None,
        problem: str | None = None,
        retry_after: float | None = None,
        sent: bool = True,
    ) -> None:
        super().__init__(what, where=where, remedy=remedy)
        self.status = status
        self.request_id = request_id
        self.problem = problem
        self.retry_after = retry_after
        self.sent = sent
        self.attempts = 1
        """How many times the request was tried."""

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.what, dict(vars(self))))


def _rebuild(kind: type[ServiceError], what: str, members: dict[str, Any]) -> ServiceError:
    error = kind(what)
    vars(error).update(members)
    return error


class InvalidRequestError(ServiceError):
    """What was sent is wrong, and sending it again would be as wrong."""

    code = "service-invalid-request"
    exit_code = 2

    @property
    def row(self) -> int | None:
        """The first row that does not fit, counted from 0, where the service names one."""
        match = _ROW.search(self.where or "")
        return int(match[1]) if match else None

    @property
    def field(self) -> str | None:
        """The field that does not fit, where the service names one."""
        match = _FIELD.search(self.where or "")
        return match[1] if match else None


class UnauthorizedError(ServiceError):
    """The service wants to know who asks, and was given no credentials that count."""

    code = "service-unauthorized"
    exit_code = 3


class AccessDeniedError(ServiceError):
    """The credentials do not allow this."""

    code = "service-forbidden"
    exit_code = 3


class ModelNotFoundError(ServiceError):
    """The service has no such model, version or path."""

    code = "service-model-not-found"
    exit_code = 2


class ConflictError(ServiceError):
    """The service's state does not allow this."""

    code = "service-conflict"
    exit_code = 3


class TooLargeError(ServiceError):
    """The request has more bytes or rows than the service takes; send it in parts."""

    code = "service-too-large"
    exit_code = 2


class OverloadedError(ServiceError):
    """The service can't answer now; trying again after `retry_after` seconds is right."""

    code = "service-overloaded"
    exit_code = 5


class ServiceTimeoutError(ServiceError, TimeoutError):
    """There was no answer in time."""

    code = "service-timeout"
    exit_code = 5


class ConnectionLostError(ServiceError, ConnectionError):
    """There was no connection, or it broke before the answer was there."""

    code = "service-connection-lost"
    exit_code = 5


class ServerError(ServiceError):
    """The service failed, or what answered is no service; its log has the reason under the request's id."""

    code = "service-failed"
    exit_code = 7


_KINDS: dict[int, type[ServiceError]] = {
    401: UnauthorizedError,
    403: AccessDeniedError,
    404: ModelNotFoundError,
    408: ServiceTimeoutError,
    409: ConflictError,
    413: TooLargeError,
    429: OverloadedError,
    503: OverloadedError,
    504: ServiceTimeoutError,
}


class _Document(msgspec.Struct):
    """The members of a problem document that are read; all may be missing."""

    type: str = ""
    title: str = ""
    detail: str = ""
    where: str | None = None
    remedy: str | None = None
    request_id: str | None = None
    error: str = ""


def error_of(response: Response, request_id: str | None = None) -> ServiceError | None:
    """Return the error that an answer tells of, or None where it tells of success.

    Args:
        response: The answer; a problem document (RFC 9457) where the service itself speaks.
        request_id: What the request was named, in case that the answer does not say.
    """
    status = response.status
    if 200 <= status < 300:
        return None
    kind = _KINDS.get(status, InvalidRequestError if 400 <= status < 500 else ServerError)
    document, understood = _document(response.body)
    what = document.detail or document.error or document.title or f"The answer has the status {status}."
    remedy = document.remedy
    if not understood:
        remedy = "Look at the URL: this is no answer of a service."
    return kind(
        what,
        where=document.where,
        remedy=remedy,
        status=status,
        request_id=document.request_id or response.header("x-request-id") or request_id,
        problem=document.type.rpartition(":")[2] or None,
        retry_after=response.retry_after,
    )


def _document(body: bytes) -> tuple[_Document, bool]:
    """Return what a body says, and whether it is JSON that says something; a proxy answers with what it likes."""
    try:
        document = msgspec.json.decode(body, type=_Document)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        text = " ".join(body[:_SHOWN].decode(errors="replace").split())
        return _Document(detail=f"The answer is no problem document: {text!r}." if text else ""), False
    return document, bool(document.detail or document.error or document.title)
