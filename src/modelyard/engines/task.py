"""Executes one task: loads its inputs, calls its function, saves its outputs. No other code runs a step."""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import math
import os
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from modelyard.contracts import Listener
from modelyard.engines.capture import Capture, TaskLog
from modelyard.engines.loading import StepLoader
from modelyard.errors import InputError, MinimumNotMetError, ModelyardError, StepError
from modelyard.files import storage_error, storage_errors
from modelyard.records import Artifact, Event, EventKind, Failure, TaskCall, TaskResult
from modelyard.store.store import Store

__all__ = ["StepContext", "Workbench", "execute", "failure_of", "workdir_of"]

_CALLERS = (str(Path(__file__).parent) + os.sep, "<frozen importlib", str(importlib.__file__))
"""Files whose frames stand above a step's own in a traceback, and tell its author nothing."""

_PROGRESS_INTERVAL = 0.1


class Workbench:
    """What a process keeps between tasks: imported steps, and its captured output streams.

    Args:
        loader: Finds step functions. Default: a fresh one.
        sync: Make outputs durable before the result is returned. False where whoever takes the result uses the same
            `Store` object, and syncs it before it writes of the result.
    """

    def __init__(self, loader: StepLoader | None = None, *, sync: bool = True) -> None:
        self.loader = loader or StepLoader()
        self.capture = Capture()
        self.sync = sync
        self.in_step = False
        """Whether the step's own code runs now: the one time at which it may be interrupted."""
        self.before_step: Callable[[], None] = lambda: None
        """Called last before the step's own code, so that who wanted to interrupt earlier can do it now."""


class StepContext:
    """What a step may know and tell while it runs; see `modelyard.contracts.Context`.

    Args:
        call: The task.
        emit: Is told of metrics and progress.
        log: Takes the lines.
    """

    def __init__(self, call: TaskCall, emit: Listener, log: TaskLog) -> None:
        self.project = Path(call.project)
        self.seed = call.seed
        self.cores = call.cores
        self.outputs = tuple(call.outputs)
        self.metrics: dict[str, float] = {}
        self._call = call
        self._emit = emit
        self._log = log
        self._next_progress = 0.0

    @functools.cached_property
    def workdir(self) -> Path:
        """An empty folder of this attempt's own, made when first asked for and removed afterwards."""
        folder = workdir_of(self._call)
        with storage_errors(folder):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        return folder

    def log(self, message: str) -> None:
        """Write to the task's log; a message of several lines is several lines."""
        # What was printed before must stand before it.
        sys.stdout.flush()
        for line in str(message).splitlines() or [""]:
            self._log.line(line, "log")

    def metric(self, name: str, value: float, step: int | None = None) -> None:
        """Record a metric: with `step` a point of a curve, without it the task's final value of that name."""
        name, number = _writable(str(name)), float(value)
        if not math.isfinite(number):
            # JSON has no NaN, and a best run must not be found by comparing with one.
            self.log(f"The metric {name} is {number}{'' if step is None else f' at step {step}'}: not recorded.")
            return
        if step is None:
            self.metrics[name] = number
        self._tell(EventKind.METRIC, {"name": name, "value": number, "step": step})

    def progress(self, done: float, total: float, unit: str = "") -> None:
        """Tell how far the step is; calls in quick succession are thinned out, the last one is not."""
        now = time.monotonic()
        if now >= self._next_progress or done >= total:
            self._next_progress = now + _PROGRESS_INTERVAL
            self._tell(EventKind.PROGRESS, {"done": float(done), "total": float(total), "unit": _writable(unit)})

    def _tell(self, kind: EventKind, data: dict[str, Any]) -> None:
        self._emit(Event(self._call.run, self._call.task, kind, time.time(), data))


