"""Asks a running service over HTTP, and says in plain words what is there where no answer comes."""

from __future__ import annotations

import http.client
import json
import os
import ssl
from collections.abc import Mapping
from typing import Any
from urllib.parse import SplitResult, quote, urlsplit

from modelyard.errors import (
    ContractError,
    ForbiddenError,
    InputError,
    ModelyardError,
    NotFoundError,
    RunError,
    UnauthenticatedError,
)

__all__ = ["ask"]

PATIENCE = 60.0
"""Seconds that an answer may take."""

_ERRORS: dict[int, type[ModelyardError]] = {
    400: ContractError,
    401: UnauthenticatedError,
    403: ForbiddenError,
    404: NotFoundError,
    413: ContractError,
    422: ContractError,
}


def ask(url: str, name: str, model: str, body: bytes, media: str, *, patience: float = PATIENCE) -> Mapping[str, Any]:
    """Return what a service answers.

    Args:
        url: Where its HTTP interface begins.
        name: Of the service, for what is advised.
        model: Which model.
        body: Rows as JSON or CSV.
        media: `application/json` or `text/csv`.
        patience: Seconds that the answer may take.

    Raises:
        NotFoundError: It has no such model.
        ContractError: The rows do not fit the model's contract.
        RefusedError: It asks for a key, as in the variable MODELYARD_API_KEY, and this is none for it.
        RunError: It failed or is gone, or something else listens there.
        InputError: SSL_CERT_FILE names no file of certificates.
    """
    address = urlsplit(url)
    connection = _connection(address, patience)
    try:
        headers = {"Content-Type": media, "Accept": "application/json", **_credentials()}
        connection.request("POST", f"/v1/models/{quote(model, safe='')}/predict", body, headers)
        response = connection.getresponse()
        content = response.read()
    except (OSError, http.client.HTTPException) as error:
        what, remedy = _unanswered(error, name, patience)
        raise RunError(what, where=url, remedy=remedy) from error
    finally:
        connection.close()
    answer = _answer(content, response, url, name)
    if response.status == 200:
        return answer
    kind = _ERRORS.get(response.status, RunError)
    place = ", ".join(filter(None, (url, answer.get("where"))))
    what = str(answer.get("detail") or answer.get("title") or f"It answered with status {response.status}.")
    raise kind(what, where=place, remedy=answer.get("remedy"))


def _connection(address: SplitResult, patience: float) -> http.client.HTTPConnection:
    # What listens on every address is asked on this machine's own.
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address.hostname or "", address.hostname or "")  # noqa: S104
    if address.scheme != "https":
        return http.client.HTTPConnection(host, address.port, timeout=patience)
    roots = os.environ.get("SSL_CERT_FILE")
    try:
        context = ssl.create_default_context(cafile=roots)
    except OSError as error:
        raise InputError(
            f"SSL_CERT_FILE names no file of certificates: {error.strerror or error}.",
            where=roots,
            remedy="Name a PEM file with the root of the service's certificate.",
        ) from error
    return http.client.HTTPSConnection(host, address.port, timeout=patience, context=context)


def _credentials() -> dict[str, str]:
    key = os.environ.get("MODELYARD_API_KEY")
    return {"X-API-Key": key} if key else {}


def _unanswered(error: Exception, name: str, patience: float) -> tuple[str, str]:
    """Return what is wrong where no answer came, and what to do about it."""
    look = f"Look: modelyard services {name}"
    if isinstance(error, ssl.SSLCertVerificationError):
        trust = "Name the PEM file with the root of its certificate in the variable SSL_CERT_FILE."
        return f"The service's certificate is not trusted: {error.verify_message.rstrip('.')}.", trust
    if isinstance(error, ssl.SSLError):
        return "What listens there does not speak TLS, and the service would.", _restart(name)
    if isinstance(error, ConnectionRefusedError):
        return "Nothing listens there: the service is gone.", f"Start it: modelyard up {name}"
    if isinstance(error, TimeoutError):
        return f"The service gave no answer within {patience:.0f} s.", f"Send fewer rows at once. {look}"
    # A peer that hangs up counts as one with a bad status line in http.client, so it is asked for first.
    if isinstance(error, ConnectionError):
        return "The service closed the connection before it answered.", f"Try again. {look}"
    if isinstance(error, http.client.IncompleteRead):
        return "The service's answer broke off.", f"Try again. {look}"
    if isinstance(error, http.client.HTTPException):
        return "What listens there does not speak HTTP: it is no service of Modelyard.", _restart(name)
    return f"The service can't be reached: {getattr(error, 'strerror', None) or error}.", look


def _answer(content: bytes, response: http.client.HTTPResponse, url: str, name: str) -> dict[str, Any]:
    try:
        answer = json.loads(content)
    except ValueError:
        answer = None
    if isinstance(answer, dict):
        return answer
    kind = response.headers.get_content_type()
    raise RunError(
        f"What answers there is no service of Modelyard: status {response.status}, {kind}.",
        where=url,
        remedy=_restart(name),
    )


def _restart(name: str) -> str:
    return f"Start the service anew: modelyard down {name}, then modelyard up {name}"
