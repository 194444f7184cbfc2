"""Runs tasks in warm worker processes: what kills one of them kills one task, and nothing else.

Each of N slots is a thread that owns at most one worker (`guardian.py` over `worker.py`). It starts the worker when it
has its first task, keeps it for the next ones, and replaces it after a crash, a timeout or a cancellation. While a task
runs, a worker that would be idle imports what a later one is known to need.
"""

from __future__ import annotations

import contextlib
import math
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future, InvalidStateError
from pathlib import Path

import msgspec

from modelyard.contracts import Listener
from modelyard.engines import guardian
from modelyard.engines.capture import Lines, TaskLog, note_placement
from modelyard.engines.frames import Channel, Done, Prepare, Ready, Run, Told
from modelyard.engines.inline import timed_out
from modelyard.engines.task import workdir_of
from modelyard.errors import InputError, ModelyardError, RunError, WorkerLostError
from modelyard.files import storage_errors
from modelyard.records import TaskCall, TaskResult

__all__ = ["ProcessExecutor"]

START_SECONDS = 120.0
"""How long a worker may take to say that it is ready; a loaded machine with a cold disk takes several seconds."""

_GRACE_SECONDS = 6.0
_GUARDIAN = [sys.executable, "-I", "-S", guardian.__file__]
_WORKER = [sys.executable, "-P", "-m", "modelyard.engines.worker"]


class _CancelledError(Exception):
    """The task was cancelled, and its worker killed."""


class _Job:
    """A task on its way through the executor."""

    def __init__(self, call: TaskCall, emit: Listener) -> None:
        self.call = call
        self.emit = emit
        self.future: Future[TaskResult] = Future()
        self.cancelled = False
        self.module = call.call.partition(":")[0]
        self.slot: _Slot | None = None

    def end(self, result: TaskResult | BaseException) -> None:
        """Settle the future, unless its owner cancelled it meanwhile."""
        with contextlib.suppress(InvalidStateError):
            if isinstance(result, _CancelledError):
                self.future.cancel()
            elif isinstance(result, BaseException):
                self.future.set_exception(result)
            else:
                self.future.set_result(result)


