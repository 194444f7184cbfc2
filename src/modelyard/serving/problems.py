"""Errors as a client of the HTTP interface sees them: problem documents (RFC 9457)."""

from __future__ import annotations

import csv
from http import HTTPStatus
from typing import Any

import msgspec

from modelyard.errors import (
    BusyError,
    ContractError,
    ForbiddenError,
    InputError,
    ModelyardError,
    NotFoundError,
    RefusedError,
    TooManyRowsError,
    UnauthenticatedError,
)

__all__ = ["MEDIA_TYPE", "OPEN_INFERENCE", "HttpProblem", "media_type_of", "problem_of"]

MEDIA_TYPE = "application/problem+json"

OPEN_INFERENCE = "/v2"
"""Where paths of the Open Inference Protocol begin."""


class HttpProblem(Exception):  # noqa: N818  (RFC 9457 calls it a problem)
    """A request that is answered with a problem document.

    Args:
        status: HTTP status code.
        code: Short, stable name of the problem; it ends the document's `type`.
        detail: One sentence for this occurrence.
        where: The place in the request, such as `row 3, field 'age'`.
        remedy: What to do.
        headers: Further headers, such as `Retry-After` or `Allow`.
    """

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        where: str | None = None,
        remedy: str | None = None,
        headers: tuple[tuple[str, str], ...] = (),
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.where = where
        self.remedy = remedy
        self.headers = headers

    def document(self, request_id: str, *, error: bool = False) -> bytes:
        """Return the JSON text.

        Args:
            request_id: Of the request.
            error: Whether the detail is told as `error` too, as the Open Inference Protocol has it.
        """
        members: dict[str, Any] = {
            "type": f"urn:modelyard:problem:{self.code}",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
        }
        if self.where:
            members["where"] = self.where
        if self.remedy:
            members["remedy"] = self.remedy
        if error:
            members["error"] = self.detail
        members["request_id"] = request_id
        return msgspec.json.encode(members)


def media_type_of(path: str) -> str:
    """Return the media type of a problem document that answers a path.

    Under `/v2` it is `application/json`, as the Open Inference Protocol has it: its clients look for the member `error`
    in no other.
    """
    return "application/json" if path.startswith(OPEN_INFERENCE) else MEDIA_TYPE


def problem_of(error: Exception) -> HttpProblem:
    """Return the problem that tells a client of an error; what is not the client's fault tells no particulars."""
    if isinstance(error, HttpProblem):
        return error
    if isinstance(error, TooManyRowsError):
        return HttpProblem(413, error.code, error.what, where=error.where, remedy=error.remedy)
    if isinstance(error, ContractError):
        cause = error.__cause__
        if isinstance(cause, UnicodeDecodeError | csv.Error) or type(cause) is msgspec.DecodeError:
            return HttpProblem(400, "malformed", error.what, where=error.where, remedy=error.remedy)
        return HttpProblem(422, error.code, error.what, where=error.where, remedy=error.remedy)
    if isinstance(error, UnauthenticatedError | ForbiddenError):
        status = 401 if isinstance(error, UnauthenticatedError) else 403
        challenge = (("www-authenticate", error.challenge),) if error.challenge else ()
        return HttpProblem(status, error.code, error.what, remedy=error.remedy, headers=challenge)
    for kind, status in ((NotFoundError, 404), (RefusedError, 409), (BusyError, 503)):
        if isinstance(error, kind):
            # Their places are folders of this machine.
            retry = (("retry-after", "1"),) if status == 503 else ()
            return HttpProblem(status, error.code, error.what, remedy=error.remedy, headers=retry)
    if isinstance(error, InputError):
        return HttpProblem(400, error.code, error.what, where=error.where, remedy=error.remedy)
    code = error.code if isinstance(error, ModelyardError) else "internal"
    return HttpProblem(500, code, "The model could not answer.", remedy="The service's log has the reason.")
