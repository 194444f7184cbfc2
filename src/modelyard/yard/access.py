"""Who may ask this project's services, as its settings say: texts in, specifications of the runner out."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from modelyard.config import SETTINGS_FILE, Settings
from modelyard.errors import SettingsError
from modelyard.serving.auth.keys import KeyFile
from modelyard.serving.auth.spec import SCOPES, AuthSpec, IssuerSpec, Scope, TlsSpec

__all__ = ["access_of", "key_file", "scopes_of"]


def access_of(settings: Settings, project: Path) -> dict[str, Any]:
    """Return the fields of a ServiceSpec that say who may ask it, and how.

    Args:
        settings: Of the project.
        project: Its folder; relative paths count from there.

    Raises:
        SettingsError: A scope is unknown, or one setting is missing beside another.
    """
    return {
        "auth": _auth(settings, project),
        "tls": _tls(settings, project),
        "behind_proxy": settings.serve_behind_proxy,
        "hosts": tuple(_words(settings.serve_hosts)),
        "anonymous": scopes_of(settings.serve_anonymous, "serve_anonymous"),
    }


def key_file(settings: Settings, project: Path) -> KeyFile:
    """Return the file of API keys.

    Raises:
        SettingsError: The settings name none.
    """
    if settings.serve_keys is None:
        raise SettingsError(
            "No file of keys is named, so services ask for none.",
            where="serve_keys",
            remedy=f'Write into {SETTINGS_FILE}: serve_keys = ".modelyard/keys.json"',
        )
    return KeyFile(project / settings.serve_keys)


def scopes_of(text: str, where: str) -> tuple[Scope, ...]:
    """Return the scopes that a text lists, between spaces or commas.

    Args:
        text: Such as `infer, read`.
        where: Names the text in an error.

    Raises:
        SettingsError: There is no such scope.
    """
    words = _words(text)
    for word in words:
        if word not in SCOPES:
            raise SettingsError(
                f"There is no scope {word!r}.", where=where, remedy=f"The scopes are {', '.join(SCOPES)}."
            )
    return cast(tuple[Scope, ...], tuple(dict.fromkeys(words)))


def _auth(settings: Settings, project: Path) -> AuthSpec | None:
    issuer = None
    if settings.serve_issuer is not None:
        jwks = settings.serve_jwks or ""
        issuer = IssuerSpec(
            issuer=settings.serve_issuer,
            audience=tuple(_words(settings.serve_audience)),
            jwks=jwks if not jwks or "://" in jwks else str(project / jwks),
            algorithms=tuple(_words(settings.serve_algorithms)),
            secret_file=_path(settings.serve_token_secret, project),
            claim=settings.serve_token_claim or "",
            scopes=_mapping(settings.serve_token_scopes),
        )
    else:
        names = ("audience", "jwks", "algorithms", "token_secret", "token_claim", "token_scopes")
        given = [f"serve_{name}" for name in names if getattr(settings, f"serve_{name}") is not None]
        if given:
            raise SettingsError(
                f"{', '.join(given)} without an issuer would check nothing.",
                where=SETTINGS_FILE,
                remedy="Set serve_issuer too.",
            )
    keys = _path(settings.serve_keys, project)
    return None if keys is None and issuer is None else AuthSpec(keys=keys, issuer=issuer)


def _tls(settings: Settings, project: Path) -> TlsSpec | None:
    certificate = _path(settings.serve_tls_certificate, project)
    key = _path(settings.serve_tls_key, project)
    client_ca = _path(settings.serve_tls_client_ca, project)
    if certificate is None and key is None and client_ca is None:
        return None
    if certificate is None or key is None:
        raise SettingsError(
            "TLS needs a certificate and its key.",
            where=SETTINGS_FILE,
            remedy="Set serve_tls_certificate and serve_tls_key.",
        )
    return TlsSpec(certificate=certificate, key=key, client_ca=client_ca, minimum=settings.serve_tls_minimum)


def _path(text: str | None, project: Path) -> Path | None:
    return None if text is None else project / Path(text).expanduser()


def _words(text: str | None) -> list[str]:
    return (text or "").replace(",", " ").split()


def _mapping(text: str | None) -> dict[str, tuple[Scope, ...]]:
    """Return what `ml.user = infer read; ml.operator = load promote` says."""
    found: dict[str, tuple[Scope, ...]] = {}
    for part in filter(None, (piece.strip() for piece in (text or "").split(";"))):
        value, equals, scopes = part.rpartition("=")
        if not equals or not value.strip() or not scopes.strip():
            raise SettingsError(
                f"{part!r} maps nothing.",
                where="serve_token_scopes",
                remedy="Write a value of the claim, =, and scopes: `ml.user = infer read; ml.operator = load promote`.",
            )
        found[value.strip()] = scopes_of(scopes, "serve_token_scopes")
    return found
