"""Pydantic's errors as issues a person can act on: the path as in the file, what is allowed, the nearest key."""

from __future__ import annotations

import json
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from modelyard.blueprint.model import Blueprint, Pipeline
from modelyard.blueprint.paths import Issue, KeyPath, did_you_mean, listed

__all__ = ["PATTERNS", "concepts", "issues_of"]

PATTERNS = {
    r"^[a-z][a-z0-9_-]*$": "a lower-case letter, then lower-case letters, digits, - and _",
    r"^(torch|sklearn)$": "torch or sklearn",
    r"^(sha256|blake3):[0-9a-f]{64}$": "sha256: or blake3: and 64 lower-case hexadecimal digits",
    r"^[1-9][0-9]*(Mi|Gi)$": "a whole number and Mi or Gi, such as 512Mi or 2Gi",
    r"^(auto|cpu|cuda(:\d+)?|mps)$": "auto, cpu, cuda, cuda:<number> or mps",
    r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$": "module:function, such as steps.features:add_ratios",
}
_TYPES = {
    "string_type": "a text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a mapping of keys to values",
    "model_type": "a mapping of keys to values",
    "model_attributes_type": "a mapping of keys to values",
    "none_required": "left out",
}
_BOUNDS = {
    "greater_than": ("gt", "greater than"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "less than"),
    "less_than_equal": ("le", "at most"),
}


def issues_of(errors: Sequence[ErrorDetails], data: Any) -> list[Issue]:
    """Translate validation errors of a blueprint.

    Args:
        errors: As `ValidationError.errors()` returns them.
        data: The values that were validated.

    Returns:
        One issue for each place; where a value fits no member of a union, one issue names all members.
    """
    issues: list[Issue] = []
    unions: dict[KeyPath, list[str]] = {}
    for error in errors:
        located = _locate(error["loc"])
        if located.member is not None and error["type"] in _TYPES and located.path == located.union:
            unions.setdefault(located.path, []).append(_TYPES[error["type"]])
        elif error["type"] == "too_short" and len(_value_at(data, located.path)) >= error["ctx"]["min_length"]:
            continue  # the entries are there; they have errors of their own
        elif located.member is None or _fits_member(located, data):
            issues.append(_issue(error, located, data))
    nested = {issue.path[: len(path)] for issue in issues for path in unions}
    for path, wanted in unions.items():
        if path not in nested:
            kinds = [wish for wish in dict.fromkeys(wanted) if wish != "a whole number" or "a number" not in wanted]
            wishes = listed(kinds, "or")
            issues.append(Issue(path, f"must be {wishes}, not {_shown(_value_at(data, path))}."))
    return issues


class _Located:
    """Where an error's location leads: the path in the file, and the concept or union that stands there."""

    def __init__(self) -> None:
        self.path: KeyPath = ()
        self.owner: type[BaseModel] | None = Blueprint
        self.member: str | None = None
        self.union: KeyPath | None = None
        self.in_key = False


def _locate(location: Sequence[int | str]) -> _Located:
    """Follow an error's location through the metamodel, leaving out the names that Pydantic adds for union members."""
    found = _Located()
    annotation: Any = Blueprint
    parts = list(location)
    while parts:
        members = _members(annotation)
        concepts = [member for member in members if isinstance(member, type) and issubclass(member, BaseModel)]
        if len(members) > 1:
            # The location names the member before it goes on; a discriminated union names the tag.
            part = str(parts.pop(0))
            chosen = [member for member in members if _member_name(member, part)]
            if not chosen:
                parts.insert(0, part)
                break
            if len(concepts) < len(members):
                found.member, found.union = part, found.path
            annotation = chosen[0]
            found.owner = annotation if annotation in concepts else None
            continue
        if not members:
            break
        part_or_index = parts.pop(0)
        annotation, found.owner = _step_into(members[0], part_or_index, found.owner)
        if part_or_index == "[key]":
            found.in_key = True
        else:
            found.path = (*found.path, part_or_index)
    found.path = (*found.path, *(part for part in parts if part != "[key]"))
    found.in_key = found.in_key or "[key]" in parts
    return found


