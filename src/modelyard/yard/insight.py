"""Answers about runs: why a step ran, and how two runs differ. Pure: records in, sentences out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from modelyard.blueprint.fingerprint import explain
from modelyard.errors import NotFoundError
from modelyard.records import Fingerprint, RunRecord, TaskRecord, TaskState
from modelyard.text import count

__all__ = ["Answer", "Comparison", "Difference", "compare_runs", "explain_task"]


@dataclass(frozen=True, slots=True)
class Answer:
    """Why a step ran, or why it was answered from the cache."""

    step: str
    run: str
    state: str
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing in which two runs differ; `-` stands for what one of them has not."""

    step: str
    what: str
    first: str
    second: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """All differences of two runs."""

    first: str
    second: str
    differences: tuple[Difference, ...]


def explain_task(run: RunRecord, task: TaskRecord, before: TaskRecord | None) -> Answer:
    """Return why a task ran or did not.

    Args:
        run: The run that is asked about.
        task: One of its tasks.
        before: The last good record of the same step in earlier runs, or None.
    """
    if task.state is TaskState.CACHED:
        origin = f" of run {task.cached_from}" if task.cached_from else ""
        reasons = [f"Its fingerprint equals that{origin}: code, parameters, inputs and libraries are the same."]
        if task.fingerprint is not None:
            parts = task.fingerprint
            reasons.append(
                f"fingerprint {parts.digest[:12]}: {count(len(parts.code), 'module')} of code, "
                f"{count(len(parts.inputs), 'input')}, libraries: {', '.join(sorted(parts.distributions)) or 'none'}"
            )
    elif task.state is TaskState.SKIPPED:
        reasons = ["A step that it needs did not succeed."]
    elif task.fingerprint is None:
        reasons = ["It was not reached."]
    elif before is None:
        reasons = ["No earlier run has a good result of this step."]
    else:
        reasons = explain(before.fingerprint, task.fingerprint) or [
            "Nothing changed since its last result; caching is off for it, or that result is no longer in the store."
        ]
    return Answer(task.task, run.id, task.state, tuple(reasons))


def compare_runs(first: RunRecord, second: RunRecord) -> Comparison:
    """Return every difference of two runs: parameters, code, data, libraries, metrics, outputs, states.

    Raises:
        NotFoundError: They have no step in common.
    """
    if not first.tasks.keys() & second.tasks.keys():
        raise NotFoundError(f"Runs {first.id} and {second.id} have no step in common.")
    found: list[Difference] = []
    for step in (*first.tasks, *(name for name in second.tasks if name not in first.tasks)):
        one, two = first.tasks.get(step), second.tasks.get(step)
        if one is None or two is None:
            found.append(Difference(step, "step", one.state if one else "-", two.state if two else "-"))
            continue
        if one.state.good != two.state.good:
            found.append(Difference(step, "state", one.state, two.state))
        found += _parts(step, one.fingerprint, two.fingerprint)
        found += _mapping(step, "metric", one.metrics, two.metrics)
        outputs = ({n: a.digest[:12] for n, a in t.outputs.items()} for t in (one, two))
        found += _mapping(step, "output", *outputs)
    return Comparison(first.id, second.id, tuple(found))


def _parts(step: str, one: Fingerprint | None, two: Fingerprint | None) -> list[Difference]:
    if one is None or two is None or one.digest == two.digest:
        return []
    found = [] if one.call == two.call else [Difference(step, "call", one.call, two.call)]
    found += _mapping(step, "parameter", one.parameters, two.parameters)
    found += _mapping(step, "code", *({n: d[:12] for n, d in f.code.items()} for f in (one, two)))
    found += _mapping(step, "input", *({n: d[:12] for n, d in f.inputs.items()} for f in (one, two)))
    return found + _mapping(step, "library", one.distributions, two.distributions)


def _mapping(step: str, what: str, one: dict[str, Any], two: dict[str, Any]) -> list[Difference]:
    return [
        Difference(step, f"{what} {name}", _text(one, name), _text(two, name))
        for name in dict.fromkeys((*one, *two))
        if one.get(name) != two.get(name) or (name in one) != (name in two)
    ]


def _text(values: dict[str, Any], name: str) -> str:
    if name not in values:
        return "-"
    value = values[name]
    return f"{value:.6g}" if isinstance(value, float) else str(value)
