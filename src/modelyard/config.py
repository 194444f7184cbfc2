"""Settings: `modelyard.toml` beside the blueprint, overridden by `MODELYARD_*` variables. Defaults are embedded."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import msgspec
from msgspec import Meta

from modelyard.errors import SettingsError

__all__ = ["SETTINGS_FILE", "Setting", "Settings", "list_settings", "load_settings"]

SETTINGS_FILE = "modelyard.toml"

_PREFIX = "MODELYARD_"
_PASSWORD = re.compile(r"(?<=://)([^/:@\s]*):[^/@\s]*@")


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Every setting, with its default; `docs/reference/settings.md` documents each.

    A relative path in a URL (`file://.modelyard/store`) counts from the project folder.
    """

    store: Annotated[str, Meta(description="fsspec URL of the object store.")] = "file://.modelyard/store"
    catalog: Annotated[str, Meta(description="SQLAlchemy URL of the catalog.")] = "sqlite:///.modelyard/catalog.db"
    bus: Annotated[str, Meta(description="URL of the bus that carries release events.")] = "file://.modelyard/bus"
    executor: Annotated[str, Meta(description="inline, processes, or an installed executor.")] = "processes"
    workers: Annotated[int, Meta(ge=1, description="Tasks side by side; left out: one for each core.")] | None = None
    ledger: Annotated[str, Meta(description="URL of the ledger for leases.")] = "memory://"
    identity: Annotated[str, Meta(description="Who you are in people.yaml; left out: Git's user.email.")] | None = None
    signing_key: Annotated[str, Meta(description="Private SSH key; left out: Git's user.signingkey.")] | None = None
    serve_host: Annotated[str, Meta(description="Address that services listen on.")] = "127.0.0.1"
    serve_workers: Annotated[int, Meta(ge=1, description="Worker processes of one service.")] = 2
    serve_grpc: Annotated[bool, Meta(description="Whether services speak gRPC, on a port beside HTTP's.")] = False
    serve_keys: Annotated[str, Meta(description="File of API keys; makes services ask for one.")] | None = None
    serve_issuer: Annotated[str, Meta(description="`iss` of tokens; makes services ask for one.")] | None = None
    serve_audience: Annotated[str, Meta(description="`aud` of tokens; commas between several.")] | None = None
    serve_jwks: Annotated[str, Meta(description="URL or file of the issuer's keys; else discovered.")] | None = None
    serve_algorithms: Annotated[str, Meta(description="Signatures that count: RS256, ES256, EdDSA.")] | None = None
    serve_token_secret: Annotated[str, Meta(description="File with a secret for HS256 tokens.")] | None = None
    serve_token_claim: Annotated[str, Meta(description="Claim with what a token allows.")] | None = None
    serve_token_scopes: Annotated[str, Meta(description="What values of that claim allow here.")] | None = None
    serve_anonymous: Annotated[str, Meta(description="What all may do where nobody is asked.")] = (
        "infer, read, load, promote"
    )
    serve_hosts: Annotated[str, Meta(description="Names of services besides loopback's.")] | None = None
    serve_tls_certificate: Annotated[str, Meta(description="PEM file of the services' certificate.")] | None = None
    serve_tls_key: Annotated[str, Meta(description="PEM file of its private key.")] | None = None
    serve_tls_client_ca: Annotated[str, Meta(description="PEM file of roots of clients' certificates.")] | None = None
    serve_tls_minimum: Annotated[Literal["1.2", "1.3"], Meta(description="Oldest version of TLS.")] = "1.2"
    serve_behind_proxy: Annotated[bool, Meta(description="Whether a proxy in front encrypts.")] = False
    allow_pickle: (
        Annotated[Literal["signed"], Meta(description="Whether signed pickles may be loaded to predict.")] | None
    ) = None
    otel_endpoint: Annotated[str, Meta(description="Collector that takes services' spans by OTLP.")] | None = None
    log_level: Annotated[Literal["debug", "info", "warning", "error"], Meta(description="Of services.")] = "info"