def _step_into(annotation: Any, part: int | str, owner: type[BaseModel] | None) -> tuple[Any, type[BaseModel] | None]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        field = annotation.model_fields.get(str(part))
        return (field.annotation if field else None), annotation
    arguments = [argument for argument in get_args(annotation) if argument is not ...]
    return (arguments[-1] if arguments and part != "[key]" else None), owner


def _members(annotation: Any) -> tuple[Any, ...]:
    """Return what a value may be: the members of a union without None, or the one type itself."""
    if annotation is None or annotation is Any:
        return ()
    origin = get_origin(annotation)
    if origin is Annotated:
        return _members(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        kept = [_members(member) for member in get_args(annotation) if member is not type(None)]
        return tuple(member for members in kept for member in members)
    return (annotation,)


def _member_name(member: Any, part: str) -> bool:
    """Say whether Pydantic calls a union's member by this name."""
    if isinstance(member, type) and issubclass(member, BaseModel):
        return part in (member.__name__, *_kinds(member))
    return part.startswith(getattr(member, "__name__", "\0"))


def _kinds(concept: type[BaseModel]) -> tuple[str, ...]:
    kind = concept.model_fields.get("kind")
    return get_args(kind.annotation) if kind else ()


def _fits_member(located: _Located, data: Any) -> bool:
    """Say whether a value has the shape of the union member that an error speaks of; others' errors are noise."""
    value = _value_at(data, located.union or ())
    return isinstance(value, Mapping) == bool(located.member and located.member[0].isupper())


def _value_at(data: Any, path: KeyPath) -> Any:
    for key in path:
        try:
            data = data[key]
        except (KeyError, IndexError, TypeError):
            return None
    return data


def _issue(error: ErrorDetails, located: _Located, data: Any) -> Issue:
    path = located.path
    if error["type"] == "missing" and isinstance(path[-1], int):
        return Issue(path[:-1], f"needs more than {path[-1]} {'entry' if path[-1] == 1 else 'entries'}.")
    if error["type"] == "missing":
        return Issue(path[:-1], "is missing.", _wanted(located), key=str(path[-1]))
    if error["type"] == "extra_forbidden":
        return _unknown_key(path, located.owner, data)
    if error["type"] == "union_tag_not_found":
        return Issue(path, "is missing.", f"Give one of {listed(_tags(error), 'or')}.", key="kind")
    if error["type"] == "union_tag_invalid":
        wrong = str(error.get("ctx", {}).get("tag"))
        return Issue(
            (*path, "kind"), f"{wrong} is no kind of step.", did_you_mean(wrong, _tags(error), "The kinds are")
        )
    what, remedy = _explain(error, _value_at(data, path))
    if located.in_key:
        shown = path[-1]
        what, remedy = _explain(error, shown)
        return Issue(path, what, remedy, at="key")
    return Issue(path, what, remedy)


def _tags(error: ErrorDetails) -> list[str]:
    expected = str(error.get("ctx", {}).get("expected_tags", ""))
    if expected:
        return [tag.strip().strip("'") for tag in expected.split(",")]
    steps = get_args(Pipeline.model_fields["steps"].annotation)[0]
    return [kind for member in _members(steps) for kind in _kinds(member)]


def _wanted(located: _Located) -> str:
    name = str(located.path[-1])
    field = located.owner.model_fields.get(name) if located.owner else None
    if field is None:
        return ""
    if get_origin(field.annotation) is Literal:
        return f"Give one of {listed(map(str, get_args(field.annotation)), 'or')}."
    return f"{field.description} Add it." if field.description else "Add it."


def _unknown_key(path: KeyPath, owner: type[BaseModel] | None, data: Any) -> Issue:
    wrong = str(path[-1])
    if owner is None:
        return Issue(path, "unknown key.", at="key")
    given = _value_at(data, path[:-1])
    used = set(given) if isinstance(given, Mapping) else set()
    valid = list(owner.model_fields)
    for names in ([name for name in valid if name not in used], valid):
        remedy = did_you_mean(wrong, names, "")
        if remedy.startswith("Did"):
            return Issue(path, "unknown key.", remedy, at="key")
    remedy = f"The keys here are {listed(valid)}."
    return Issue(path, "unknown key.", remedy, at="key")


def _explain(error: ErrorDetails, value: Any) -> tuple[str, str]:
    """Return what is wrong with a value, and the remedy, by the error's type."""
    kind, context = error["type"], error.get("ctx", {})
    if kind in _TYPES:
        return f"must be {_TYPES[kind]}, not {_shown(value)}.", _quoting_hint(kind, value)
    if kind in _BOUNDS:
        name, words = _BOUNDS[kind]
        return f"must be {words} {_plain(context[name])}, not {_shown(value)}.", ""
    if kind in _OTHERS:
        return _OTHERS[kind](context, value)
    message = error["msg"]
    return f"{message[0].lower()}{message[1:]}.", ""


def _plain(number: Any) -> str:
    return f"{number:g}" if isinstance(number, float) else str(number)


def _quoting_hint(kind: str, value: Any) -> str:
    if kind == "string_type" and isinstance(value, bool | int | float):
        return "Put it in quotes."
    if kind in ("float_type", "int_type", "bool_type") and isinstance(value, str):
        return "Remove the quotes." if _reads_as_number(value) or value in ("true", "false") else ""
    return ""


def _reads_as_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _literal(context: Mapping[str, Any], value: Any) -> tuple[str, str]:
    allowed = [part.strip().strip("'") for part in str(context["expected"]).replace(" or ", ", ").split(",")]
    remedy = did_you_mean(value, allowed, "") if isinstance(value, str) else ""
    return (
        f"must be {'one of ' if len(allowed) > 1 else ''}{listed(allowed, 'or')}, not {_shown(value)}.",
        remedy if remedy.startswith("Did") else "",
    )


def _pattern(context: Mapping[str, Any], value: Any) -> tuple[str, str]:
    pattern = str(context["pattern"])
    return f"must be {PATTERNS.get(pattern, f'text that matches {pattern}')}, not {_shown(value)}.", ""


def _too_short(context: Mapping[str, Any], _value: Any) -> tuple[str, str]:
    least = context["min_length"]
    return f"needs at least {least} {'entry' if least == 1 else 'entries'}.", "Add one."


def _too_long(context: Mapping[str, Any], value: Any) -> tuple[str, str]:
    return f"has at most {context['max_length']} entries, not {len(value)}.", ""


def _text_too_long(context: Mapping[str, Any], value: Any) -> tuple[str, str]:
    return f"must have at most {context['max_length']} characters, not {len(str(value))}.", ""


def _value_error(context: Mapping[str, Any], _value: Any) -> tuple[str, str]:
    return f"{context['error']}.", ""


_OTHERS: Mapping[str, Callable[[Mapping[str, Any], Any], tuple[str, str]]] = {
    "literal_error": _literal,
    "string_pattern_mismatch": _pattern,
    "too_short": _too_short,
    "too_long": _too_long,
    "string_too_long": _text_too_long,
    "value_error": _value_error,
}


def _shown(value: Any) -> str:
    """Write a wrong value as a user knows it, cut where it is long."""
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    if isinstance(value, str):
        text = json.dumps(value, ensure_ascii=False)
        return text if len(text) <= 60 else f'{text[:56]}…"'
    return "nothing" if value is None else json.dumps(value)


def concepts() -> Iterator[type[BaseModel]]:
    """Yield Blueprint and every concept it is made of, each once, parents first."""
    seen: list[type[BaseModel]] = []
    queue: list[Any] = [Blueprint]
    while queue:
        annotation = queue.pop(0)
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            if annotation not in seen:
                seen.append(annotation)
                yield annotation
                queue.extend(field.annotation for field in annotation.model_fields.values())
            continue
        queue.extend(argument for argument in get_args(annotation) if not isinstance(argument, str))
