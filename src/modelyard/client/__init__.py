"""The Python client of a service: `Client` waits for each answer, `AsyncClient` is for asyncio.

>>> from modelyard.client import Client
>>> with Client("http://127.0.0.1:8080") as client:            # doctest: +SKIP
...     answer = client.predict("digits", [{"image": image}])  # doctest: +SKIP
"""

from __future__ import annotations

from modelyard.client.asynchronous import AsyncClient
from modelyard.client.blocking import Client
from modelyard.client.errors import (
    AccessDeniedError,
    ConflictError,
    ConnectionLostError,
    InvalidRequestError,
    ModelNotFoundError,
    OverloadedError,
    ServerError,
    ServiceError,
    ServiceTimeoutError,
    TooLargeError,
    UnauthorizedError,
)
from modelyard.client.prediction import Prediction
from modelyard.client.retries import Retries

__all__ = [
    "AsyncClient",
    "Client",
    "ConflictError",
    "ConnectionLostError",
    "AccessDeniedError",
    "InvalidRequestError",
    "ModelNotFoundError",
    "OverloadedError",
    "Prediction",
    "Retries",
    "ServerError",
    "ServiceError",
    "ServiceTimeoutError",
    "TooLargeError",
    "UnauthorizedError",
]
