"""From a run to a package: the model, what it was trained on, and what speaks for it."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelyard.blueprint.plan import Plan, Task
from modelyard.data import Dataset
from modelyard.errors import InputError
from modelyard.packages.contract import Contract
from modelyard.packages.package import Package, build_package
from modelyard.records import RunRecord
from modelyard.store.store import Store
from modelyard.yard.run import Run

__all__ = ["Packed", "pack", "package_name"]


@dataclass(frozen=True, slots=True)
class Packed:
    """A package in the store.

    Args:
        digest: Its name in the store.
        model: Name of the model.
        contract: What it takes and gives.
        metrics: Measured by the run that made it.
        run: That run's id.
    """

    digest: str
    model: str
    contract: Contract
    metrics: Mapping[str, float]
    run: str


def package_name(model: str, digest: str, owner: str) -> str:
    """Return the name in the store's spaces that keeps a package of somebody's own."""
    return f"private/{owner}/packages/{model}/{digest}"


def pack(run: Run, store: Store, project: Path) -> Packed:
    """Build the package of a run's model; the same run gives the same digest.

    Raises:
        RunError: The run did not succeed.
        InputError: The run's plan has no evaluated model.
    """
    run.raise_for_state()
    blueprint, plan = run.blueprint, run.plan
    evaluator, trainer = _model_of(plan, run)
    samples = _raw_test_data(plan, trainer, evaluator, run)
    with tempfile.TemporaryDirectory(prefix="modelyard-pack-") as scratch:
        folder = Path(scratch) / "package"
        build_package(
            folder,
            model=run.output(f"{trainer.id}.model"),
            samples=samples,
            name=blueprint.model_name,
            evidence=run.output(f"{evaluator.id}.evidence"),
            metrics=dict(run.metrics),
            provenance=provenance(run.record, project),
        )
        digest = store.add(folder)
        contract = Package.open(folder).contract
    return Packed(digest, blueprint.model_name, contract, dict(run.metrics), run.id)


def _model_of(plan: Plan, run: Run) -> tuple[Task, Task]:
    """The last evaluator and the step whose model it measured."""
    for task in reversed(plan.tasks):
        if task.kind == "evaluator":
            return task, plan[task.inputs["model"].task]
    raise InputError(
        f"Run {run.id} has no evaluator, so nothing speaks for its model.",
        remedy="Add a step of kind evaluator to the blueprint and run it again.",
    )


def _raw_test_data(plan: Plan, trainer: Task, evaluator: Task, run: Run) -> Dataset:
    """The test data as a client would send it: before the transforms that are packed with the model."""
    if "transform" not in trainer.inputs:
        source = evaluator.inputs["test"]
    else:
        task = plan[trainer.inputs["transform"].task]
        while "transform" in task.inputs:
            task = plan[task.inputs["transform"].task]
        source = task.inputs["test"]
    value = run.output(f"{source.task}.{source.output}")
    if not isinstance(value, Dataset):
        raise InputError(f"{source.task}.{source.output} is no data set, so no samples can be packed.")
    return value


def provenance(record: RunRecord, project: Path) -> dict[str, Any]:
    """Return what a package says of where it comes from; nothing in it depends on where or when it is packed."""
    prints = {name: task.fingerprint for name, task in record.tasks.items() if task.fingerprint is not None}
    return {
        "run": record.id,
        "actor": record.actor,
        "commit": record.commit,
        "dirty": record.dirty,
        "project": project.name,
        "blueprint": record.blueprint,
        "blueprint_digest": record.blueprint_digest,
        "data": {
            name: digest
            for fingerprint in prints.values()
            for name, digest in sorted(fingerprint.inputs.items())
            if name.startswith("file:")
        },
        "code": {module: digest for fingerprint in prints.values() for module, digest in fingerprint.code.items()},
        "fingerprints": {name: fingerprint.digest for name, fingerprint in prints.items()},
        "parameters": {name: fingerprint.parameters for name, fingerprint in prints.items()},
        "environment": dict(record.environment),
    }
