"""The guard in front of HTTP: which headers hold what it asks for, and how its refusals read."""

from __future__ import annotations

from modelyard.errors import BusyError, ForbiddenError, UnauthenticatedError
from modelyard.serving.auth.guard import Guard
from modelyard.serving.http.routing import Access
from modelyard.serving.http.rsgi import RsgiHeaders, Scope
from modelyard.serving.problems import HttpProblem

__all__ = ["HttpCredentials"]


class HttpCredentials:
    """Asks the guard about requests.

    Args:
        guard: Of this worker.
    """

    def __init__(self, guard: Guard) -> None:
        self._guard = guard

    def check(self, scope: Scope, headers: RsgiHeaders, access: Access, model: str | None) -> str | None:
        """Return who asks, or None where nobody needs to say.

        Raises:
            HttpProblem: 401 with a challenge, 403, or 503 where credentials can't be checked now.
        """
        guard = self._guard
        try:
            if guard.open:
                guard.admit(headers.get("host", scope.authority), headers.get("origin"), headers.get("sec-fetch-site"))
            principal = guard.check(headers.get("authorization"), headers.get("x-api-key"), access, model)
        except (UnauthenticatedError, ForbiddenError) as error:
            status = 401 if isinstance(error, UnauthenticatedError) else 403
            challenge = (("www-authenticate", error.challenge),) if error.challenge else ()
            raise HttpProblem(status, error.code, error.what, remedy=error.remedy, headers=challenge) from None
        except BusyError as error:
            raise HttpProblem(
                503, "credentials", error.what, remedy=error.remedy, headers=(("retry-after", "5"),)
            ) from None
        return principal.name if principal.known else None
