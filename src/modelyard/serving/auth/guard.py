"""The guard: from what a request shows to who asks, and whether that is allowed; the same for HTTP and gRPC."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import Any, Protocol

from modelyard.errors import MissingExtraError, UnauthenticatedError
from modelyard.serving.auth.keys import PREFIX, KeyFile, KeyRing
from modelyard.serving.auth.loopback import LoopbackGuard
from modelyard.serving.auth.principal import REALM, Principal, anybody
from modelyard.serving.auth.spec import SCOPES, AuthSpec
from modelyard.serving.logs import Log

__all__ = ["PUBLIC", "Guard", "Tokens", "check_auth", "guard_of"]

PUBLIC = "public"
"""What a route needs whose answer everybody may have: health alone."""

_NOBODY = Principal("nobody", frozenset(), known=False)


class Tokens(Protocol):
    """Says whom a token stands for."""

    def verify(self, token: str) -> Principal:
        """Return it, or raise UnauthenticatedError or BusyError."""

    def close(self) -> None:
        """End what goes on in the background."""


class Guard:
    """Lets through who may, and refuses everybody else.

    Args:
        keys: API keys that count, or None.
        tokens: Checks tokens, or None. With neither, nobody need prove anything, and web pages are kept out.
        hosts: Then: names besides loopback's that the service is called by.
        anonymous: Then: the scopes that everybody has.
    """

    def __init__(
        self,
        keys: KeyRing | None = None,
        tokens: Tokens | None = None,
        *,
        hosts: Iterable[str] = (),
        anonymous: Iterable[str] = SCOPES,
    ) -> None:
        self._keys = keys
        self._tokens = tokens
        self.open = keys is None and tokens is None
        """Whether nobody need prove anything."""
        self._loopback = LoopbackGuard(hosts)
        self._anybody = anybody(anonymous)

    def admit(self, host: str | None, origin: str | None, fetch_site: str | None) -> None:
        """Refuse what a browser sends for somebody else's page, where no credentials would.

        A browser adds no key or token by itself, so a service that asks for them does not need this.

        Args:
            host: The `Host` header or `:authority`, or None.
            origin: The `Origin` header, or None.
            fetch_site: The `Sec-Fetch-Site` header, or None.

        Raises:
            ForbiddenError: The host is not ours, or another origin's page sent it.
        """
        if self.open and (host not in self._loopback.known or origin is not None or fetch_site is not None):
            self._loopback.check(host, origin, fetch_site)

    def check(self, authorization: str | None, api_key: str | None, scope: str, model: str | None = None) -> Principal:
        """Return who asks, if it is allowed.

        Args:
            authorization: The `Authorization` header or metadata: `Bearer` with a key or token; or None.
            api_key: The `X-API-Key` header or metadata; or None.
            scope: What the route needs: `infer`, `read`, `load`, `promote` or `public`.
            model: What it is about; None where it is about all of them.

        Raises:
            UnauthenticatedError: There are no credentials, or they don't count.
            ForbiddenError: They don't allow it.
            BusyError: They can't be checked now.
        """
        if scope == PUBLIC:
            return _NOBODY
        principal = self._anybody if self.open else self._who(authorization, api_key)
        principal.require(scope, model)
        return principal

    def close(self) -> None:
        """End what goes on in the background."""
        if self._tokens is not None:
            self._tokens.close()

    def _who(self, authorization: str | None, api_key: str | None) -> Principal:
        if api_key is not None:
            if authorization is not None:
                raise _unauthenticated("There are two credentials.", "Send Authorization or X-API-Key.", invalid=True)
            return self._by_key(api_key)
        if authorization is None:
            raise _unauthenticated("This needs credentials.", self._remedy)
        scheme, _, credential = authorization.partition(" ")
        credential = credential.strip()
        if scheme.lower() != "bearer" or not credential:
            raise _unauthenticated("Only bearer credentials count.", self._remedy)
        if self._tokens is None or credential.startswith(PREFIX):
            return self._by_key(credential)
        return self._tokens.verify(credential)

    def _by_key(self, key: str) -> Principal:
        principal = self._keys.find(key) if self._keys is not None else None
        if principal is None:
            raise _unauthenticated("The key does not count here.", "Ask for a new key.", invalid=True)
        return principal

    @property
    def _remedy(self) -> str:
        if self._tokens is None:
            return "Send `Authorization: Bearer KEY` or `X-API-Key: KEY`."
        return "Send `Authorization: Bearer TOKEN`" + (" or `X-API-Key: KEY`." if self._keys else ".")


def _unauthenticated(what: str, remedy: str, *, invalid: bool = False) -> UnauthenticatedError:
    challenge = f'{REALM}, error="invalid_token"' if invalid else REALM
    return UnauthenticatedError(what, remedy=remedy, challenge=challenge)


def guard_of(auth: AuthSpec | None, log: Log, *, hosts: Iterable[str] = (), anonymous: Iterable[str] = SCOPES) -> Guard:
    """Return the guard that a service is asked to have; an issuer's keys are fetched first, for at most 5 seconds.

    Args:
        auth: How clients prove who they are; None: they don't.
        log: Of the worker.
        hosts: Without auth: names besides loopback's that the service is called by.
        anonymous: Without auth: the scopes that everybody has.

    Raises:
        MissingExtraError: PyJWT is not installed.
        ModelyardError: A file that it needs can't be read.
    """
    if auth is None:
        return Guard(hosts=hosts, anonymous=anonymous)
    keys = KeyRing(auth.keys, log) if auth.keys is not None else None
    return Guard(keys, _tokens().verifier_of(auth.issuer, log) if auth.issuer is not None else None)


def check_auth(auth: AuthSpec, log: Log) -> None:
    """Raise an error where the guard of a service would find nothing usable in the files that it is told of.

    Args:
        auth: How clients prove who they are.
        log: Told where there is no file of keys yet.

    Raises:
        MissingExtraError: PyJWT is not installed.
        ModelyardError: A file can't be read, holds nothing usable, or others may write it.
    """
    auth.check()
    if auth.keys is not None and not KeyFile(auth.keys).all():
        log.warning("no-keys", file=str(auth.keys), remedy="modelyard key add")
    if auth.issuer is not None:
        _tokens().check_files(auth.issuer, log)


def _tokens() -> Any:
    """PyJWT and cryptography take 10 MB of each worker: they are loaded only where tokens count."""
    try:
        return importlib.import_module("modelyard.serving.auth.tokens")
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            "Tokens need PyJWT and cryptography.", remedy="Install them with: pip install 'modelyard[serve]'"
        ) from error