class Setting(msgspec.Struct, frozen=True):
    """One setting as it stands.

    Args:
        name: In `modelyard.toml`; a variable has it in capitals behind `MODELYARD_`.
        value: As it is written, without passwords; None where nothing is set.
        source: `default`, `modelyard.toml`, or the variable.
        description: What it is for.
    """

    name: str
    value: str | None
    source: str
    description: str


def load_settings(project: Path) -> Settings:
    """Read the settings of a project folder.

    Args:
        project: The folder that may hold `modelyard.toml`.

    Raises:
        SettingsError: The file is no TOML, a key is unknown, or a value does not fit; it names file or variable.
    """
    file = project / SETTINGS_FILE
    values = _read(file)
    unknown = [name for name in values if name not in Settings.__struct_fields__]
    if unknown:
        raise _unknown(unknown, str(file))
    found: dict[str, Any] = {}
    for field in msgspec.structs.fields(Settings):
        variable = _PREFIX + field.name.upper()
        where = variable if variable in os.environ else str(file)
        if variable not in os.environ and field.name not in values:
            continue
        try:
            # Not strict: a variable's `4` is a text.
            found[field.name] = msgspec.convert(
                os.environ.get(variable, values.get(field.name)), field.type, strict=False
            )
        except msgspec.ValidationError as error:
            *others, last = _words(field.type) or [""]
            words = f"{', '.join(others)} or {last}" if others else last
            remedy = f"Write {words}." if words else None
            raise SettingsError(f"{field.name}: {str(error).rstrip('.')}.", where=where, remedy=remedy) from error
    return Settings(**found)


def list_settings(project: Path) -> list[Setting]:
    """Return every setting as file and variables say it, right or wrong, in the order of `Settings`.

    Args:
        project: The folder that may hold `modelyard.toml`.

    Raises:
        SettingsError: The file is no TOML.
    """
    values = _read(project / SETTINGS_FILE)
    found = []
    for field in msgspec.structs.fields(Settings):
        variable = _PREFIX + field.name.upper()
        value, source = field.default, "default"
        if field.name in values:
            value, source = values[field.name], SETTINGS_FILE
        if variable in os.environ:
            value, source = os.environ[variable], variable
        # Where a URL names a password, a listing that is sent to somebody should not.
        shown = None if value is None else _PASSWORD.sub(r"\1:…@", str(value))
        found.append(Setting(field.name, shown, source, _description(field.type)))
    return found


def _read(file: Path) -> dict[str, Any]:
    if not file.exists():
        return {}
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"This is not TOML: {error}.", where=str(file)) from error


def _unknown(names: Sequence[str], where: str) -> SettingsError:
    import difflib  # noqa: PLC0415  (only a misspelt setting pays for it)

    nearest = [difflib.get_close_matches(name, Settings.__struct_fields__, n=1) for name in names]
    meant = ", ".join(dict.fromkeys(name for near in nearest for name in near))
    what = "no setting" if len(names) == 1 else "no settings"
    return SettingsError(
        f"There {'is' if len(names) == 1 else 'are'} {what} {', '.join(names)}.",
        where=where,
        remedy=f"{f'Did you mean {meant}? ' if meant else ''}All there are: modelyard settings",
    )


def _description(kind: Any) -> str:
    """Return what an annotation says of a setting, wherever in a union it stands."""
    for part in getattr(kind, "__metadata__", ()):
        if isinstance(part, Meta) and part.description:
            return part.description
    return next(filter(None, map(_description, get_args(kind))), "")


def _words(kind: Any) -> list[str]:
    """Return the words that a type allows, where it allows no others."""
    if get_origin(kind) is Literal:
        return list(get_args(kind))
    return [word for part in get_args(kind) for word in _words(part)]
