"""When a request is sent again, and how long to wait before."""

from __future__ import annotations

import random
from dataclasses import dataclass

from modelyard.client.errors import ConnectionLostError, OverloadedError, ServiceError, ServiceTimeoutError
from modelyard.errors import InputError

__all__ = ["BAD_GATEWAY", "UNTRUSTED", "Retries"]

BAD_GATEWAY = 502
"""Status of a gateway that lost its server."""

UNTRUSTED = "tls"
"""Name of the problem that a certificate is not trusted."""


@dataclass(frozen=True, slots=True)
class Retries:
    """A policy: try again what may be tried again, after pauses that grow, within the call's timeout.

    Sent again is what was never sent (the connection was refused), what the service put off (429, 503), and, where
    doing it twice does no more than doing it once, what may have been lost: a broken connection, or a gateway that
    lost its server (502). What ran out of time is not sent again: it would load a slow service twice.

    A pause is drawn between 0 and a bound that doubles each time ("full jitter": clients that failed together do not
    come back together), and is never shorter than the service's `Retry-After`. Where the pause does not fit into the
    call's timeout, the error is raised at once.

    Args:
        attempts: How many times a request is sent at most; 1 never sends again. The default bridges the loss of a
            worker; for a service that is restarted give as many as its start may take.
        first_pause: Seconds: the bound of the first pause.
        longest_pause: Seconds: what the bound does not pass.

    Raises:
        InputError: A number is impossible.
    """

    attempts: int = 6
    first_pause: float = 0.05
    longest_pause: float = 2.0

    def __post_init__(self) -> None:
        if self.attempts < 1 or not 0.0 <= self.first_pause <= self.longest_pause:
            raise InputError(
                f"These retries are impossible: {self}.",
                remedy="Give at least one attempt, and pauses of at least 0 seconds, the first not the longest.",
            )

    def pause(self, error: ServiceError, *, attempt: int, idempotent: bool, left: float) -> float | None:
        """Return the seconds to wait before the next attempt, or None where there shall be none.

        Args:
            error: Why the attempt failed.
            attempt: Its number, from 1.
            idempotent: Whether sending the request twice does no more than sending it once.
            left: Seconds until the call's timeout.
        """
        if attempt >= self.attempts or not _may_be_sent_again(error, idempotent):
            return None
        bound = min(self.longest_pause, self.first_pause * 2.0 ** min(attempt - 1, 64))
        drawn = random.uniform(0.0, bound)  # noqa: S311  (spreads load; nothing is secret)
        pause = max(drawn, error.retry_after or 0.0)
        return pause if pause < left else None


def _may_be_sent_again(error: ServiceError, idempotent: bool) -> bool:
    if isinstance(error, OverloadedError):
        return True
    if isinstance(error, ConnectionLostError):
        return error.problem != UNTRUSTED and (idempotent or not error.sent)
    if isinstance(error, ServiceTimeoutError):
        return not error.sent
    return idempotent and error.status == BAD_GATEWAY
