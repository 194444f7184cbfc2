"""httpx, as both clients use it: one pool's settings, and its errors in our words. Nothing else knows httpx."""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from modelyard.client.errors import ConnectionLostError, InvalidRequestError, ServerError, ServiceTimeoutError
from modelyard.client.exchange import Response, Send
from modelyard.client.retries import UNTRUSTED
from modelyard.errors import InputError, MissingExtraError

try:
    import httpx
except ModuleNotFoundError as missing:
    raise MissingExtraError(
        "httpx is not installed, and the client needs it.", remedy="Run `pip install 'modelyard[client]'`."
    ) from missing

__all__ = ["Verify", "httpx", "pool", "timeouts", "too_late", "translated", "whole"]

Verify = bool | str | Path | ssl.SSLContext
"""Whom to trust: True the system's authorities, a file of authorities, a context of one's own (also for mTLS)."""

CONNECT_SECONDS = 5.0
KEEPALIVE_SECONDS = 30.0
CONNECTIONS = 100


def pool(url: str, verify: Verify) -> dict[str, Any]:
    """Return the arguments of `httpx.Client` and `httpx.AsyncClient`: connections over HTTP/1.1 that are kept alive.

    Args:
        url: Where every path begins.
        verify: Whom to trust.

    Raises:
        InputError: The file of authorities can't be read.
    """
    if isinstance(verify, str | Path):
        try:
            verify = ssl.create_default_context(cafile=str(verify))
        except OSError as error:
            raise InputError(
                f"The authorities can't be read: {error}.", where=str(verify), remedy="Give a file in PEM."
            ) from error
    limits = httpx.Limits(
        max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS, keepalive_expiry=KEEPALIVE_SECONDS
    )
    return {"base_url": url, "verify": verify, "limits": limits, "headers": {"user-agent": "modelyard"}}


def timeouts(send: Send) -> httpx.Timeout:
    """Return the timeouts of the parts of one request."""
    return httpx.Timeout(send.timeout, connect=min(send.timeout, CONNECT_SECONDS))


def whole(response: httpx.Response, body: bytes) -> Response:
    """Return an answer as the core reads it."""
    return Response(response.status_code, {name.lower(): value for name, value in response.headers.items()}, body)


def too_late(url: str, send: Send) -> ServiceTimeoutError:
    """Return the error of an answer that did not come in time."""
    return ServiceTimeoutError(
        f"There was no answer within {send.timeout:.3g} s.", where=url, remedy="Give the call a longer `timeout`."
    )


@contextmanager
def translated(url: str, send: Send) -> Iterator[None]:
    """Raise what httpx raises as a `ServiceError`.

    Args:
        url: Of the service.
        send: What was under way.
    """
    begun = time.monotonic()
    try:
        yield
    except (httpx.ConnectTimeout, httpx.PoolTimeout) as error:
        passed = time.monotonic() - begun
        what = "free connection" if isinstance(error, httpx.PoolTimeout) else "connection"
        raise ServiceTimeoutError(
            f"There was no {what} within {passed:.3g} s.", where=url, remedy="Does the service run?", sent=False
        ) from error
    except httpx.TimeoutException as error:
        raise too_late(url, send) from error
    except (httpx.ConnectError, httpx.ProxyError) as error:
        raise _unconnected(url, error) from error
    except (httpx.LocalProtocolError, httpx.UnsupportedProtocol) as error:
        raise InvalidRequestError(f"This can't be sent: {error}.", where=url, sent=False) from error
    except (httpx.DecodingError, httpx.TooManyRedirects) as error:
        raise ServerError(f"The answer can't be read: {error}.", where=url) from error
    except httpx.HTTPError as error:
        raise ConnectionLostError(
            f"The connection broke before the answer was there: {str(error) or type(error).__name__}.",
            where=url,
            remedy="Ask again.",
        ) from error


def _unconnected(url: str, error: Exception) -> ConnectionLostError:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return ConnectionLostError(
                f"The service's certificate is not trusted: {cause.verify_message}.", where=url,
                remedy="Give the file of its authority as `verify`.", problem=UNTRUSTED, sent=False,
            )  # fmt: skip
        cause = cause.__cause__ or cause.__context__
    return ConnectionLostError(
        f"There is no connection: {error}.", where=url, remedy="Does the service run?", sent=False
    )
