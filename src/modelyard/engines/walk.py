"""One run of a plan: the loop that starts ready tasks, takes in what they did, and knows what may start next."""

from __future__ import annotations

import contextlib
import heapq
import math
import random
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Final

import msgspec

from modelyard.blueprint.plan import Plan, Task
from modelyard.contracts import Executor, Expecting
from modelyard.engines.cache import Identity, TaskCache
from modelyard.engines.capture import TaskLog
from modelyard.engines.journal import Journal
from modelyard.engines.task import failure_of
from modelyard.errors import ModelyardError, StorageError
from modelyard.records import (
    Artifact,
    Event,
    Failure,
    RunRecord,
    RunState,
    TaskCall,
    TaskRecord,
    TaskResult,
    TaskState,
)
from modelyard.store.store import Store
from modelyard.store.tree import INLINE_BYTES

__all__ = ["STOP", "Message", "Walk", "logs_of"]

STOP: Final = "stop"
"""Put on a walk's queue, from any thread or signal handler, it ends the run."""

LONGEST_DELAY = 300.0
"""Seconds; a retry that waits longer than this helps nobody who watches."""

CANCEL_SECONDS = 30.0
"""How long an executor may take to stop its tasks before the run ends without it."""

SYNC_SECONDS = 0.1
"""How long the syncs of quick tasks with tiny outputs may be put together: one sync costs more than such a task.

A power cut within that time can leave a cache record whose outputs never reached the disk. Tiny outputs lie in one
object, which is hashed before a record answers for anything, so the task merely runs again. Larger ones never wait.
"""

_SLOW_TO_IMPORT = frozenset({"trainer"})
"""Step kinds whose own modules take long to import, as PyTorch does."""

_WORTH_RETRYING = frozenset({"step", "step-timeout", "worker-lost", "run", "storage", "busy", "error"})
"""Codes of failures that another attempt may mend; wrong input stays wrong."""


@dataclass(frozen=True, slots=True)
class _Ended:
    """A future has a result."""

    task: str
    future: Future[TaskResult]


Message = Event | _Ended | str


@dataclass(slots=True)
class _Running:
    """A task in the executor's hands."""

    call: TaskCall
    cores: float


def logs_of(project: Path, run: str) -> Path:
    """Return the folder that holds the logs of a run while it goes on."""
    return project / ".modelyard" / "runs" / run


