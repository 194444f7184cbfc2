"""The JSON Schema of blueprints, from which editors complete and check."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode

from modelyard.blueprint.model import Blueprint

__all__ = ["json_schema"]


class _Generator(GenerateJsonSchema):
    """Pydantic's generator, less the titles that repeat a key's name."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        del schema
        return False


def json_schema(concept: type[BaseModel] = Blueprint, mode: JsonSchemaMode = "validation") -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of a blueprint file, with a description for every concept.

    Args:
        concept: Which part of the metamodel.
        mode: See Pydantic's `model_json_schema`.
    """
    schema = concept.model_json_schema(schema_generator=_Generator, mode=mode)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