def execute(call: TaskCall, store: Store, emit: Listener, bench: Workbench | None = None) -> TaskResult:
    """Run one task in this process.

    While it runs, the project folder is the current folder and the first entry of the import path.

    Args:
        call: What to run.
        store: Where inputs come from and outputs go to.
        emit: Is told of log lines, metrics and progress, in the thread that the step speaks in.
        bench: What is kept between tasks of one process. Default: nothing is.

    Returns:
        Outputs that are durable in the store, or a failure. No exception of a step or of Modelyard leaves this
        function; KeyboardInterrupt and the like do.
    """
    started = time.time()
    bench = bench or Workbench()
    emit = bench.capture.aside(emit)
    try:
        log = TaskLog(call, emit)
    except ModelyardError as error:
        return TaskResult(failure=failure_of(error), started=started, finished=time.time())
    context = StepContext(call, emit, log)
    try:
        with bench.capture.into(log), _in_project(call.project), bench.loader.importing(call.project):
            outputs, failure = _attempt(call, store, context, bench)
        return TaskResult(
            outputs=outputs, metrics=context.metrics, failure=failure, started=started, finished=time.time()
        )
    except ModelyardError as error:
        return TaskResult(failure=failure_of(error), started=started, finished=time.time())
    finally:
        log.close()
        if "workdir" in vars(context):
            shutil.rmtree(context.workdir, ignore_errors=True)


def workdir_of(call: TaskCall) -> Path:
    """Return the folder that an attempt of a task may use as its own."""
    return Path(call.log).with_suffix(f".attempt-{call.attempt}")


def failure_of(error: ModelyardError) -> Failure:
    """Return an error as it is kept in a record."""
    return Failure(*map(_writable, (error.code, error.what, error.where or "", error.remedy or "")))


def _attempt(
    call: TaskCall, store: Store, context: StepContext, bench: Workbench
) -> tuple[dict[str, Artifact], Failure | None]:
    try:
        function = bench.loader.function(call)
        arguments = _bind(function, call, store, context)
        bench.in_step = True
        try:
            bench.before_step()
            value = function(**arguments)
        finally:
            bench.in_step = False
        return _kept(_named(value, call), store, context, bench), None
    except MinimumNotMetError as error:
        print(_trimmed(error), end="", file=sys.stderr)  # noqa: T201  (standard error is the task's log here)
        try:
            return _kept(error.outputs, store, context, bench), failure_of(error)
        except ModelyardError as second:
            return {}, failure_of(second)
    except ModelyardError as error:
        print(_trimmed(error), end="", file=sys.stderr)  # noqa: T201  (standard error is the task's log here)
        return {}, failure_of(error)
    except (Exception, SystemExit) as error:
        print(_trimmed(error), end="", file=sys.stderr)  # noqa: T201  (standard error is the task's log here)
        return {}, _step_failure(error, call)


def _kept(outputs: Mapping[str, Any], store: Store, context: StepContext, bench: Workbench) -> dict[str, Artifact]:
    """Keep what a step made, and take its metrics."""
    _take_metrics(outputs.get("metrics"), context)
    artifacts = {name: store.save(value) for name, value in outputs.items()}
    if bench.sync:
        store.sync()
    return artifacts


def _bind(function: Callable[..., Any], call: TaskCall, store: Store, context: StepContext) -> dict[str, Any]:
    """Return the arguments of a call, by name; raises InputError where they do not fit the signature."""
    signature = inspect.signature(function)
    kinds = inspect.Parameter
    given = set(call.inputs) | set(call.parameters)
    wanted = [p for p in signature.parameters.values() if p.kind in (kinds.POSITIONAL_OR_KEYWORD, kinds.KEYWORD_ONLY)]
    names = {parameter.name for parameter in wanted}
    takes_all = any(p.kind is kinds.VAR_KEYWORD for p in signature.parameters.values())
    both = sorted(set(call.inputs) & set(call.parameters))
    missing = [p.name for p in wanted if p.default is kinds.empty and p.name not in given and p.name != "context"]
    unknown = [] if takes_all else sorted(given - names)
    problems = [
        f"{text} {', '.join(found)}"
        for text, found in (
            ("lacks", missing),
            ("does not take", unknown),
            ("gets both an input and a parameter called", both),
        )
        if found
    ]
    if problems:
        takes = ", ".join(p.name for p in wanted if p.name != "context") or "nothing"
        raise InputError(
            f"{call.call} {'; '.join(problems)}.",
            where=f"step {call.task}",
            remedy=f"It takes {takes}; set them in the step's inputs and parameters.",
        )
    arguments: dict[str, Any] = {**call.parameters}
    if "context" in names and "context" not in given:
        arguments["context"] = context
    for port, artifact in call.inputs.items():
        arguments[port] = store.load(artifact)
    return arguments


