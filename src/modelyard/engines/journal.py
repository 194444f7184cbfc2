"""What a run writes down while it goes on: a manifest in the store, a record for the catalog, and events."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from modelyard.contracts import Listener
from modelyard.files import canonical_json
from modelyard.records import Event, EventKind, RunRecord, RunState, TaskRecord
from modelyard.store.store import Store

__all__ = ["SAVE_SECONDS", "Journal", "Recorder"]

SAVE_SECONDS = 0.25
"""A manifest holds every task, so one for each of many quick tasks would be quadratic: it is written this often."""

Recorder = Callable[[RunRecord], None]


class Journal:
    """The record of one run, and everyone who wants to know of it.

    Args:
        store: Takes the manifest, as `runs/<id>`.
        run: The record to begin with.
        listeners: Are told each event; one that raises is told no more.
        recorder: Is given the whole record when a task starts, and before the run waits or ends. It may fail: the
            manifest is what counts.
    """

    def __init__(self, store: Store, run: RunRecord, listeners: Sequence[Listener], recorder: Recorder | None) -> None:
        self.run = run
        self._store = store
        self._listeners = list(listeners)
        self._recorder = recorder
        self._complaint = ""
        self._saved = -math.inf
        self._dirty = False
        self._unrecorded = False

    @property
    def save_due(self) -> float:
        """When the manifest wants to be written, as `time.monotonic` counts; infinity where nothing has changed."""
        return self._saved + SAVE_SECONDS if self._dirty else math.inf

    def task(self, record: TaskRecord, **data: Any) -> None:
        """Note a task's new state, and tell it.

        An end is recorded together with what follows it at once, the start of the next task or many more ends.

        Args:
            record: The task as it is now.
            data: More for the event than its state, attempt and failure.
        """
        self.run = msgspec.structs.replace(self.run, tasks={**self.run.tasks, record.task: record})
        self._dirty = True
        told: dict[str, Any] = {"state": record.state.value, "attempt": record.attempts}
        if record.failure is not None:
            told["failure"] = msgspec.to_builtins(record.failure)
        self._unrecorded = True
        if not record.state.final:
            self.record()
        self.tell(record.task, EventKind.STATE, told | data)

    def state(self, state: RunState) -> None:
        """Note the run's own state, write the manifest, and tell it."""
        finished = 0.0 if state is RunState.RUNNING else time.time()
        self.run = msgspec.structs.replace(self.run, state=state, finished=finished)
        self._dirty = True
        self.save()
        self._unrecorded = True
        self.record()
        self.tell("", EventKind.STATE, {"state": state.value, "attempt": 1})

    def save(self) -> None:
        """Write the manifest where something has changed.

        Raises:
            StorageError: The store can't be written.
        """
        if self._dirty:
            self._store.names.set(f"runs/{self.run.id}", self._store.objects.put(canonical_json(self.run)))
            self._dirty = False
            self._saved = time.monotonic()

    def tell(self, task: str, kind: EventKind, data: dict[str, Any]) -> None:
        """Make an event and hand it to every listener."""
        self.pass_on(Event(self.run.id, task, kind, time.time(), data))

    def note(self, line: str) -> None:
        """Tell a line about the whole run."""
        self.tell("", EventKind.LOG, {"line": line, "stream": "log"})

    def pass_on(self, event: Event) -> None:
        """Hand an event to every listener."""
        for listener in tuple(self._listeners):
            try:
                listener(event)
            except Exception as error:
                self._listeners.remove(listener)
                self.note(f"A listener was dropped: {type(error).__name__}: {error}")

    def record(self) -> None:
        """Hand the record to the recorder where something has changed."""
        if self._recorder is None or not self._unrecorded:
            return
        self._unrecorded = False
        try:
            self._recorder(self.run)
        except Exception as error:
            # The next call carries everything that this one missed, so only a new reason is worth a line.
            complaint = f"The run could not be recorded: {type(error).__name__}: {error}"
            if complaint != self._complaint:
                self._complaint = complaint
                self.note(complaint)
