"""What the HTTP server hands over (RSGI specification 1.6, https://github.com/emmett-framework/granian)."""

from __future__ import annotations

from typing import Any, Protocol

__all__ = ["Exchange", "Headers", "RsgiHeaders", "Scope"]

Headers = list[tuple[str, str]]
"""Of a response; names in lower case."""


class RsgiHeaders(Protocol):
    """Request headers; names are looked up in lower case."""

    def get(self, key: str, default: Any = None) -> Any:
        """Return a header's value."""


class Scope(Protocol):
    """The head of a request."""

    method: str
    path: str
    query_string: str
    client: str
    authority: str | None

    @property
    def headers(self) -> RsgiHeaders:
        """The request's headers."""


class Exchange(Protocol):
    """The body of a request and the way to answer it."""

    async def __call__(self) -> bytes:
        """Return the whole body."""

    def __aiter__(self) -> Any:
        """Yield the body piece by piece."""

    def response_bytes(self, status: int, headers: Headers, body: bytes) -> None:
        """Answer."""