class Walk:
    """Takes every task of a plan to a final state.

    Args:
        plan: What to run.
        store: Where results go.
        cache: Finds finished tasks.
        executor: Runs the others.
        journal: Writes down what happens.
        project: The project folder.
        resume: A run whose finished tasks answer too, even those that are never cached.
        queue: Brings events and results from other threads, and `STOP`.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        store: Store,
        cache: TaskCache,
        executor: Executor,
        journal: Journal,
        project: Path,
        resume: RunRecord | None,
        queue: SimpleQueue[Message],
    ) -> None:
        self._tasks = {task.id: task for task in plan.tasks}
        self._store = store
        self._cache = cache
        self._executor = executor
        self._journal = journal
        self._project = project
        self._resume = resume
        self._queue = queue
        self._thread = threading.get_ident()
        self._label = getattr(executor, "name", type(executor).__name__)
        self._host = socket.gethostname()
        self._logs = logs_of(project, journal.run.id)
        self._unmet = {task.id: set(task.needs) for task in plan.tasks}
        self._dependants: dict[str, list[str]] = {task.id: [] for task in plan.tasks}
        for task in plan.tasks:
            for need in task.needs:
                self._dependants[need].append(task.id)
        self._ahead = _slow_modules(plan)
        self._ready = deque(task.id for task in plan.tasks if not task.needs)
        self._waiting: deque[str] = deque()
        self._identities: dict[str, Identity] = {}
        self._retries: list[tuple[float, str]] = []
        self._running: dict[str, _Running] = {}
        self._stop_by = math.inf
        self._sync_due = math.inf
        self._must_sync = False
        self.logs_kept = True
        """Whether every log became an object, so that the files can go."""

    @property
    def running(self) -> tuple[str, ...]:
        """Ids of the tasks that the executor has."""
        return tuple(self._running)

    def go(self) -> RunRecord:
        """Run to the end, and return the finished record."""
        waiting = {
            name: TaskRecord(task=name, kind=task.kind, state=TaskState.WAITING) for name, task in self._tasks.items()
        }
        self._journal.run = msgspec.structs.replace(self._journal.run, tasks=waiting)
        self._journal.state(RunState.RUNNING)
        # The run's last manifest, whose name is set below, syncs what is left.
        with self._store.group(sync=False):
            self._loop()
        for record in self._journal.run.tasks.values():
            if not record.state.final:
                self._close(self._with_log(record), TaskState.CANCELLED)
        self._journal.state(self._outcome())
        return self._journal.run

    def _loop(self) -> None:
        while True:
            if not self._stopping:
                self._start_ready()
            elif time.monotonic() >= self._stop_by:
                return
            if not self._running and (self._stopping or not self._retries):
                return
            self._take_in(self._next_messages())
            self._wake_retries()
            now = time.monotonic()
            if now >= self._sync_due:
                self._sync()
            if now >= self._journal.save_due:
                self._journal.save()

    def abandon(self) -> None:
        """Stop what runs and write down, as far as that is still possible, that the run did not come to its end."""
        for name in self.running:
            self._executor.cancel(name)
        with contextlib.suppress(Exception):
            for record in self._journal.run.tasks.values():
                if not record.state.final:
                    self._close(record, TaskState.INTERRUPTED)
            self._journal.state(RunState.INTERRUPTED)

    @property
    def _stopping(self) -> bool:
        return self._stop_by < math.inf

    def _outcome(self) -> RunState:
        states = {record.state for record in self._journal.run.tasks.values()}
        if TaskState.FAILED in states:
            return RunState.FAILED
        return RunState.CANCELLED if TaskState.CANCELLED in states else RunState.SUCCEEDED

    # Starting.

    def _start_ready(self) -> None:
        """Answer ready tasks from the cache, and give the others to the executor as far as it has room."""
        while self._ready:
            self._answer_or_queue(self._ready.popleft())
        while self._waiting and self._fits(self._tasks[self._waiting[0]]):
            self._submit(self._waiting.popleft())

    def _answer_or_queue(self, name: str) -> None:
        try:
            identity = self._cache.identify(self._tasks[name], self._inputs(name), self._journal.run.id)
            found = self._cache.find(identity) or self._resumed(name, identity)
        except ModelyardError as error:
            self._fail(self._record(name), failure_of(error))
            return
        self._identities[name] = identity
        if found is None:
            self._waiting.append(name)
            return
        now = time.time()
        record = msgspec.structs.replace(
            found, task=name, kind=self._tasks[name].kind, state=TaskState.CACHED, fingerprint=identity.fingerprint,
            started=now, finished=now, attempts=0, failure=None,
        )  # fmt: skip
        self._journal.task(record, cached_from=record.cached_from)
        self._release(name)

    def _resumed(self, name: str, identity: Identity) -> TaskRecord | None:
        """Return what the run that is gone on from did, also where it is not to be cached otherwise."""
        old = self._resume.tasks.get(name) if self._resume is not None else None
        if self._resume is None or old is None or not old.state.good or old.fingerprint is None:
            return None
        if old.fingerprint.digest != identity.fingerprint.digest or not self._cache.usable(old):
            return None
        return msgspec.structs.replace(old, cached_from=old.cached_from or self._resume.id)

    def _inputs(self, name: str) -> dict[str, Artifact]:
        tasks = self._journal.run.tasks
        return {port: tasks[source.task].outputs[source.output] for port, source in self._tasks[name].inputs.items()}

    def _cores(self, task: Task) -> float:
        # A step that asks for more than there is runs alone instead of never.
        return min(task.placement.cores or 1.0, float(self._executor.capacity))

    def _fits(self, task: Task) -> bool:
        used = sum(running.cores for running in self._running.values())
        return used + self._cores(task) <= self._executor.capacity + 1e-9

    def _submit(self, name: str) -> None:
        task = self._tasks[name]
        before = self._record(name)
        identity = self._identities[name]
        record = msgspec.structs.replace(
            before, state=TaskState.RUNNING, fingerprint=identity.fingerprint, failure=None,
            started=before.started or time.time(), attempts=before.attempts + 1, executor=self._label, host=self._host,
        )  # fmt: skip
        self._journal.task(record, **({"reasons": list(identity.reasons)} if identity.reasons else {}))
        call = self._call(task, record, identity)
        self._running[name] = _Running(call, self._cores(task))
        if isinstance(self._executor, Expecting) and self._ahead[name]:
            self._executor.expect(self._ahead[name])
            self._ahead = {other: modules - self._ahead[name] for other, modules in self._ahead.items()}
        try:
            future = self._executor.submit(call, self._emit)
        except ModelyardError as error:
            future = Future()
            future.set_exception(error)
        future.add_done_callback(self._reporter(name))

    def _call(self, task: Task, record: TaskRecord, identity: Identity) -> TaskCall:
        return TaskCall(
            run=self._journal.run.id,
            task=task.id,
            kind=task.kind,
            call=task.call,
            parameters=dict(task.parameters),
            inputs=self._inputs(task.id),
            outputs=list(task.outputs),
            code=identity.fingerprint.code,
            project=str(self._project),
            store=self._store.url,
            log=str(self._logs / f"{task.id}.log"),
            seed=task.seed,
            attempt=record.attempts,
            timeout=task.timeout,
            target_label=task.placement.target_label,
            cores=task.placement.cores,
            memory=task.placement.memory,
        )

    def _reporter(self, name: str) -> Callable[[Future[TaskResult]], None]:
        return lambda future: self._queue.put(_Ended(name, future))

    def _emit(self, event: Event) -> None:
        # An executor of this very thread blocks the loop: its events are told at once, or nobody would see them live.
        if threading.get_ident() == self._thread:
            self._journal.pass_on(event)
        else:
            self._queue.put(event)

    # Taking in.

    def _next_messages(self) -> list[Message]:
        """Wait for a message, at most until something else is due; return it with all that came meanwhile."""
        if self._queue.empty():
            # While we would wait for others anyway, the catalog can be told and the disk can work.
            self._journal.record()
            if self._sync_due < math.inf:
                self._sync()
        due = min(self._journal.save_due, self._stop_by, self._retries[0][0] if self._retries else math.inf)
        try:
            pause = None if due == math.inf else max(0.0, due - time.monotonic())
            messages = [self._queue.get(timeout=pause)]
        except Empty:
            return []
        while not self._queue.empty():
            messages.append(self._queue.get())
        return messages

    def _take_in(self, messages: list[Message]) -> None:
        ended: list[_Ended] = []
        for message in messages:
            if isinstance(message, Event):
                self._journal.pass_on(message)
            elif isinstance(message, _Ended):
                ended.append(message)
            else:
                self._stop()
        if ended:
            self._end_all(ended)

    def _end_all(self, ended: list[_Ended]) -> None:
        """Take in results: first all are kept, then they are told."""
        notes: list[Callable[[], None]] = []
        for message in ended:
            running = self._running.pop(message.task, None)
            if running is not None:
                notes.append(self._end(running.call, message.future))
        if self._must_sync:
            self._sync()
        for note in notes:
            note()

    def _sync(self) -> None:
        """Make what was kept survive a power cut; the death of this process it survives already."""
        self._store.sync()
        self._sync_due = math.inf
        self._must_sync = False

    def _end(self, call: TaskCall, future: Future[TaskResult]) -> Callable[[], None]:
        """Keep a task's result and log; return what tells of it."""
        record = msgspec.structs.replace(self._record(call.task), finished=time.time())
        if future.cancelled():
            return partial(self._close, self._with_log(record), TaskState.CANCELLED)
        error = future.exception()
        if error is not None:
            if not isinstance(error, ModelyardError):
                what = f"The executor failed: {type(error).__name__}: {error}."
                error = ModelyardError(what, where=f"step {call.task}")
            self._append_to_log(call, str(error))
            return partial(self._fail, record, failure_of(error))
        result = future.result()
        record = msgspec.structs.replace(record, metrics=result.metrics)
        if result.failure is not None:
            # What a step made before it failed its own check can be looked at; nothing is built on it.
            return partial(self._fail, msgspec.structs.replace(record, outputs=result.outputs), result.failure)
        record = self._with_log(
            msgspec.structs.replace(record, state=TaskState.SUCCEEDED, outputs=result.outputs, failure=None)
        )
        try:
            if not self._identities[call.task].reasons:
                self._cache.keep(record, self._journal.run.id)
        except StorageError as storage:
            return partial(self._fail, msgspec.structs.replace(record, outputs={}), failure_of(storage))
        self._sync_due = min(self._sync_due, time.monotonic() + SYNC_SECONDS)
        self._must_sync |= any(artifact.size > INLINE_BYTES for artifact in record.outputs.values())
        return partial(self._succeed, record)

    def _succeed(self, record: TaskRecord) -> None:
        self._journal.task(record)
        self._release(record.task)

    def _release(self, name: str) -> None:
        for dependant in self._dependants[name]:
            unmet = self._unmet[dependant]
            unmet.discard(name)
            if not unmet and not self._record(dependant).state.final:
                self._ready.append(dependant)

    def _fail(self, record: TaskRecord, failure: Failure) -> None:
        """Try again, or give the task up with everything that needs it."""
        record = msgspec.structs.replace(record, failure=failure, finished=record.finished or time.time())
        task = self._tasks[record.task]
        if failure.code in _WORTH_RETRYING and 0 < record.attempts <= task.retries and not self._stopping:
            delay = _delay(task, record.attempts)
            heapq.heappush(self._retries, (time.monotonic() + delay, record.task))
            self._journal.task(msgspec.structs.replace(record, state=TaskState.WAITING), retry_in=delay)
            return
        self._journal.task(msgspec.structs.replace(self._with_log(record), state=TaskState.FAILED))
        doomed = list(self._dependants[record.task])
        while doomed:
            name = doomed.pop()
            if not self._record(name).state.final:
                self._journal.task(
                    msgspec.structs.replace(self._record(name), state=TaskState.SKIPPED), because=record.task
                )
                doomed += self._dependants[name]

    def _close(self, record: TaskRecord, state: TaskState) -> None:
        self._journal.task(msgspec.structs.replace(record, state=state, finished=record.finished or time.time()))

    def _record(self, name: str) -> TaskRecord:
        return self._journal.run.tasks[name]

    def _wake_retries(self) -> None:
        while self._retries and self._retries[0][0] <= time.monotonic():
            self._waiting.append(heapq.heappop(self._retries)[1])

    def _stop(self) -> None:
        if self._stopping:
            return
        self._stop_by = time.monotonic() + CANCEL_SECONDS
        self._ready.clear()
        self._waiting.clear()
        self._retries.clear()
        for name in self.running:
            self._executor.cancel(name)

    # Logs.

    def _append_to_log(self, call: TaskCall, text: str) -> None:
        """Write the end that a task could not write itself into its log."""
        with contextlib.suppress(StorageError):
            log = TaskLog(call, self._journal.pass_on)
            log.line(text, "log")
            log.close()

    def _with_log(self, record: TaskRecord) -> TaskRecord:
        """Keep a task's log as an object; an empty one is none."""
        path = self._logs / f"{record.task}.log"
        try:
            size = path.stat().st_size
        except OSError:
            return record
        if not size:
            return record
        try:
            return msgspec.structs.replace(record, log=self._store.objects.put_file(path))
        except StorageError:
            # The file itself is still there to read; the task's result does not depend on its log.
            self.logs_kept = False
            return record


def _delay(task: Task, attempts: int) -> float:
    """Return the seconds before the next attempt: doubling, bounded, and spread by a fifth so that none meet again."""
    delay = min(task.retry_delay * 2.0 ** (attempts - 1), LONGEST_DELAY)
    return delay * random.uniform(0.8, 1.2)  # noqa: S311  (spreading load is no secret)


def _slow_modules(plan: Plan) -> dict[str, frozenset[str]]:
    """Return for each task which modules that are slow to import are needed by what follows it."""
    found: dict[str, frozenset[str]] = {task.id: frozenset() for task in plan.tasks}
    for task in reversed(plan.tasks):
        own = {task.call.partition(":")[0]} if task.kind in _SLOW_TO_IMPORT else ()
        for need in task.needs:
            found[need] |= found[task.id].union(own)
    return found
