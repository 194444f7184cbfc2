"""The plan: a blueprint resolved into a graph of tasks. Pure data in, pure data out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelyard.blueprint.paths import Issue, KeyPath, dotted
from modelyard.blueprint.wiring import Wired, wire
from modelyard.errors import BlueprintError, Problem
from modelyard.files import blake3_bytes, canonical_json

if TYPE_CHECKING:
    from modelyard.blueprint.model import Blueprint

__all__ = ["Placement", "Plan", "Source", "Task", "plan"]

_CALLS = {
    "importer": "modelyard.steps.importer:import_data",
    "transform": "modelyard.steps.transform:transform",
    "torch": "modelyard.steps.torch_trainer:train",
    "sklearn": "modelyard.steps.sklearn_trainer:train",
    "evaluator": "modelyard.steps.evaluator:evaluate",
    "command": "modelyard.steps.command:run_command",
}


@dataclass(frozen=True, slots=True)
class Source:
    """Where an input comes from: an output of another task."""

    task: str
    output: str


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a task wants to run, and what it takes there."""

    target_label: str | None = None
    cores: float | None = None
    memory: str | None = None


@dataclass(frozen=True, slots=True)
class Task:
    """One step, resolved.

    Args:
        id: The step's id.
        kind: The step's kind.
        call: `module:function` that executes it.
        parameters: The step's own parameters, JSON values, after defaults and overrides.
        inputs: Port to the output that fills it.
        types: Output to the name of its type, such as `dataset`, `model`, `transform`, `metrics`, `evidence`, `any`.
        needs: Tasks that must have succeeded, inputs included.
        files: Project files and URLs whose content the result depends on: name to declared checksum, or None.
        placement: Where it wants to run.
        retries: How often a failed attempt is repeated.
        retry_delay: Seconds before the first repetition; doubles each time.
        timeout: Seconds for one attempt, or None.
        cache: Whether a finished fingerprint answers for it.
        estimated_time: Seconds, or None.
        seed: For the step's random numbers.
    """

    id: str
    kind: str
    call: str
    parameters: Mapping[str, Any]
    inputs: Mapping[str, Source]
    types: Mapping[str, str]
    needs: tuple[str, ...]
    files: Mapping[str, str | None]
    placement: Placement = Placement()
    retries: int = 0
    retry_delay: float = 1.0
    timeout: float | None = None
    cache: bool = True
    estimated_time: float | None = None
    seed: int = 0

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs, in order."""
        return tuple(self.types)


@dataclass(frozen=True, slots=True)
class Plan:
    """Every task of a blueprint, each after all it needs.

    Args:
        blueprint: The pipeline's name.
        digest: BLAKE3 of the blueprint after overrides.
        prediction_type: `classification` or `regression`.
        tasks: In an order in which they can run.
    """

    blueprint: str
    digest: str
    prediction_type: str
    tasks: tuple[Task, ...]

    def __getitem__(self, task: str) -> Task:
        """Return a task by its id; raises KeyError where there is none."""
        for candidate in self.tasks:
            if candidate.id == task:
                return candidate
        raise KeyError(task)


_SHARED = frozenset(
    {"id", "kind", "target_label", "estimated_time", "needs", "inputs", "outputs"}
    | {"retries", "retry_delay", "timeout", "cache", "cores", "memory"}
)
"""Fields of every step; the others are its parameters."""


def plan(blueprint: Blueprint, project: Path | None = None) -> Plan:
    """Resolve a blueprint into tasks.

    Left-out `needs` mean the step before in the file. A left-out input is filled by the nearest step above, counted
    along needs, that has an output of that name and a fitting type; of two equally near, by the later in the file.

    Args:
        blueprint: A valid one.
        project: Folder in which the functions of python steps are read, not executed, to learn their parameters;
            left out: the current one. Nothing is read where there is no python step.

    Raises:
        BlueprintError: Names that meet nothing, a cycle, an input that no step fills, a type that does not fit, or a
            kind of step that this version can't run.
    """
    data = blueprint.model_dump(mode="json")
    pipeline = data["pipeline"]
    wiring = wire(data, project=project)
    issues = [*_not_runnable(pipeline["steps"]), *wiring.issues]
    if issues:
        file = f"blueprint {pipeline['name']}"
        raise BlueprintError(
            tuple(Problem(issue.what, file, key=dotted(issue.full_path), remedy=issue.remedy) for issue in issues)
        )
    tasks = tuple(
        _task(pipeline["steps"][wired.index], wired, pipeline["prediction_type"]) for wired in wiring.steps.values()
    )
    return Plan(pipeline["name"], blake3_bytes(canonical_json(data)), pipeline["prediction_type"], tasks)


def _not_runnable(steps: list[dict[str, Any]]) -> list[Issue]:
    issues = []
    for index, step in enumerate(steps):
        if step["kind"] in ("tuner", "selector"):
            path: KeyPath = ("pipeline", "steps", index, "kind")
            what = f"the kind {step['kind']} can't be run by this version."
            issues.append(Issue(path, what, "Remove the step, or write it as a python step."))
    return issues


def _task(step: dict[str, Any], wired: Wired, prediction_type: str) -> Task:
    return Task(
        id=step["id"],
        kind=step["kind"],
        call=_call(step),
        parameters=_parameters(step, prediction_type),
        inputs={port: Source(task, output) for port, (task, output) in wired.inputs.items()},
        types=wired.types,
        needs=wired.needs,
        files=_files(step),
        placement=Placement(step["target_label"], step["cores"], step["memory"]),
        retries=step["retries"],
        retry_delay=step["retry_delay"],
        timeout=step["timeout"],
        # A name in the store says what a cached result is: whoever writes there would choose what is unpickled here.
        cache=step["cache"] and not (step["kind"] == "trainer" and step["format"] == "pickle"),
        estimated_time=step["estimated_time"],
        seed=_seed(step),
    )


def _call(step: dict[str, Any]) -> str:
    if step["kind"] == "python":
        return str(step["function"])
    return _CALLS[step["implementation"] if step["kind"] == "trainer" else step["kind"]]


def _parameters(step: dict[str, Any], prediction_type: str) -> dict[str, Any]:
    if step["kind"] == "python":
        return dict(step["parameters"])
    if step["kind"] == "command":
        return {name: step[name] for name in ("run", "parameters", "files")}
    own = {name: value for name, value in step.items() if name not in _SHARED}
    if step["kind"] in ("trainer", "evaluator"):
        own["prediction_type"] = prediction_type
    return own


def _files(step: dict[str, Any]) -> dict[str, str | None]:
    """Return what a step reads from outside: path or URL to declared checksum."""
    files: dict[str, str | None] = {}
    for key in ("local_data", "online_data", "test_data"):
        source = step.get(key)
        if isinstance(source, str):
            files[source] = None
        elif source is not None:
            files[source["data"]] = source["checksum"]
            if source["labels"] is not None:
                files[source["labels"]] = source["labels_checksum"]
    if step.get("model_path") is not None:
        files[step["model_path"]] = None
    if step["kind"] == "command":
        files |= dict.fromkeys(step["files"])
    return files


def _seed(step: dict[str, Any]) -> int:
    given = step.get("seed")
    if step["kind"] == "importer":
        given = (step["split"] or {}).get("seed")
    elif step["kind"] == "python":
        given = step["parameters"].get("seed")
    return given if isinstance(given, int) and not isinstance(given, bool) else 0
