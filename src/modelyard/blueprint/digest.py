"""The digest that names a blueprint's content."""

from __future__ import annotations

from typing import TYPE_CHECKING

from modelyard.files import blake3_bytes, canonical_json

if TYPE_CHECKING:
    from modelyard.blueprint.model import Blueprint

__all__ = ["blueprint_digest"]


def blueprint_digest(blueprint: Blueprint) -> str:
    """Return the BLAKE3 of a blueprint's canonical JSON, defaults and overrides included, as 64 hexadecimal digits."""
    return blake3_bytes(canonical_json(blueprint.model_dump(mode="json")))
