"""A request and its answer, as pure data: what the core makes and reads, and what a transport carries."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC
from email.utils import parsedate_to_datetime

__all__ = ["Pause", "Request", "Response", "Send"]


@dataclass(frozen=True, slots=True)
class Request:
    """One request.

    Args:
        method: Such as `POST`.
        path: With its leading slash, percent-encoded.
        body: Its bytes; None where there is none.
        headers: By lower-case name.
        idempotent: Whether sending it twice does no more than sending it once (RFC 9110, 9.2.2).
    """

    method: str
    path: str
    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    idempotent: bool = True


@dataclass(frozen=True, slots=True)
class Response:
    """One answer.

    Args:
        status: HTTP status.
        headers: By lower-case name.
        body: Its bytes, decompressed.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes

    def header(self, name: str) -> str | None:
        """Return a header by its lower-case name."""
        return self.headers.get(name)

    @property
    def retry_after(self) -> float | None:
        """Seconds that `Retry-After` asks to wait, from a number or a date (RFC 9110, 10.2.3); None without one."""
        given = self.headers.get("retry-after", "").strip()
        if given.isascii() and given.isdigit():
            return float(given)
        try:
            date = parsedate_to_datetime(given)
        except ValueError:
            return None
        # A date with the zone -0000 comes without one; HTTP knows GMT alone.
        return max(0.0, date.replace(tzinfo=date.tzinfo or UTC).timestamp() - time.time())


@dataclass(frozen=True, slots=True)
class Send:
    """What the core asks a transport to do: carry a request, and hand the answer back or raise a `ServiceError`.

    Args:
        request: To be sent.
        timeout: Seconds for all of it.
    """

    request: Request
    timeout: float


@dataclass(frozen=True, slots=True)
class Pause:
    """What the core asks a transport to do: wait.

    Args:
        seconds: How long.
    """

    seconds: float
