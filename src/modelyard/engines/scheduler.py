"""Runs plans, and previews them."""

from __future__ import annotations

import contextlib
import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from types import FrameType
from typing import Any, Literal

import msgspec

from modelyard.blueprint.code import CodeReader
from modelyard.blueprint.fingerprint import explain
from modelyard.blueprint.plan import Plan, Task
from modelyard.contracts import Executor, Listener
from modelyard.engines.cache import TaskCache
from modelyard.engines.journal import Journal, Recorder
from modelyard.engines.walk import STOP, Message, Walk, logs_of
from modelyard.errors import InputError
from modelyard.records import Artifact, Fingerprint, RunRecord, TaskRecord
from modelyard.store.store import Store

__all__ = ["Latest", "Preview", "Scheduler"]

Latest = Callable[[str, str], "TaskRecord | None"]
"""Returns the last good record of a task, by blueprint and step id."""


@dataclass(frozen=True, slots=True)
class Preview:
    """What a run would do with a task.

    Args:
        task: The step's id.
        state: `cached`, `run`, or `unknown` where an input is not known before another task has run.
        fingerprint: What the task's result depends on; None where that is not known.
        reasons: Why, in sentences.
    """

    task: str
    state: Literal["cached", "run", "unknown"]
    fingerprint: Fingerprint | None
    reasons: list[str]


class Scheduler:
    """Takes plans through an executor.

    Args:
        store: Where results are kept and found again.
        reader: Reads the project's code.
        executor: Runs the tasks that the store does not answer.
        listeners: Are told each event, in order, in the thread that calls `run`.
        recorder: Is given the run's record when a task starts, and before the run waits or ends. Default: the manifest
            in the store is all.
        latest: Finds a task's last good record, for the reasons of a preview. Default: there is none.
    """

    def __init__(
        self,
        store: Store,
        reader: CodeReader,
        executor: Executor,
        *,
        listeners: Sequence[Listener] = (),
        recorder: Recorder | None = None,
        latest: Latest | None = None,
    ) -> None:
        self._store = store
        self._reader = reader
        self._executor = executor
        self._listeners = tuple(listeners)
        self._recorder = recorder
        self._latest = latest
        self._walk: Walk | None = None
        self._queue: SimpleQueue[Message] = SimpleQueue()

    def run(self, plan: Plan, *, run: RunRecord, project: Path, resume: RunRecord | None = None) -> RunRecord:
        """Run every task of a plan, or find it finished.

        A failed task fails the run, and what needs it is skipped; what does not need it still runs. The first Ctrl-C or
        SIGTERM cancels what runs and returns the record; a second one interrupts at once.

        Args:
            plan: What to run.
            run: The record to begin with: id, actor, commit and environment.
            project: The project folder.
            resume: A run to go on from: its finished tasks are not repeated.

        Returns:
            The finished record; its state says how the run ended.

        Raises:
            StorageError: The store can't be written; running tasks were stopped.
        """
        project = project.resolve()
        if resume is not None:
            run = msgspec.structs.replace(run, resumed=resume.id)
        self._queue = SimpleQueue()
        journal = Journal(self._store, run, self._listeners, self._recorder)
        cache = TaskCache(self._store, self._reader, project)
        self._walk = walk = Walk(
            plan, store=self._store, cache=cache, executor=self._executor, journal=journal, project=project,
            resume=resume, queue=self._queue,
        )  # fmt: skip
        try:
            with self._stopped_by_signals():
                finished = walk.go()
        except BaseException:
            walk.abandon()
            raise
        finally:
            self._walk = None
        if walk.logs_kept:
            shutil.rmtree(logs_of(project, run.id), ignore_errors=True)
        return finished

    def stop(self) -> None:
        """Cancel the run that goes on in another thread; its `run` returns."""
        self._queue.put(STOP)
        walk = self._walk
        # An executor in the run's own thread keeps the loop from seeing the message.
        for task in walk.running if walk is not None else ():
            self._executor.cancel(task)

    def preview(self, plan: Plan, project: Path, *, latest: Latest | None = None) -> list[Preview]:
        """Say what a run would do with each task; nothing is run or written.

        Args:
            plan: What would run.
            project: The project folder.
            latest: Overrides the scheduler's own.
        """
        cache = TaskCache(self._store, self._reader, project.resolve())
        latest = latest or self._latest or (lambda _blueprint, _task: None)
        outputs: dict[str, dict[str, Artifact]] = {}
        previews = []
        for task in plan.tasks:
            preview, found = _preview(task, cache, outputs, partial(latest, plan.blueprint, task.id))
            if found is not None:
                outputs[task.id] = found
            previews.append(preview)
        return previews

    @contextlib.contextmanager
    def _stopped_by_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before: dict[signal.Signals, Any] = {}

        def handle(number: int, _frame: FrameType | None) -> None:
            self._queue.put(STOP)
            # Whoever asks twice does not want to wait for workers to be stopped in order.
            signal.signal(number, signal.default_int_handler)

        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, handle)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _preview(
    task: Task, cache: TaskCache, outputs: dict[str, dict[str, Artifact]], latest: Callable[[], TaskRecord | None]
) -> tuple[Preview, dict[str, Artifact] | None]:
    missing = [need for need in task.needs if need not in outputs]
    if missing:
        ports = sorted(port for port, source in task.inputs.items() if source.task in missing)
        reason = f"{', '.join(missing)} would run first" + (f", and gives {', '.join(ports)}." if ports else ".")
        return Preview(task.id, "unknown", None, [reason]), None
    inputs = {port: outputs[source.task][source.output] for port, source in task.inputs.items()}
    try:
        identity = cache.identify(task, inputs, "preview")
    except InputError as error:
        return Preview(task.id, "run", None, [f"It would fail: {error}"]), None
    found = cache.find(identity)
    if found is not None:
        return Preview(task.id, "cached", identity.fingerprint, [f"Done in run {found.cached_from}."]), found.outputs
    if identity.reasons:
        return Preview(task.id, "run", identity.fingerprint, list(identity.reasons)), None
    last = latest()
    changes = explain(last.fingerprint if last is not None else None, identity.fingerprint)
    reasons = changes or ["It has run before, but its result is no longer in the store."]
    return Preview(task.id, "run", identity.fingerprint, reasons), None
