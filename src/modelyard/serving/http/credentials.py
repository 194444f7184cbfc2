"""The guard in front of HTTP: which headers hold what it asks for."""

from __future__ import annotations

from collections.abc import Mapping

from modelyard.serving.auth.guard import Guard
from modelyard.serving.http.routing import Access

__all__ = ["HttpCredentials"]


class HttpCredentials:
    """Asks the guard about requests.

    Args:
        guard: Of this worker.
    """

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._free: set[Access] = set()
        """What everybody may do where nobody need prove anything, as far as it was asked."""

    def check(self, headers: Mapping[str, str], access: Access, model: str | None) -> str | None:
        """Return who asks, or None where nobody needs to say.

        Raises:
            UnauthenticatedError: There are no credentials, or they don't count; answered by 401 with a challenge.
            ForbiddenError: They don't allow it, or a web page of another origin asks; answered by 403.
            BusyError: They can't be checked now; answered by 503.
        """
        guard = self._guard
        if guard.open:
            guard.admit(headers.get("host"), headers.get("origin"), headers.get("sec-fetch-site"))
            if access not in self._free:
                guard.check(None, None, access, model)
                self._free.add(access)
            return None
        principal = guard.check(headers.get("authorization"), headers.get("x-api-key"), access, model)
        return principal.name if principal.known else None
