"""The plan: a blueprint resolved into a graph of tasks. Pure data in, pure data out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Placement", "Plan", "Source", "Task"]


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
