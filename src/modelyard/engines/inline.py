"""Runs each task in the calling thread: the quickest way, and the one that a debugger can step through.

While Modelyard's own code reads and transforms data, which is the work of NumPy and the disk, another thread imports
what a later task is known to need. A step of the project's own always has its process to itself.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from types import FrameType
from typing import Any

from modelyard.contracts import Listener
from modelyard.engines.capture import note_placement
from modelyard.engines.loading import StepLoader
from modelyard.engines.task import Workbench, execute
from modelyard.errors import ModelyardError, StepTimeoutError
from modelyard.records import TaskCall, TaskResult
from modelyard.store.store import Store

__all__ = ["InlineExecutor"]

_NUDGE = signal.SIGURG
"""Its default is to be ignored: one that arrives late harms nobody."""

_BESIDE = frozenset({"modelyard.steps.importer", "modelyard.steps.transform"})
"""Steps beside which something may be imported: they fork nothing, and what they import is small."""


class _Stopped(BaseException):
    """Raised inside a step to make it stop; no step means to catch it."""


class InlineExecutor:
    """An executor for one task at a time, in this process and thread.

    A step can be stopped between two of Python's instructions, and in the main thread also while it sleeps or waits; a
    native library that does not return can't be stopped. Use `processes` where that matters.

    Args:
        store: Where tasks of its URL keep their outputs; left out, or for another URL: one is opened. Whoever gives one
            must sync it before anything is written that leads to a task's outputs; `Names.set` does.
        loader: Finds step functions. Default: a fresh one.
    """

    name = "inline"

    def __init__(self, store: Store | None = None, loader: StepLoader | None = None) -> None:
        self._stores = {} if store is None else {store.url: store}
        self._bench = Workbench(loader, sync=store is None)
        self._interrupts = _Interrupts(self._bench)
        self._bench.before_step = self._interrupts.check
        self._ahead = _Ahead()
        self._closed = False

    @property
    def capacity(self) -> int:
        """One."""
        return 1

    def expect(self, modules: Iterable[str]) -> None:
        """Say what later tasks will import; done ahead, in a thread, while a task of `_BESIDE` runs.

        Args:
            modules: Names of modules that are slow to import, and none of a project.
        """
        self._ahead.modules = frozenset(modules)

    def submit(self, call: TaskCall, emit: Listener) -> Future[TaskResult]:
        """Run a task to its end, and return its finished future."""
        if self._closed:
            raise RuntimeError("This executor is closed.")
        future: Future[TaskResult] = Future()
        result: TaskResult | None = None
        try:
            note_placement(call, emit, self.name)
            store = self._stores.get(call.store) or Store.open(call.store)
            self._stores[call.store] = store
            with self._interrupts.during(call):
                if call.call.partition(":")[0] in _BESIDE:
                    self._ahead.start()
                else:
                    self._ahead.wait()
                result = execute(call, store, emit, self._bench)
        except _Stopped:
            pass
        except ModelyardError as error:
            future.set_exception(error)
            return future
        if self._interrupts.reason == "timeout":
            future.set_exception(timed_out(call))
        elif result is None or self._interrupts.reason:
            future.cancel()
        else:
            future.set_result(result)
        return future

    def cancel(self, task: str) -> None:
        """Stop the task if it is the one that runs; to be called from another thread, or from a listener."""
        self._interrupts.stop("cancelled", task)

    def close(self) -> None:
        """Take no further tasks; an import that has begun comes to its end."""
        self._closed = True
        self._ahead.wait()


def timed_out(call: TaskCall) -> StepTimeoutError:
    """Return the error for a task that passed its timeout."""
    return StepTimeoutError(
        f"The step ran longer than {call.timeout:g} s and was stopped.",
        where=f"step {call.task}",
        remedy="Give it a longer `timeout`, or less to do.",
    )


class _Ahead:
    """Imports modules in a thread.

    The thread is waited for before any code runs that is not Modelyard's own: a child that is forked while another
    thread imports would wait for that import for ever. What fails is told when the module is needed.
    """

    def __init__(self) -> None:
        self.modules: frozenset[str] = frozenset()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin with what is not imported yet, once."""
        wanted = sorted(self.modules - sys.modules.keys())
        self.modules = frozenset()
        if wanted and self._thread is None:
            self._thread = threading.Thread(target=self._import, args=(wanted,), name="modelyard-ahead")
            self._thread.start()

    def wait(self) -> None:
        """Wait for what has begun."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _import(self, names: list[str]) -> None:
        for name in names:
            with contextlib.suppress(Exception):
                importlib.import_module(name)


class _Interrupts:
    """Makes the running step stop from outside, by a signal in the main thread and by an exception in others.

    Args:
        bench: Knows whether a step's own code runs: never is the code interrupted that saves and cleans up.
    """

    def __init__(self, bench: Workbench) -> None:
        self._bench = bench
        self._task: str | None = None
        self._thread = 0
        self.reason: str | None = None

    @contextlib.contextmanager
    def during(self, call: TaskCall) -> Iterator[None]:
        """Let the block be stopped: by `stop`, by the call's timeout, and by Ctrl-C if somebody else handles it."""
        self.reason = None
        self._thread = threading.get_ident()
        self._task = call.task
        timer = None
        if call.timeout is not None:
            timer = threading.Timer(call.timeout, self.stop, ("timeout", call.task))
            timer.daemon = True
            timer.start()
        try:
            if threading.current_thread() is threading.main_thread():
                with self._handlers():
                    yield
            else:
                yield
        finally:
            self._task = None
            if timer is not None:
                timer.cancel()

    def stop(self, reason: str, task: str) -> None:
        """Stop the running task if it is this one."""
        if self._task != task or self.reason is not None:
            return
        self.reason = reason
        if self._thread == threading.main_thread().ident:
            signal.pthread_kill(self._thread, _NUDGE)
        elif self._bench.in_step:
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self._thread), ctypes.py_object(_Stopped))

    @contextlib.contextmanager
    def _handlers(self) -> Iterator[None]:
        before: dict[signal.Signals, Any] = {_NUDGE: signal.signal(_NUDGE, self._nudged)}
        for number in (signal.SIGINT, signal.SIGTERM):
            handler = signal.getsignal(number)
            # Python's own SIGINT handler raises already, and an absent one kills.
            if callable(handler) and handler is not signal.default_int_handler:
                before[number] = signal.signal(number, self._passing(handler))
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def check(self) -> None:
        """Stop the step where that was wanted."""
        if self.reason is not None and self._bench.in_step:
            self._bench.in_step = False
            raise _Stopped

    def _nudged(self, _number: int, _frame: FrameType | None) -> None:
        self.check()

    def _passing(self, handler: Callable[[int, FrameType | None], Any]) -> Callable[[int, FrameType | None], None]:
        def handle(number: int, frame: FrameType | None) -> None:
            handler(number, frame)
            self.reason = self.reason or "cancelled"
            self.check()

        return handle
