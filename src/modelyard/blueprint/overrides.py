"""Values from the command line, set into a blueprint's data before it is validated."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from modelyard.blueprint.model import Blueprint
from modelyard.blueprint.paths import KeyPath, did_you_mean, dotted
from modelyard.errors import Problem

__all__ = ["Overrides", "apply_overrides"]

Overrides = Mapping[str, Any]
"""`<step id>.<key…>`, or a path from the blueprint's top such as `service.limits.rows`, to a JSON value."""


def apply_overrides(data: Any, overrides: Overrides) -> tuple[dict[KeyPath, str], list[Problem]]:
    """Set each override into the data, in place.

    Args:
        data: A blueprint's values, as read from YAML.
        overrides: By name; where a step's id equals a top-level key, the step is meant.

    Returns:
        The path that each override changed, so that later problems there can name it, and what was wrong.
    """
    changed: dict[KeyPath, str] = {}
    problems: list[Problem] = []
    for name, value in overrides.items():
        found = _resolve(data, name)
        problem = found if isinstance(found, Problem) else _set(data, found, name, value, changed)
        if problem is not None:
            problems.append(problem)
    return changed, problems


def _problem(name: str, what: str, remedy: str = "") -> Problem:
    return Problem(what, f"override {name}", remedy=remedy)


def _resolve(data: Any, name: str) -> KeyPath | Problem:
    """Turn `train.layers[0].units` into the path of that value."""
    parts = [int(part) if part.isdecimal() else part for part in re.split(r"\.|\[|\]\.?", name) if part]
    if len(parts) < 2 or not isinstance(parts[0], str):
        return _problem(name, "names no value.", "Write <step id>.<key>, such as train.alpha.")
    first = parts[0]
    steps = _steps(data)
    if first in steps:
        return ("pipeline", "steps", steps.index(first), *parts[1:])
    tops = list(Blueprint.model_fields)
    if first in tops:
        return tuple(parts)
    known = [step for step in steps if step]
    return _problem(name, f"there is no step {first}.", did_you_mean(first, [*known, *tops], "The names are"))


def _steps(data: Any) -> list[str]:
    """Return the id of every step, and an empty text for one that has none."""
    pipeline = data.get("pipeline") if isinstance(data, dict) else None
    steps = pipeline.get("steps") if isinstance(pipeline, dict) else None
    if not isinstance(steps, list):
        return []
    return [str(step.get("id", "")) if isinstance(step, dict) else "" for step in steps]


def _set(data: Any, path: KeyPath, name: str, value: Any, changed: dict[KeyPath, str]) -> Problem | None:
    try:
        plain = json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError):
        return _problem(name, f"{value!r:.60} is no JSON value.", "Give a text, number, true, false, null or list.")
    place = data
    for depth, key in enumerate(path):
        last = depth == len(path) - 1
        if isinstance(key, int) and isinstance(place, list):
            if key >= len(place):
                return _problem(name, f"{dotted(path[:depth])} has no entry {key}.", "Count from 0.")
        elif not isinstance(place, dict) or isinstance(key, int):
            return _problem(name, f"{dotted(path[:depth])} has no keys of its own in this blueprint.")
        elif not last and place.get(key) is None:
            place[key] = {}
            changed[path[: depth + 1]] = name
        if last:
            place[key] = plain
            changed[path] = name
        else:
            place = place[key]
    return None
