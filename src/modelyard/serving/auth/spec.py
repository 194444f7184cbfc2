"""What a service is told of authentication and TLS: data with paths in it, and no secret."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

import msgspec

from modelyard.errors import InputError
from modelyard.serving.auth.loopback import is_safe_url

__all__ = ["ASYMMETRIC", "SCOPES", "SYMMETRIC", "AuthSpec", "IssuerSpec", "Scope", "TlsSpec"]

Scope = Literal["infer", "read", "load", "promote"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
"""What a credential can allow: predictions; what is served and how it fares; loading and unloading; what is live."""

ASYMMETRIC = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
SYMMETRIC = ("HS256", "HS384", "HS512")


class IssuerSpec(msgspec.Struct, frozen=True, kw_only=True):
    """Whose tokens count (RFC 7519; RFC 9068 for access tokens).

    Args:
        issuer: The `iss` that a token must have, letter by letter.
        audience: A token's `aud` must name one of these.
        jwks: URL or path of the issuer's public keys (RFC 7517). Empty: found by OpenID Connect discovery at
            `<issuer>/.well-known/openid-configuration`. https, or http on this machine.
        algorithms: The signatures that count. Empty: RS256, ES256 and EdDSA; with `secret_file`, HS256. `none` never.
        secret_file: A secret shared with the issuer, for HS256, HS384 and HS512 instead of public keys.
        leeway: Seconds that clocks may differ.
        claim: Where a token says what it allows, with dots for nested objects. Empty: `scope` and `scp`.
        scopes: A value of that claim to what it allows here; where this is given, nothing else allows anything.
            Empty: the values are `infer`, `read`, `load` and `promote` themselves.
        refresh_seconds: How often the keys are fetched again.
        stale_seconds: How long keys count while the issuer can't be reached.
        cooldown_seconds: The least time between two fetches, however many unknown keys tokens name.
    """

    issuer: str
    audience: tuple[str, ...]
    jwks: str = ""
    algorithms: tuple[str, ...] = ()
    secret_file: Path | None = None
    leeway: float = 30.0
    claim: str = ""
    scopes: dict[str, tuple[Scope, ...]] = {}
    refresh_seconds: float = 300.0
    stale_seconds: float = 86_400.0
    cooldown_seconds: float = 10.0

    @property
    def allowed(self) -> tuple[str, ...]:
        """The signatures that count."""
        return self.algorithms or (("HS256",) if self.secret_file else ("RS256", "ES256", "EdDSA"))

    @property
    def jwks_is_url(self) -> bool:
        """Whether the keys are fetched, and not read from a file."""
        return not self.jwks or "://" in self.jwks

    def check(self) -> None:
        """Raise an error where no token could count, or where one could that should not.

        Raises:
            InputError: Issuer or audience is missing, an algorithm is unknown or does not go with the kind of key, or
                keys would be fetched over an open line.
        """
        if not self.issuer or not self.audience or not all(self.audience):
            raise InputError(
                "Tokens need an issuer and an audience: a token for somebody else must not count here.",
                remedy="Set serve_issuer and serve_audience.",
            )
        known = SYMMETRIC if self.secret_file else ASYMMETRIC
        if wrong := [name for name in self.allowed if name not in known]:
            kind = "a shared secret" if self.secret_file else "public keys"
            raise InputError(
                f"Signatures by {', '.join(map(repr, wrong))} do not go with {kind}.",
                remedy=f"Choose among {', '.join(known)}.",
            )
        if self.secret_file and self.jwks:
            raise InputError(
                "A shared secret and public keys are given at once, so that one could be taken for the other.",
                remedy="Leave out serve_token_secret or serve_jwks.",
            )
        url = self.jwks or self.issuer
        if not self.secret_file and self.jwks_is_url and not is_safe_url(url):
            raise InputError(
                "Who can change keys on their way can forge every token: they are fetched over https alone, or over "
                "http from this machine.",
                where=url,
                remedy="Give an https URL, or a file, as serve_jwks.",
            )


class AuthSpec(msgspec.Struct, frozen=True, kw_only=True):
    """How clients prove who they are; at least one of the two ways.

    Args:
        keys: File of API keys, as `modelyard key` writes it. While it is missing, no key counts.
        issuer: Whose tokens count.
    """

    keys: Path | None = None
    issuer: IssuerSpec | None = None

    def check(self) -> None:
        """Raise an error where nobody could prove anything.

        Raises:
            InputError: Neither keys nor an issuer, or an issuer whose tokens could not be checked.
        """
        if self.keys is None and self.issuer is None:
            raise InputError(
                "Authentication is asked for, with neither keys nor an issuer.",
                remedy="Set serve_keys or serve_issuer.",
            )
        if self.issuer is not None:
            self.issuer.check()


class TlsSpec(msgspec.Struct, frozen=True, kw_only=True):
    """Encryption of the service's port (TLS; RFC 8446, RFC 5246).

    Args:
        certificate: PEM file of the certificate and those between it and its root.
        key: PEM file of its private key, without a passphrase.
        client_ca: PEM file of the roots that every client's certificate must come from (mutual TLS). It guards the
            connection alone: the HTTP server does not tell whose certificate it was.
        minimum: The oldest version that is spoken.
    """

    certificate: Path
    key: Path
    client_ca: Path | None = None
    minimum: Literal["1.2", "1.3"] = "1.2"
