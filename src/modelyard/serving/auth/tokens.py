"""JSON Web Tokens of one issuer (RFC 7519, checked as RFC 8725 advises): who they stand for, and what they allow.

Checking a signature takes about a tenth of a millisecond, so a token that counted is remembered, by its digest and
until it ends; it is forgotten at once when the issuer's keys change.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jwt

from modelyard.errors import BusyError, InputError, UnauthenticatedError
from modelyard.files import storage_errors
from modelyard.serving.auth.jwks import FetchedKeys, FileKeys, KeySet, KeySource, VerificationKey, fetch_keys
from modelyard.serving.auth.principal import REALM, Principal
from modelyard.serving.auth.spec import SCOPES, IssuerSpec
from modelyard.serving.logs import Log

__all__ = ["TokenVerifier", "check_files", "source_of", "verifier_of"]

LONGEST_TOKEN = 16 * 1024
REMEMBERED = 4096
FIRST_KEYS_SECONDS = 5.0
_SECRET_BYTES = {"HS256": 32, "HS384": 48, "HS512": 64}
"""As long as the digest, as RFC 7518, 3.2 demands."""


class SharedSecret:
    """The one key of HS256, HS384 and HS512.

    Args:
        spec: It names the file; a line end after the secret does not count.

    Raises:
        InputError: The secret is too short.
        StorageError: The file can't be read.
    """

    def __init__(self, spec: IssuerSpec) -> None:
        path = spec.secret_file
        assert path is not None  # noqa: S101  (narrows the type; see source_of)
        with storage_errors(path):
            secret = path.read_bytes().rstrip(b"\r\n")
        least = max(_SECRET_BYTES[name] for name in spec.allowed)
        if len(secret) < least:
            raise InputError(
                f"The secret is shorter than {least} bytes, and can be guessed from one token.", where=str(path),
                remedy="Make a random one, such as with: openssl rand -base64 48",
            )  # fmt: skip
        self._keys = KeySet([VerificationKey(None, frozenset(spec.allowed), secret)])

    def current(self) -> KeySet:
        """Return the secret."""
        return self._keys

    def missed(self) -> None:
        """Do nothing: there is no other."""

    def close(self) -> None:
        """Do nothing."""


def source_of(spec: IssuerSpec, log: Log) -> KeySource:
    """Return where an issuer's keys come from; a first fetch may take five seconds, and may fail for now.

    Raises:
        ModelyardError: There is no usable secret.
    """
    if spec.secret_file is not None:
        return SharedSecret(spec)
    if not spec.jwks_is_url:
        return FileKeys(Path(spec.jwks), spec.allowed, log)
    source = FetchedKeys(lambda: fetch_keys(spec), spec, log)
    source.wait(FIRST_KEYS_SECONDS)
    return source


def check_files(spec: IssuerSpec, log: Log) -> None:
    """Raise an error where a file of keys or a secret is not usable; nothing is fetched.

    Raises:
        ModelyardError: It can't be read, or holds nothing that counts.
    """
    if spec.secret_file is not None:
        SharedSecret(spec)
    elif not spec.jwks_is_url:
        FileKeys(Path(spec.jwks), spec.allowed, log).read()


def verifier_of(spec: IssuerSpec, log: Log) -> TokenVerifier:
    """Return what checks an issuer's tokens; see `source_of`."""
    return TokenVerifier(spec, source_of(spec, log))


