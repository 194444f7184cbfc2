"""Settings: `modelyard.toml` beside the blueprint, overridden by `MODELYARD_*` variables. Defaults are embedded."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from modelyard.errors import SettingsError

__all__ = ["SETTINGS_FILE", "Settings", "load_settings"]

SETTINGS_FILE = "modelyard.toml"


class Settings(BaseSettings):
    """Every setting, with its default; `docs/reference/settings.md` documents each.

    A relative path in a URL (`file://.modelyard/store`) counts from the project folder.
    """

    model_config = SettingsConfigDict(env_prefix="MODELYARD_", extra="forbid", frozen=True)

    store: Annotated[str, Field(description="fsspec URL of the object store.")] = "file://.modelyard/store"
    catalog: Annotated[str, Field(description="SQLAlchemy URL of the catalog.")] = "sqlite:///.modelyard/catalog.db"
    bus: Annotated[str, Field(description="URL of the bus that carries release events.")] = "file://.modelyard/bus"
    executor: Annotated[str, Field(description="inline, processes, or an installed executor.")] = "processes"
    workers: Annotated[int | None, Field(ge=1, description="Tasks side by side; left out: one for each core.")] = None
    ledger: Annotated[str, Field(description="URL of the ledger for leases.")] = "memory://"
    identity: Annotated[str | None, Field(description="Who you are in people.yaml; left out: Git's user.email.")] = None
    signing_key: Annotated[str | None, Field(description="Private SSH key; left out: Git's user.signingkey.")] = None
    serve_host: Annotated[str, Field(description="Address that services listen on.")] = "127.0.0.1"
    serve_workers: Annotated[int, Field(ge=1, description="Worker processes of one service.")] = 2
    log_level: Annotated[Literal["debug", "info", "warning", "error"], Field(description="Of services.")] = "info"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003  (the signature is pydantic-settings')
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Let variables win over the file's values, which arrive as arguments."""
        return (env_settings, init_settings)


def load_settings(project: Path) -> Settings:
    """Read the settings of a project folder.

    Args:
        project: The folder that may hold `modelyard.toml`.

    Raises:
        SettingsError: The file is no TOML, a key is unknown, or a value does not fit; it names file or variable.
    """
    file = project / SETTINGS_FILE
    values: dict[str, Any] = {}
    if file.exists():
        try:
            values = tomllib.loads(file.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise SettingsError(f"This is not TOML: {error}.", where=str(file)) from error
    unknown = {name for name in values if name not in Settings.model_fields}
    if unknown:
        raise SettingsError(
            f"Unknown settings: {', '.join(sorted(unknown))}.",
            where=str(file),
            remedy=f"The settings are {', '.join(Settings.model_fields)}.",
        )
    try:
        return Settings(**values)
    except ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][0])
        variable = f"MODELYARD_{key.upper()}"
        raise SettingsError(
            f"{key}: {first['msg']}.", where=variable if variable in os.environ else str(file)
        ) from error