def _named(value: Any, call: TaskCall) -> dict[str, Any]:
    """Return what a step returned, by output; raises StepError where it is not what the step declares."""
    names = call.outputs
    if isinstance(value, Mapping) and set(value) == set(names):
        return {name: value[name] for name in names}
    if len(names) == 1 and value is not None:
        return {names[0]: value}
    if not names and value is None:
        return {}
    if len(names) > 1 and isinstance(value, tuple) and len(value) == len(names):
        return dict(zip(names, value, strict=True))
    if isinstance(value, Mapping):
        returned = f"a dict with {', '.join(map(str, value)) or 'no keys'}"
    elif isinstance(value, tuple):
        returned = f"{len(value)} values"
    else:
        returned = "nothing" if value is None else f"one {type(value).__name__}"
    raise StepError(
        f"{call.call} returned {returned}, but the step's outputs are {', '.join(names) or 'none'}.",
        where=f"step {call.task}",
        remedy="Return a dict with exactly these keys, or name what it returns in the step's `outputs`.",
    )


def _take_metrics(value: Any, context: StepContext) -> None:
    if isinstance(value, Mapping):
        for name, number in value.items():
            if isinstance(number, int | float) and not isinstance(number, bool):
                context.metric(str(name), number)


@contextlib.contextmanager
def _in_project(project: str) -> Iterator[None]:
    try:
        before = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        # The folder we stand in was removed; there is nothing to go back to.
        before = None
    try:
        os.chdir(project)
    except OSError as error:
        raise storage_error(project, error) from error
    try:
        yield
    finally:
        if before is not None:
            os.fchdir(before)
            os.close(before)


def _trimmed(error: BaseException) -> str:
    """Return an error's traceback as the step's author wants it: without the frames that called the step."""
    return "".join(traceback.format_exception(type(error), error, _below(error.__traceback__)))


def _below(trace: TracebackType | None) -> TracebackType | None:
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith(_CALLERS):
        trace = trace.tb_next
    return trace


def _step_failure(error: BaseException, call: TaskCall) -> Failure:
    try:
        text = f"sys.exit({error.code!r})" if isinstance(error, SystemExit) else str(error).strip()
    except Exception:
        # An error of a step's own class may fail while it tells what it is.
        text = ""
    what = f"{type(error).__name__}: {text}" if text else type(error).__name__
    if isinstance(error, SystemExit):
        what = f"The step left by {text or 'sys.exit'}."
    return Failure(
        StepError.code,
        _writable(what),
        _writable(_place(error, call)),
        f"The traceback stands in its log: modelyard logs {call.run} {call.task}",
    )


def _writable(text: str) -> str:
    """Return a text as JSON and UTF-8 can hold it: half a surrogate pair becomes its escape."""
    return text.encode("utf-8", "backslashreplace").decode()


def _place(error: BaseException, call: TaskCall) -> str:
    """Return file and line of the last frame in the project's code, else of the last frame."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    frames = traceback.extract_tb(_below(error.__traceback__))
    inside = [frame for frame in frames if frame.filename.startswith(call.project.rstrip("/") + "/")]
    if not frames:
        return f"step {call.task}"
    frame = (inside or frames)[-1]
    name = frame.filename.removeprefix(call.project.rstrip("/") + "/")
    return f"{name}:{frame.lineno} in {frame.name}"
