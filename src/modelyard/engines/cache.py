"""Which tasks need not run: finished ones are found again by their fingerprint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from modelyard.blueprint.code import CodeReader
from modelyard.blueprint.fingerprint import fingerprint
from modelyard.blueprint.plan import Task
from modelyard.engines.sources import SourceReader
from modelyard.errors import InputError, IntegrityError
from modelyard.files import canonical_json
from modelyard.records import Artifact, Fingerprint, TaskRecord, TaskState
from modelyard.store.store import Store

__all__ = ["Identity", "TaskCache"]


@dataclass(frozen=True, slots=True)
class Identity:
    """A task with everything that its result depends on.

    Args:
        fingerprint: All of it.
        reasons: Why no finished result may answer for it; empty where one may.
    """

    fingerprint: Fingerprint
    reasons: tuple[str, ...] = ()


class TaskCache:
    """Finished tasks by fingerprint: names `cache/<digest>` in the store.

    Args:
        store: Where results are.
        reader: Reads the code of steps.
        project: The project folder.
    """

    def __init__(self, store: Store, reader: CodeReader, project: Path) -> None:
        self._store = store
        self._reader = reader
        self._sources = SourceReader(store, project)
        self._decoder = msgspec.json.Decoder(TaskRecord)

    def identify(self, task: Task, inputs: Mapping[str, Artifact], run: str) -> Identity:
        """Return a task's fingerprint.

        Args:
            task: From the plan.
            inputs: The artefact at each input port.
            run: Id of the run, which keeps results apart that must not be cached.

        Raises:
            InputError: The step's code can't be found or read, or a file is missing.
        """
        files, reasons = self._sources.digests(task.files, unknown=f"unknown in run {run}")
        digests = {port: artifact.digest for port, artifact in inputs.items()} | files
        if not task.cache:
            reasons.append("The blueprint says `cache: false`.")
        return Identity(fingerprint(task, reach=self._reader.reach_task(task), inputs=digests), tuple(reasons))

    def find(self, identity: Identity) -> TaskRecord | None:
        """Return the finished task of a fingerprint, if its outputs are still there."""
        if identity.reasons:
            return None
        digest = self._store.names.get(self._name(identity.fingerprint))
        if digest is None:
            return None
        try:
            record = self._decoder.decode(self._store.objects.get(digest))
        except (InputError, IntegrityError, msgspec.DecodeError, UnicodeDecodeError):
            # A record that can't be read answers for nothing; the task runs, and writes it anew.
            return None
        return record if self.usable(record) else None

    def usable(self, record: TaskRecord) -> bool:
        """Say whether every object of a task's outputs is in the store."""
        return all(self._is_there(artifact) for artifact in record.outputs.values())

    def keep(self, record: TaskRecord, run: str) -> None:
        """Let a finished task answer for its fingerprint from now on; its outputs are made durable first.

        Args:
            record: Of a task that succeeded.
            run: Id of the run that did it.
        """
        if record.fingerprint is None or record.state is not TaskState.SUCCEEDED:
            raise ValueError("Only a task that succeeded can be kept.")
        kept = msgspec.structs.replace(record, cached_from=run)
        self._store.names.set(self._name(record.fingerprint), self._store.objects.put(canonical_json(kept)))

    def _is_there(self, artifact: Artifact) -> bool:
        try:
            manifest = self._store.manifest(artifact.digest)
        except (InputError, IntegrityError):
            return False
        digests = [entry.digest for entry in manifest.large] + [digest for digest, _ in manifest.bundles]
        return all(self._store.objects.exists(digest) for digest in digests)

    @staticmethod
    def _name(identity: Fingerprint) -> str:
        return f"cache/{identity.digest}"