class ProcessExecutor:
    """An executor on this machine, in worker processes.

    Args:
        workers: Tasks side by side. Default: one for each core that this process may use.
    """

    name = "processes"

    def __init__(self, workers: int | None = None) -> None:
        self._workers = workers or len(os.sched_getaffinity(0))
        self._lock = threading.Condition()
        self._waiting: deque[_Job] = deque()
        self._running: dict[str, _Job] = {}
        self._slots: list[_Slot] = []
        self._expected: frozenset[str] = frozenset()
        self._closed = False

    @property
    def capacity(self) -> int:
        """Number of workers."""
        return self._workers

    def expect(self, modules: Iterable[str]) -> None:
        """Say what later tasks will import; done ahead, in a worker of its own, once a task runs that needs other code.

        Args:
            modules: Names of modules that are slow to import, and none of a project.
        """
        with self._lock:
            self._expected = frozenset(modules)

    def submit(self, call: TaskCall, emit: Listener) -> Future[TaskResult]:
        """Hand a task to an idle worker, or to the next one that is.

        Args:
            call: What to run.
            emit: Is told of events, in a thread of the executor.

        Raises:
            InputError: The store is one that other processes can't see.
            StorageError: The task's log can't be written.
        """
        if call.store.startswith("memory://"):
            raise InputError(
                "A store in memory can't be seen by worker processes.",
                where=call.store,
                remedy="Use the executor inline, or a store in a folder.",
            )
        note_placement(call, emit, self.name)
        job = _Job(call, emit)
        with self._lock:
            if self._closed:
                raise RuntimeError("This executor is closed.")
            self._waiting.append(job)
            if sum(slot.idle and slot.fitness(job.module) > 0 for slot in self._slots) < len(self._waiting):
                self._add_slot(frozenset())
            if self._expected and job.module not in self._expected:
                self._add_slot(self._expected)
            self._expected = frozenset()
            self._lock.notify_all()
        return job.future

    def cancel(self, task: str) -> None:
        """Stop a task: one that waits is dropped, a running one is killed with all it started."""
        with self._lock:
            for job in [job for job in self._waiting if job.call.task == task]:
                self._waiting.remove(job)
                job.end(_CancelledError())
            running = self._running.get(task)
            if running is not None and running.slot is not None:
                running.cancelled = True
                running.slot.wake()

    def close(self) -> None:
        """Stop every worker; tasks that still run or wait are cancelled."""
        with self._lock:
            self._closed = True
            waiting = [*self._waiting]
            self._waiting.clear()
            for job in self._running.values():
                job.cancelled = True
            self._lock.notify_all()
        for job in waiting:
            job.end(_CancelledError())
        for slot in self._slots:
            slot.wake()
        for slot in self._slots:
            if slot is not threading.current_thread():
                slot.join(2 * _GRACE_SECONDS)

    def next_job(self, slot: _Slot) -> _Job | None:
        """Return the next task for a slot, waiting for one; None when the executor is closed."""
        with self._lock:
            while (job := self._choose(slot)) is None and not self._closed:
                self._lock.wait()
            slot.idle = False
            if job is None or self._closed:
                return None
            self._waiting.remove(job)
            job.slot = slot
            self._running[job.call.task] = job
            # What waits may have been left to this slot.
            self._lock.notify_all()
            return job

    def _choose(self, slot: _Slot) -> _Job | None:
        """Return the first task that waits and that no other idle slot is better prepared for."""
        idle = [slot for slot in self._slots if slot.idle]
        for job in self._waiting:
            best = max(idle, key=lambda slot: slot.fitness(job.module), default=None)
            if best is slot:
                return job
        return None

    def _add_slot(self, prepared: frozenset[str]) -> None:
        if len(self._slots) < self._workers:
            slot = _Slot(self, len(self._slots), prepared)
            slot.start()
            self._slots.append(slot)

    def done(self, job: _Job) -> None:
        """Take a task off the list of running ones."""
        with self._lock:
            if self._running.get(job.call.task) is job:
                del self._running[job.call.task]
            if job.slot is not None:
                job.slot.idle = True


class _Slot(threading.Thread):
    """One thread, and the worker it owns.

    The kernel kills a guardian when the thread that started it ends, so a worker never changes its thread.

    Args:
        pool: Where the tasks come from.
        number: Of the slot.
        prepared: What its worker imports before its first task.
    """

    def __init__(self, pool: ProcessExecutor, number: int, prepared: frozenset[str]) -> None:
        super().__init__(name=f"modelyard-slot-{number}", daemon=True)
        self._pool = pool
        self.idle = True
        """Whether it takes the next task that fits; guarded by the pool's lock."""
        self._prepared = prepared
        self._used = False
        self._worker: _Worker | None = None
        self._wake_read, self._wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def wake(self) -> None:
        """Make the thread look at its task's state."""
        with contextlib.suppress(OSError):
            os.write(self._wake_write, b".")

    def fitness(self, module: str) -> int:
        """Say how well this slot fits a task: best where its module is imported, least where another one is."""
        return 2 if module in self._prepared else 0 if self._prepared else 1

    def run(self) -> None:
        """Run tasks until the executor closes."""
        try:
            self._prepare()
            while (job := self._pool.next_job(self)) is not None:
                result = self._settle(job)
                self._pool.done(job)
                job.end(result)
        finally:
            self.idle = False
            if self._worker is not None:
                self._worker.stop(at_once=not self._used)
            write, self._wake_write = self._wake_write, -1
            os.close(write)
            os.close(self._wake_read)

    def _prepare(self) -> None:
        if self._prepared:
            # Without it the first task has its worker started as ever, and tells what is wrong.
            with contextlib.suppress(ModelyardError, OSError):
                self._worker = _Worker()
                self._worker.channel.send(Prepare(sorted(self._prepared)))

    def _settle(self, job: _Job) -> TaskResult | BaseException:
        try:
            return self._perform(job)
        except (ModelyardError, _CancelledError) as error:
            self._replace(job)
            return error
        except BaseException as error:
            self._replace(job)
            return RunError(f"The executor failed: {type(error).__name__}: {error}.", where=f"step {job.call.task}")

    def _replace(self, job: _Job) -> None:
        if self._worker is not None:
            self._worker.kill()
            self._worker.release()
            self._worker = None
        shutil.rmtree(workdir_of(job.call), ignore_errors=True)

    def _perform(self, job: _Job) -> TaskResult:
        self._used = True
        if self._worker is not None and not self._worker.alive():
            self._replace(job)
        if self._worker is None:
            self._worker = _Worker()
        conversation = _Conversation(job, self._worker, self._wake_read)
        try:
            return conversation.hold()
        finally:
            conversation.close()


