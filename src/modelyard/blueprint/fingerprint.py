"""Everything a task's result depends on, as one digest with its parts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from modelyard.files import blake3_bytes, canonical_json
from modelyard.records import Fingerprint

if TYPE_CHECKING:
    from modelyard.blueprint.code import Reach
    from modelyard.blueprint.plan import Task

__all__ = ["explain", "fingerprint"]


def fingerprint(task: Task, *, reach: Reach, inputs: Mapping[str, str]) -> Fingerprint:
    """Return a task's fingerprint: tasks of equal fingerprints have equal results.

    Args:
        task: From a plan. All its parameters count, and its seed and output names; placement, retries and timeout
            do not.
        reach: The code it reaches.
        inputs: Digest of the artefact at each input port, and of each file read from outside as `file:<name>`.
    """
    parameters = dict(task.parameters)
    # Dotted names can't collide with parameters of a function. A trainer's seed is among its parameters already.
    if task.seed != task.parameters.get("seed", 0):
        parameters["step.seed"] = task.seed
    if task.kind in ("python", "command"):
        parameters["step.outputs"] = list(task.outputs)
    parts: dict[str, Any] = {
        "call": task.call,
        "code": dict(reach.code),
        "parameters": parameters,
        "inputs": dict(inputs),
        "distributions": dict(reach.distributions),
    }
    return Fingerprint(**parts, digest=blake3_bytes(canonical_json(parts)))


def explain(old: Fingerprint | None, new: Fingerprint) -> list[str]:
    """Say in sentences why two fingerprints differ.

    Args:
        old: Of the last run that succeeded, or None where there is none.
        new: As it is now.

    Returns:
        One sentence for each difference, code first; no sentence where they are equal.
    """
    if old is None:
        return ["This step has not run before."]
    if old.digest == new.digest:
        return []
    sentences = []
    if old.call != new.call:
        sentences.append(f"The step calls {new.call}, before {old.call}.")
    sentences += _changes(
        old.code, new.code, "The code of {0} changed.", "{0} is now reached.", "{0} is not reached any more."
    )
    for name in sorted(old.parameters.keys() | new.parameters.keys()):
        sentences += _parameter(name, old.parameters, new.parameters)
    sentences += _changes(
        old.inputs, new.inputs, "The input {0} changed.", "The input {0} is new.", "The input {0} is gone."
    )
    sentences += _changes(
        old.distributions,
        new.distributions,
        "{0} changed from {1} to {2}.",
        "The code now imports {0} {2}.",
        "The code does not import {0} any more.",
    )
    return sentences or ["The fingerprint was made by another version of Modelyard."]


def _changes(old: Mapping[str, str], new: Mapping[str, str], changed: str, added: str, gone: str) -> list[str]:
    sentences = []
    for name in sorted(old.keys() | new.keys()):
        before, after = old.get(name), new.get(name)
        if before != after:
            text = added if before is None else gone if after is None else changed
            shown = f"The file {name.removeprefix('file:')}" if name.startswith("file:") else name
            sentence = text.format(shown, before, after).replace("The input The file", "The file")
            sentences.append(sentence)
    return sentences


def _parameter(name: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    shown = name.removeprefix("step.")
    if name not in old:
        return [f"Parameter {shown} is new: {_short(new[name])}."]
    if name not in new:
        return [f"Parameter {shown} is gone; it was {_short(old[name])}."]
    if canonical_json(old[name]) == canonical_json(new[name]):
        return []
    return [
        f"Parameter {path} changed from {before} to {after}."
        for path, before, after in _inner(shown, old[name], new[name])
    ]


def _inner(path: str, old: Any, new: Any) -> list[tuple[str, str, str]]:
    """Name the innermost places that differ, as long as the shape is the same."""
    if isinstance(old, Mapping) and isinstance(new, Mapping) and old.keys() == new.keys():
        pairs = [(f"{path}.{key}", old[key], new[key]) for key in old]
    elif isinstance(old, list | tuple) and isinstance(new, list | tuple) and len(old) == len(new):
        pairs = [
            (f"{path}[{index}]", before, after) for index, (before, after) in enumerate(zip(old, new, strict=True))
        ]
    else:
        return [(path, _short(old), _short(new))]
    return [
        place
        for inner, before, after in pairs
        if canonical_json(before) != canonical_json(after)
        for place in _inner(inner, before, after)
    ]


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."
