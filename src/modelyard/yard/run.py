"""A run, as notebooks and the command line hold it: its record, and where its bytes are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from modelyard import errors
from modelyard.errors import InputError, NotFoundError, RunError
from modelyard.records import RunRecord, RunState, TaskRecord
from modelyard.store.store import Store
from modelyard.yard import rooms

if TYPE_CHECKING:
    from modelyard.blueprint.model import Blueprint
    from modelyard.blueprint.plan import Plan

__all__ = ["Run", "run_manifests"]

_FAILURES = {kind.code: kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, RunError)}


class Run:
    """One execution of a plan.

    Args:
        record: What is remembered of it.
        store: Where its outputs are.
        project: The project folder, for the logs of a run that still goes on.
    """

    def __init__(self, record: RunRecord, store: Store, project: Path) -> None:
        self.record = record
        self._store = store
        self._project = project

    def __repr__(self) -> str:
        figures = ", ".join(f"{name}={value:.4g}" for name, value in self.metrics.items())
        return f"<Run {self.id} of {self.record.blueprint}: {self.state}{', ' + figures if figures else ''}>"

    @property
    def id(self) -> str:
        """The run's id, sortable by time."""
        return self.record.id

    @property
    def state(self) -> RunState:
        """Where the run stands."""
        return self.record.state

    @property
    def metrics(self) -> Mapping[str, float]:
        """Every final metric of every step; a later step's value stands where names meet."""
        return self.record.metrics

    @property
    def tasks(self) -> Mapping[str, TaskRecord]:
        """What happened to each step, by its id."""
        return self.record.tasks

    @property
    def blueprint(self) -> Blueprint:
        """The blueprint as it was run, overrides included."""
        return rooms.Blueprint.model_validate_json(self._store.objects.get(self.record.blueprint_object))

    @property
    def plan(self) -> Plan:
        """The plan that was run."""
        return rooms.plan(self.blueprint)

    def task(self, step: str) -> TaskRecord:
        """Return the record of a step.

        Raises:
            NotFoundError: The run has no such step.
        """
        try:
            return self.tasks[step]
        except KeyError:
            raise NotFoundError(
                f"Run {self.id} has no step {step!r}.", remedy=f"Its steps are {', '.join(self.tasks)}."
            ) from None

    def output(self, name: str) -> Any:
        """Return an output's value.

        Args:
            name: `step.output`, such as `evaluate.metrics`.

        Raises:
            InputError: The name has no dot.
            NotFoundError: There is no such step or output, or the step did not succeed.
        """
        step, dot, output = name.partition(".")
        if not dot:
            raise InputError(f"{name!r} names no output.", remedy="Write it as step.output, such as evaluate.metrics.")
        outputs = self.task(step).outputs
        if output not in outputs:
            raise NotFoundError(
                f"Step {step!r} of run {self.id} has no output {output!r}.",
                remedy=f"Its outputs are {', '.join(outputs)}." if outputs else "It has none; see modelyard logs.",
            )
        return self._store.load(outputs[output])

    def log(self, step: str) -> str:
        """Return what a step printed, also while it runs."""
        record = self.task(step)
        live = self.log_file(step)
        if live.exists():
            return live.read_text(encoding="utf-8", errors="replace")
        return self._store.objects.get(record.log).decode("utf-8", errors="replace") if record.log else ""

    def log_file(self, step: str) -> Path:
        """Return the file that a step's output goes to while it runs."""
        return self._project / ".modelyard" / "runs" / self.id / f"{step}.log"

    def raise_for_state(self) -> Run:
        """Return the run itself where it succeeded.

        Raises:
            RunError: What the first failed step failed with; the remedy names its log.
        """
        for step, record in self.tasks.items():
            if record.failure is not None:
                kind = _FAILURES.get(record.failure.code, RunError)
                place = "" if record.failure.where in ("", f"step {step}") else f", {record.failure.where}"
                raise kind(
                    record.failure.what,
                    where=f"run {self.id}, step {step}{place}",
                    remedy=record.failure.remedy or f"Its log: modelyard logs {self.id} {step}",
                )
        if self.state is not RunState.SUCCEEDED:
            raise RunError(f"Run {self.id} {self.state}.", remedy=f"Go on from it: modelyard run --resume {self.id}")
        return self

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON values."""
        value: dict[str, Any] = msgspec.to_builtins(self.record)
        return value | {"metrics": dict(self.metrics)}


def run_manifests(store: Store) -> Iterator[RunRecord]:
    """Yield every run's record from its manifest in the store."""
    for _, digest in store.names.list("runs/"):
        yield msgspec.json.decode(store.objects.get(digest), type=RunRecord)
