"""From a YAML file to a Blueprint, or to every problem in it with line and column."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from modelyard.blueprint.checks import check_meaning
from modelyard.blueprint.messages import issues_of
from modelyard.blueprint.model import Blueprint
from modelyard.blueprint.overrides import apply_overrides
from modelyard.blueprint.paths import Issue, KeyPath, dotted
from modelyard.blueprint.present import missing_files
from modelyard.blueprint.wiring import wire
from modelyard.blueprint.yaml import Document, Place, read_yaml
from modelyard.errors import BlueprintError, NotFoundError, Problem
from modelyard.files import storage_errors

__all__ = ["load_blueprint", "loads_blueprint"]


def load_blueprint(
    path: Path,
    overrides: Mapping[str, Any] | None = None,
    *,
    project: Path | None = None,
    files: bool = False,
) -> Blueprint:
    """Read, validate and check a blueprint file.

    Args:
        path: A YAML 1.2 file, UTF-8.
        overrides: Values set before validation, such as `{"train.alpha": 0.01}`: `<step id>.<key…>`, or a path from
            the top such as `service.limits.rows`. A part in a list is named by its index: `train.layers[0].units`.
        project: The project folder. Given, the functions of python steps are looked up there as well.
        files: Whether a file of the project that it names and that is not there is a problem. A run tells of it when
            the step begins that reads it.

    Raises:
        NotFoundError: There is no such file.
        BlueprintError: All that is wrong in it, in the order of the file.
        StorageError: The file can't be read.
    """
    file = Path(path)
    if not file.is_file():
        what = "This is a folder, not a blueprint." if file.is_dir() else "There is no such blueprint."
        raise NotFoundError(what, where=str(path), remedy=_nearby(file))
    with storage_errors(file):
        data = file.read_bytes()
    return loads_blueprint(data, str(path), overrides, project=project, files=files)


def loads_blueprint(
    text: str | bytes,
    file: str = "blueprint.yaml",
    overrides: Mapping[str, Any] | None = None,
    *,
    project: Path | None = None,
    files: bool = False,
) -> Blueprint:
    """Validate and check a blueprint's text.

    Args:
        text: YAML 1.2.
        file: Its name in problems.
        overrides: See `load_blueprint`.
        project: See `load_blueprint`.
        files: See `load_blueprint`; it takes a project.

    Raises:
        BlueprintError: All that is wrong in it, in the order of the file.
    """
    document = read_yaml(text, file)
    changed, wrong_overrides = apply_overrides(document.data, overrides or {})
    blueprint, issues = _validate(document.data)
    issues += check_meaning(document.data)
    if blueprint is not None and not issues:
        values = blueprint.model_dump(mode="json")
        wiring = wire(values, project=project, look_up=project is not None)
        issues += wiring.issues
        if files and project is not None:
            issues += missing_files(values, wiring.steps, project)
    problems = [*document.problems, *_placed(issues, document, file, changed)]
    problems.sort(key=lambda problem: (problem.line or 10**9, problem.column))
    problems += wrong_overrides
    if problems or blueprint is None:
        raise BlueprintError(tuple(dict.fromkeys(problems)))
    return blueprint


def _nearby(file: Path) -> str:
    folder = file if file.is_dir() else file.parent
    found = sorted(other.name for other in folder.glob("*.y*ml")) if folder.is_dir() else []
    if found:
        return f"In {folder} there is {', '.join(found[:5])}."
    return "Make one with `modelyard init`."


def _validate(data: Any) -> tuple[Blueprint | None, list[Issue]]:
    try:
        # JSON mode: lists become tuples, a whole number is a fine float, and nothing else is coerced.
        return Blueprint.model_validate_json(json.dumps(data)), []
    except ValidationError as error:
        return None, issues_of(error.errors(include_url=False), data)


def _placed(
    issues: Iterable[Issue], document: Document, file: str, changed: Mapping[KeyPath, str]
) -> Iterable[Problem]:
    """Give each issue its line and column, or the name of the override that brought it."""
    for issue in issues:
        override = _override_of(issue.full_path, changed)
        if override is not None:
            path, name = override
            inner = dotted(issue.full_path[len(path) :])
            yield Problem(issue.what, f"override {name}", key=inner, remedy=issue.remedy)
            continue
        place = _place_of(issue.path, document.places)
        # A missing key is looked for where its mapping starts; a wrong key at the key, a wrong value at the value.
        line, column = place.key if issue.at == "key" else place.value
        yield Problem(issue.what, file, line, column, dotted(issue.full_path), issue.remedy)


def _override_of(path: KeyPath, changed: Mapping[KeyPath, str]) -> tuple[KeyPath, str] | None:
    for length in range(len(path), 0, -1):
        if path[:length] in changed:
            return path[:length], changed[path[:length]]
    return None


def _place_of(path: KeyPath, places: Mapping[KeyPath, Place]) -> Place:
    for length in range(len(path), -1, -1):
        if path[:length] in places:
            return places[path[:length]]
    return Place((0, 0), (0, 0))
