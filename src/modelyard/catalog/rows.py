"""Records to rows and back: pure functions, the only place that knows which field lies in which column."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import msgspec
from sqlalchemy import Row

from modelyard.records import (
    Artifact,
    Event,
    Failure,
    Fingerprint,
    RunRecord,
    RunState,
    TaskRecord,
    TaskState,
)

__all__ = ["Values", "by", "point_row", "run_from_rows", "run_row", "same_head", "task_from_rows", "task_rows"]

Values = dict[str, Any]

_HEAD = tuple(name for name in RunRecord.__struct_fields__ if name != "tasks")
_NESTED = ("overrides", "environment")
_encoder = msgspec.json.Encoder()
_fingerprints = msgspec.json.Decoder(Fingerprint)
_failures = msgspec.json.Decoder(Failure)
_objects = msgspec.json.Decoder(dict[str, Any])


def _text(value: Any) -> str:
    return _encoder.encode(value).decode()


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def same_head(one: RunRecord, other: RunRecord) -> bool:
    """Say whether two records of a run differ at most in their tasks."""
    return all(getattr(one, name) == getattr(other, name) for name in _HEAD)


def run_row(run: RunRecord, revision: int) -> Values:
    """Return a run's own row, without its tasks."""
    row: Values = {name: getattr(run, name) for name in _HEAD}
    row.update({name: _text(row[name]) for name in _NESTED}, state=run.state.value, revision=revision)
    return row


def task_rows(run: str, position: int, task: TaskRecord) -> tuple[Values, list[Values], list[Values], list[Values]]:
    """Return a task's own row and its rows of metrics, artifacts and uses."""
    key = {"run": run, "task": task.task}
    print_ = task.fingerprint
    row: Values = {
        **key,
        "position": position,
        "kind": task.kind,
        "state": task.state.value,
        "fingerprint_digest": print_.digest if print_ else None,
        "fingerprint": _text(print_) if print_ else None,
        "started": task.started,
        "finished": task.finished,
        "attempts": task.attempts,
        "failure": _text(task.failure) if task.failure else None,
        "log": task.log,
        "cached_from": task.cached_from,
        "executor": task.executor,
        "host": task.host,
    }
    metrics = [{**key, "name": name, "value": _number(value)} for name, value in task.metrics.items()]
    artifacts = [
        {
            **key,
            "port": port,
            "digest": artifact.digest,
            "materializer": artifact.materializer,
            "size": artifact.size,
            "summary": _text(artifact.summary),
        }
        for port, artifact in task.outputs.items()
    ]
    inputs = print_.inputs if print_ else {}
    uses = [{**key, "port": port, "digest": digest} for port, digest in inputs.items()]
    return row, metrics, artifacts, uses


def point_row(event: Event) -> Values:
    """Return the row of a metric event that has a step."""
    return {
        "run": event.run,
        "task": event.task,
        "name": event.data["name"],
        "step": int(event.data["step"]),
        "value": _number(float(event.data["value"])),
        "time": event.time,
    }


def by(rows: Iterable[Row[Any]], column: str) -> defaultdict[str, list[Row[Any]]]:
    """Group rows by the text in a column; a text that does not occur has an empty group."""
    groups: defaultdict[str, list[Row[Any]]] = defaultdict(list)
    for row in rows:
        groups[row._mapping[column]].append(row)
    return groups


def run_from_rows(
    run: Row[Any], tasks: Iterable[Row[Any]], metrics: Iterable[Row[Any]], artifacts: Iterable[Row[Any]]
) -> RunRecord:
    """Put a run together from its rows; the tasks come in the plan's order.

    Args:
        run: Of the table runs.
        tasks: All rows of this run, ordered by position.
        metrics: The same, in any order.
        artifacts: The same, in any order.
    """
    measured = by(metrics, "task")
    made = by(artifacts, "task")
    records = {row.task: task_from_rows(row, measured[row.task], made[row.task]) for row in tasks}
    fields: Values = {name: run._mapping[name] for name in _HEAD}
    fields.update({name: _objects.decode(fields[name]) for name in _NESTED}, state=RunState(run.state))
    return RunRecord(tasks=records, **fields)


def task_from_rows(row: Row[Any], metrics: Iterable[Row[Any]], artifacts: Iterable[Row[Any]]) -> TaskRecord:
    """Put a task together from its rows."""
    return TaskRecord(
        task=row.task,
        kind=row.kind,
        state=TaskState(row.state),
        fingerprint=_fingerprints.decode(row.fingerprint) if row.fingerprint else None,
        outputs={
            made.port: Artifact(made.digest, made.materializer, made.size, _objects.decode(made.summary))
            for made in artifacts
        },
        metrics={metric.name: math.nan if metric.value is None else metric.value for metric in metrics},
        started=row.started,
        finished=row.finished,
        attempts=row.attempts,
        failure=_failures.decode(row.failure) if row.failure else None,
        log=row.log,
        cached_from=row.cached_from,
        executor=row.executor,
        host=row.host,
    )
