"""The reference page of blueprints, written from the metamodel; `make docs` writes it."""

from __future__ import annotations

import inspect
import json
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from modelyard.blueprint.checks import METRICS
from modelyard.blueprint.messages import PATTERNS, concepts
from modelyard.blueprint.model import BaseStep
from modelyard.blueprint.paths import listed
from modelyard.blueprint.wiring import KINDS, Port
from modelyard.files import write_atomically

__all__ = ["render"]

_NAME = r"^[a-z][a-z0-9_-]*$"

_INTRODUCTION = """\
# Blueprint reference

<!-- Written by `make docs` from the metamodel; a test compares the two. Edit the metamodel instead. -->

A blueprint is one YAML 1.2 file in UTF-8. Unknown keys, duplicate keys and values of another type are errors, told
all at once with line and column. A key without a default must be given. `modelyard blueprint schema` prints the JSON
Schema, from which editors complete.

Any value can be set for one run on the command line: `-p train.alpha=0.01` names a step and its key,
`-p service.limits.rows=10` a path from the top, `-p train.layers[0].units=64` an entry of a list, counted from 0.
Where a step has the name of a top-level key, the step is meant.
"""

_STEPS = """\
## Steps

`kind` says what a step does. Every kind has these keys:
"""

_WIRING = """\
An input that is left out of `inputs` is filled by the nearest step above, counted along `needs`, that has an output of
that name and a fitting type. [Plan and fingerprint](../explanation/plan-and-fingerprint.md) tells more.
"""


def render() -> str:
    """Return the page as Markdown: every concept and property with type, default and meaning."""
    parts = [_INTRODUCTION]
    found = list(concepts())
    kinds = [concept for concept in found if issubclass(concept, BaseStep)]
    for concept in found:
        if concept is kinds[0]:
            parts += [_STEPS, _table(BaseStep, tuple(BaseStep.model_fields)), _WIRING]
        own = tuple(name for name in concept.model_fields if concept not in kinds or name not in BaseStep.model_fields)
        level = "###" if concept in kinds else "##"
        parts.append(f"{level} {_title(concept)}\n\n{_paragraphs(concept)}\n")
        if concept in kinds:
            parts.append(_connections(_kind(concept)))
        parts.append(_table(concept, own))
    parts.append(_metrics())
    parts.append(f"## Names\n\nA name is {PATTERNS[_NAME]}; at most 63 characters.\n")
    return "\n".join(parts)


def _kind(concept: type[BaseModel]) -> str:
    return str(get_args(concept.model_fields["kind"].annotation)[0])


def _title(concept: type[BaseModel]) -> str:
    return _kind(concept) if issubclass(concept, BaseStep) else concept.__name__


def _paragraphs(concept: type[BaseModel]) -> str:
    return inspect.cleandoc(concept.__doc__ or "")


def _connections(kind: str) -> str:
    if kind == "python":
        return (
            "Inputs: the function's parameters that are not in `parameters`. Outputs: `outputs`; left out, `result`,\n"
            "or none where the function's hint is `-> None`. The function returns a mapping of them, a tuple in\n"
            "their order, or the value itself where there is one.\n"
        )
    if kind == "command":
        return "Inputs: those named in `inputs`. Outputs: those named in `outputs`, each a folder.\n"
    ports = listed(map(_port, KINDS[kind].ports)) or "none"
    outputs = listed(f"`{name}` ({of})" for name, of in KINDS[kind].outputs.items())
    later = "" if kind not in ("tuner", "selector") else "\n\nThis version checks this kind, and can't run it yet."
    return f"Inputs: {ports}. Outputs: {outputs}.{later}\n"


def _port(port: Port) -> str:
    return f"`{port.name}` ({port.type}{'' if port.required else ', optional'})"


def _table(concept: type[BaseModel], names: tuple[str, ...]) -> str:
    lines = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for name in names:
        field = concept.model_fields[name]
        cells = (f"`{name}`", _type_of(field), _default(field), field.description or "")
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(lines) + "\n"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value is None or value is PydanticUndefined:
        return "left out"
    if isinstance(value, BaseModel):
        return "its defaults"
    if isinstance(value, tuple) and value and isinstance(value[0], BaseModel):
        return ", ".join(f"`{entry.name}`" for entry in value if hasattr(entry, "name"))
    return f"`{json.dumps(value)}`"


def _type_of(field: FieldInfo) -> str:
    bounds = list(_bounds(field.metadata))
    return f"{_type(field.annotation, field.metadata)}{', ' if bounds else ''}{', '.join(bounds)}"


def _bounds(metadata: list[Any]) -> Iterator[str]:
    words = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below", "min_length": "at least"}
    for item in [inner for outer in metadata for inner in getattr(outer, "metadata", [outer])]:
        for name, word in words.items():
            value = getattr(item, name, None)
            if value is not None:
                yield f"{word} {value:g}{' entry' if name == 'min_length' else ''}"


def _pattern(metadata: list[Any]) -> str | None:
    patterns = [str(item.pattern) for item in metadata if getattr(item, "pattern", None)]
    return PATTERNS.get(patterns[0], patterns[0]) if patterns else None


def _type(annotation: Any, metadata: list[Any] | tuple[Any, ...] = ()) -> str:
    pattern = _pattern(list(metadata))
    if pattern == PATTERNS[_NAME]:
        return "[name](#names)"
    if pattern:
        return f"text: {pattern}"
    origin = get_origin(annotation)
    if origin is Annotated:
        inner, *more = get_args(annotation)
        bounds = list(_bounds(more))
        return f"{_type(inner, more)}{', ' if bounds else ''}{', '.join(bounds)}"
    if origin in (Union, types.UnionType):
        members = [member for member in get_args(annotation) if member is not type(None)]
        if all(isinstance(member, type) and issubclass(member, BaseStep) for member in members):
            return "[step](#steps)"
        return listed([_type(member) for member in members], "or")
    if origin is Literal:
        return listed([f"`{value}`" for value in get_args(annotation)], "or")
    return _container(annotation, origin)


def _container(annotation: Any, origin: Any) -> str:
    arguments = get_args(annotation)
    if origin is tuple:
        if arguments[-1] is ...:
            return f"list of {_type(arguments[0])}"
        return f"list of {len(arguments)}: {', '.join(_type(argument) for argument in arguments)}"
    if origin is dict:
        return f"mapping of {_type(arguments[0])} to {_type(arguments[1])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"[{annotation.__name__}](#{annotation.__name__.lower()})"
    names = {str: "text", int: "whole number", float: "number", bool: "true or false"}
    return names.get(annotation, "any value")


def _metrics() -> str:
    lines = [f"| {kind} | {listed(f'`{name}`' for name in names)} |" for kind, names in METRICS.items()]
    return "\n".join(["## Metrics", "", "| prediction type | metrics |", "|---|---|", *lines, ""])


def main() -> None:
    """Write the page into a file."""
    write_atomically(Path(sys.argv[1]), render().encode())


if __name__ == "__main__":
    main()