class _Conversation:
    """One task's time with a worker.

    Args:
        job: The task.
        worker: Who runs it.
        wake: Becomes readable when the job's state has changed.
    """

    def __init__(self, job: _Job, worker: _Worker, wake: int) -> None:
        self._job = job
        self._worker = worker
        self._wake = wake
        self._lines = Lines()
        self._log: TaskLog | None = None
        self._deadline = time.monotonic() + START_SECONDS
        self._selector = selectors.DefaultSelector()
        for source in (worker.output, worker.channel, wake):
            self._selector.register(source, selectors.EVENT_READ)

    def hold(self) -> TaskResult:
        """Send the task when the worker is ready, pass on what it tells, and return its result.

        Raises:
            StepTimeoutError: The task's time is over.
            WorkerLostError: The worker died, or did not start.
            _CancelledError: The executor was told to.
        """
        if self._worker.ready:
            self._begin()
        while True:
            self._drop_if_cancelled()
            # epoll takes neither infinity nor more than some weeks.
            pause = min(max(0.0, self._deadline - time.monotonic()), 3600.0)
            ready = {key.fileobj for key, _ in self._selector.select(pause)}
            # What a child of the step wrote came before what the step said of it.
            if self._worker.output in ready:
                self._pass_output()
            if self._worker.channel in ready:
                result = self._listen()
                if result is not None:
                    return result
            if self._wake in ready:
                os.read(self._wake, 4096)
            if time.monotonic() >= self._deadline:
                self._give_up()

    def close(self) -> None:
        """Pass on what was written last, and close the log."""
        self._pass_output()
        for line in self._lines.finish():
            self._write(line)
        self._selector.close()
        if self._log is not None:
            self._log.close()

    def _begin(self) -> None:
        call = self._job.call
        self._deadline = math.inf if call.timeout is None else time.monotonic() + call.timeout
        try:
            self._worker.channel.send(Run(call))
        except OSError:
            raise self._lost() from None

    def _listen(self) -> TaskResult | None:
        try:
            messages = self._worker.channel.read()
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise _said_nonsense(self._job.call, str(error)) from error
        if messages is None:
            raise self._lost()
        for message in messages:
            match message:
                case Told(event):
                    if (event.run, event.task) != (self._job.call.run, self._job.call.task):
                        raise _said_nonsense(self._job.call, "it told of a task that is not its own")
                    self._job.emit(event)
                case Done(result):
                    return result
                case Ready():
                    self._worker.ready = True
                    self._begin()
                case _:
                    raise _said_nonsense(self._job.call, "it spoke out of turn")
        return None

    def _drop_if_cancelled(self) -> None:
        if self._job.cancelled:
            self._worker.kill()
            raise _CancelledError

    def _give_up(self) -> None:
        self._worker.kill()
        if self._worker.ready:
            raise timed_out(self._job.call)
        raise WorkerLostError(
            f"The worker process did not start within {START_SECONDS:g} s.",
            where=f"step {self._job.call.task}",
            remedy="See whether the machine is overloaded, and run again with fewer workers.",
        )

    def _lost(self) -> WorkerLostError:
        status = self._worker.wait()
        return _lost_error(self._job.call, status)

    def _pass_output(self) -> None:
        while True:
            try:
                data = os.read(self._worker.output, 1 << 16)
            except BlockingIOError:
                return
            if not data:
                # Every holder of the pipe is gone; a closed pipe would wake the selector for ever.
                with contextlib.suppress(KeyError):
                    self._selector.unregister(self._worker.output)
                return
            for line in self._lines.feed(data):
                self._write(line)

    def _write(self, line: str) -> None:
        if self._log is None:
            self._log = TaskLog(self._job.call, self._job.emit)
        self._log.line(line, "output")


