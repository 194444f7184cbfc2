"""Predict a file with a version of the Model Center: which package, and where it lies."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from modelyard.center.registry import State
from modelyard.errors import NotFoundError, RefusedError
from modelyard.serving.batch.engine import plan_batch, run_batch
from modelyard.serving.batch.spec import BatchOutcome, BatchPlan, BatchSpec, Listener
from modelyard.yard.review import fetch_package
from modelyard.yard.versions import Versions

if TYPE_CHECKING:
    from modelyard.yard.yard import Yard

__all__ = ["FilePrediction"]


class FilePrediction:
    """A file to be predicted.

    Args:
        yard: The project.
        model: Name of the model.
        input: The file with the rows: Parquet, Arrow IPC, CSV or JSON lines, by its suffix.
        output: The file for the answers, in any of these formats.
        version: Such as `v1.2.0`; a rejected one is refused. None takes what is released to the environment.
        environment: Whose released version predicts, where no version is named.
        workers: Processes. Default: one for each core that this process may use.
        batch_rows: Rows that are predicted and made durable together. Default: as many as take some 16 MiB.
        columns: Input columns to write before the answers; `*` stands for all.

    Raises:
        NotFoundError: There is no such model or version, nothing is released there, or the package is not here.
        RefusedError: The version was rejected; or its model is a pickle that is not signed, or not allowed.
        IntegrityError: The package was changed.
    """

    def __init__(
        self,
        yard: Yard,
        model: str,
        *,
        input: Path,  # noqa: A002  (the option's name)
        output: Path,
        version: str | None = None,
        environment: str = "production",
        workers: int | None = None,
        batch_rows: int | None = None,
        columns: Sequence[str] = (),
    ) -> None:
        found, digest = _chosen(yard, model, version, environment)
        signed = yard.settings.allow_pickle == "signed"
        self.spec = BatchSpec(
            input=input,
            output=output,
            package=fetch_package(yard.store, digest),
            pickle=Versions(yard, environment).pickle(digest) if signed else None,
            digest=digest,
            model=f"{model} v{found}",
            workers=workers or len(os.sched_getaffinity(0)),
            batch_rows=batch_rows,
            columns=tuple(columns),
        )

    def plan(self) -> BatchPlan:
        """Return what would be done; see `plan_batch`."""
        return plan_batch(self.spec)

    def run(self, listen: Listener) -> BatchOutcome:
        """Predict the file; see `run_batch`."""
        return run_batch(self.spec, listen)


def _chosen(yard: Yard, model: str, version: str | None, environment: str) -> tuple[str, str]:
    registry = yard.center.state()
    if version is not None:
        chosen = registry.version(model, version)
        if chosen.state is State.REJECTED:
            raise RefusedError(
                f"{model} v{chosen.version} was rejected.", remedy="Name another version, or submit a better one."
            )
        return chosen.version, chosen.package
    live = registry.model(model).live
    place = live.get(environment)
    if place is None:
        there = f"It is released to {', '.join(live)}." if live else "It is released nowhere."
        raise NotFoundError(
            f"No version of {model} is released to {environment}.", remedy=f"{there} Name --env or --version."
        )
    return place.version, place.package