class TokenVerifier:
    """Says whom a token stands for.

    Args:
        spec: Whose tokens count.
        source: The issuer's keys.
    """

    def __init__(self, spec: IssuerSpec, source: KeySource) -> None:
        self._spec = spec
        self._source = source
        self._allowed = frozenset(spec.allowed)
        self._shared = spec.secret_file is not None
        self._keys: KeySet | None = None
        self._remembered: dict[bytes, Principal] = {}

    def verify(self, token: str) -> Principal:
        """Return whom a token stands for.

        Args:
            token: In the compact form of RFC 7515.

        Raises:
            UnauthenticatedError: It is no token, not this issuer's, not for us, not yet or no longer valid.
            BusyError: The issuer's keys are not known.
        """
        keys = self._source.current()
        if keys is None:
            raise BusyError("The service has no keys of the issuer to check tokens with.", remedy="Try again.")
        if keys is not self._keys:
            # What a withdrawn key has signed must not count any longer.
            self._remembered.clear()
            self._keys = keys
        if len(token) > LONGEST_TOKEN:
            raise _invalid("The token is too long.")
        digest = hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
        principal = self._remembered.get(digest)
        if principal is None:
            principal = self._check(token, keys)
            if len(self._remembered) >= REMEMBERED:
                del self._remembered[next(iter(self._remembered))]
            self._remembered[digest] = principal
        elif time.time() >= principal.expires:
            del self._remembered[digest]
            raise _invalid("The token has expired.")
        return principal

    def close(self) -> None:
        """Look for no newer keys."""
        self._source.close()

    def _check(self, token: str, keys: KeySet) -> Principal:
        key, algorithm = self._key_for(token, keys)
        spec = self._spec
        try:
            claims = jwt.decode(
                token, key.key, algorithms=[algorithm], audience=spec.audience, issuer=spec.issuer, leeway=spec.leeway,
                options={"require": ["exp", "iss", "aud"], "enforce_minimum_key_length": True},
            )  # fmt: skip
        except jwt.ExpiredSignatureError:
            raise _invalid("The token has expired.") from None
        except jwt.ImmatureSignatureError:
            raise _invalid("The token is not valid yet.") from None
        except jwt.InvalidAudienceError:
            raise _invalid("The token is for another audience.") from None
        except jwt.InvalidIssuerError:
            raise _invalid("The token is another issuer's.") from None
        except jwt.MissingRequiredClaimError as error:
            raise _invalid(f"The token has no {error.claim!r}.") from None
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError):
            raise _invalid("The token's signature does not fit it.") from None
        name = next((v for c in ("sub", "client_id", "azp") if isinstance(v := claims.get(c), str) and v), None)
        if name is None:
            raise _invalid("The token names nobody.")
        expires = float(claims["exp"]) + spec.leeway
        return Principal(f"token:{name[:200]}", self._scopes(claims), expires=expires)

    def _key_for(self, token: str, keys: KeySet) -> tuple[VerificationKey, str]:
        """Return the key that a token names, and its algorithm, where that is one of those that the key may check.

        Where a token says its key is found (`jku`, `x5u`, `jwk`, `x5c`) does not count: an attacker wrote that.
        """
        try:
            header = jwt.get_unverified_header(token)
        except (jwt.PyJWTError, ValueError, TypeError):
            raise _invalid("This is no token.") from None
        algorithm, kid = header.get("alg"), header.get("kid")
        if not isinstance(algorithm, str) or algorithm not in self._allowed or "b64" in header:
            raise _invalid("The token is signed in a way that does not count here.")
        key = keys.find(None if self._shared else kid, algorithm)
        if key is None:
            if kid not in keys.kids:
                self._source.missed()
            raise _invalid("The token is signed by a key that is not the issuer's.")
        return key, algorithm

    def _scopes(self, claims: Mapping[str, Any]) -> frozenset[str]:
        values: set[str] = set()
        for path in [self._spec.claim.split(".")] if self._spec.claim else [["scope"], ["scp"]]:
            found: Any = claims
            for part in path:
                found = found.get(part) if isinstance(found, Mapping) else None
            if isinstance(found, str):
                values.update(found.split())
            elif isinstance(found, list):
                values.update(value for value in found if isinstance(value, str))
        if self._spec.scopes:
            return frozenset(scope for value in values for scope in self._spec.scopes.get(value, ()))
        return frozenset(values.intersection(SCOPES))


def _invalid(what: str) -> UnauthenticatedError:
    challenge = f'{REALM}, error="invalid_token", error_description="{what.replace(chr(34), chr(39))}"'
    return UnauthenticatedError(what, remedy="Ask the issuer for a new token.", challenge=challenge)