def _said_nonsense(call: TaskCall, why: str) -> WorkerLostError:
    """Return the error for a worker whose socket carries what Modelyard never sends."""
    return WorkerLostError(
        f"The worker process could not be understood: {why}.",
        where=f"step {call.task}",
        remedy="Let the step leave open files that are not its own alone.",
    )


def _lost_error(call: TaskCall, status: int) -> WorkerLostError:
    where = f"step {call.task}"
    if status >= 0:
        return WorkerLostError(
            f"The worker process ended with exit status {status} while it ran the step.",
            where=where,
            remedy="Let the step return or raise instead of ending its process.",
        )
    number = -status
    name = signal.Signals(number).name if number in set(signal.Signals) else "unknown"
    if number == signal.SIGKILL:
        remedy = (
            "The kernel does this when memory runs out: give the step fewer rows, a smaller batch or fewer workers "
            "beside it, or the machine more memory."
        )
    elif number in (signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGILL, signal.SIGFPE):
        remedy = "A native library crashed; the log shows where the Python code was."
    else:
        remedy = "Something outside Modelyard sent it; run again."
    return WorkerLostError(f"The worker process was killed by signal {number} ({name}).", where=where, remedy=remedy)


class _Worker:
    """A worker process under its guardian, its socket, and what it writes to its standard output and error."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        lifeline_read, self._lifeline = os.pipe2(os.O_CLOEXEC)
        self.output, output_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        os.set_blocking(output_write, True)
        self.channel = Channel(ours)
        self.ready = False
        numbers = [str(lifeline_read), str(theirs.fileno())]
        try:
            with storage_errors(sys.executable):
                self._process = subprocess.Popen(
                    [*_GUARDIAN, *numbers, *_WORKER, numbers[1]],
                    stdin=subprocess.DEVNULL,
                    stdout=output_write,
                    stderr=output_write,
                    pass_fds=(lifeline_read, theirs.fileno()),
                    start_new_session=True,
                    cwd=Path(sys.executable).parent,
                )
        except BaseException:
            os.close(self.output)
            os.close(self._lifeline)
            self.channel.close()
            raise
        finally:
            theirs.close()
            os.close(lifeline_read)
            os.close(output_write)

    def alive(self) -> bool:
        """Say whether the worker can take a task: its process runs and has said nothing out of turn."""
        with selectors.DefaultSelector() as selector:
            selector.register(self.channel, selectors.EVENT_READ)
            spoke = bool(selector.select(0))
        return self._process.poll() is None and (not spoke or not self.ready)

    def wait(self) -> int:
        """Return how the worker ended, waiting for its guardian to clean up; kill both where that takes too long."""
        try:
            return self._process.wait(_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            self._kill_group()
            return self._process.wait()

    def kill(self) -> None:
        """Kill the worker with all it started; killing twice is no error."""
        if self._process.poll() is None:
            self._process.terminate()
            self.wait()

    def stop(self, *, at_once: bool = False) -> None:
        """Let an idle worker end, and kill what it left running.

        Args:
            at_once: Do not wait for what it does: it has had no task.
        """
        self.channel.close()
        if not at_once:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_GRACE_SECONDS)
        self.kill()
        self.release()

    def release(self) -> None:
        """Close the socket and the pipes."""
        self.channel.close()
        os.close(self._lifeline)
        os.close(self.output)

    def _kill_group(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
