"""What every executor must do; run over each in `tests/conformance/test_executor.py`."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future
from pathlib import Path
from typing import Any

import pytest

from modelyard.contracts import Executor, Listener
from modelyard.errors import StepTimeoutError, WorkerLostError
from modelyard.records import Artifact, Event, EventKind, TaskCall, TaskResult
from modelyard.store.store import Store

__all__ = ["STEPS", "ExecutorConformance", "IsolatedExecutorConformance", "Workplace"]

STEPS = """
import logging, os, signal, sys, time

def add(context, *, left, right=2):
    context.log(f"adding {left} and {right}")
    return {"total": left + right}

def talk(context):
    print("one")
    print("two", file=sys.stderr)
    logging.getLogger("steps").info("three")
    context.log("four")
    return "said"

def measure(context):
    for step in range(3):
        context.metric("loss", 1.0 / (step + 1), step)
    context.metric("accuracy", 0.75)
    context.progress(3, 3, "epochs")
    return {"value": 1}

def fail():
    raise ValueError("the seventh row is empty")

def sleep(context, *, seconds=60.0):
    context.log("asleep")
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.01)
    return "awake"

def kill(*, number=9):
    os.kill(os.getpid(), number)
    time.sleep(60)

def leave():
    os._exit(7)

def where(context):
    (context.workdir / "note").write_text("here")
    return {"cwd": os.getcwd(), "project": str(context.project), "seed": context.seed}
"""


class Workplace:
    """A project folder with `STEPS`, a store, and calls into it.

    Args:
        folder: An empty folder.
    """

    def __init__(self, folder: Path) -> None:
        self.project = folder / "project"
        self.project.mkdir()
        (self.project / "steps.py").write_text(STEPS)
        self.store = Store.open(f"file://{folder}/store")
        self.logs = folder / "logs"
        self.events: list[Event] = []

    def call(
        self,
        name: str,
        *outputs: str,
        task: str = "task",
        parameters: dict[str, Any] | None = None,
        inputs: dict[str, Artifact] | None = None,
        timeout: float | None = None,
        target_label: str | None = None,
    ) -> TaskCall:
        """Return the call of a function of `STEPS`."""
        return TaskCall(
            run="run", task=task, kind="python", call=f"steps:{name}", parameters=parameters or {},
            inputs=inputs or {}, outputs=list(outputs), code={}, project=str(self.project), store=self.store.url,
            log=str(self.logs / f"{task}.log"), seed=5, timeout=timeout, target_label=target_label,
        )  # fmt: skip

    def lines(self, task: str = "task") -> list[str]:
        """Return the lines told so far."""
        return [event.data["line"] for event in self.events if event.task == task and event.kind is EventKind.LOG]

    def log(self, task: str = "task") -> list[str]:
        """Return the lines of a task's log file."""
        return (self.logs / f"{task}.log").read_text().splitlines()

    def wait_for(self, line: str, seconds: float = 60.0) -> None:
        """Wait until a line was told."""
        end = time.monotonic() + seconds
        while not any(line in told for event in list(self.events) for told in [str(event.data.get("line"))]):
            assert time.monotonic() < end, f"nobody said {line!r}"
            time.sleep(0.005)


class ExecutorConformance:
    """The rules of `modelyard.contracts.Executor`. Inherit, and say how to make one."""

    def make_executor(self, workers: int) -> Executor:
        """Return a new executor."""
        raise NotImplementedError

    @pytest.fixture
    def place(self, tmp_path: Path) -> Workplace:
        """A project with steps."""
        return Workplace(tmp_path)

    @pytest.fixture
    def executor(self) -> Iterator[Executor]:
        """One executor with one worker."""
        executor = self.make_executor(1)
        yield executor
        executor.close()

    def test_a_result_is_in_the_store_when_the_future_ends(self, place: Workplace, executor: Executor) -> None:
        result = executor.submit(place.call("add", "total", parameters={"left": 40}), place.events.append).result(60)
        assert result.failure is None
        assert place.store.load(result.outputs["total"]) == 42
        assert 0 < result.started <= result.finished

    def test_inputs_arrive_as_values(self, place: Workplace, executor: Executor) -> None:
        left = place.store.save(5)
        place.store.sync()
        result = executor.submit(place.call("add", "total", inputs={"left": left}), place.events.append).result(60)
        assert place.store.load(result.outputs["total"]) == 7

    def test_equal_calls_give_equal_digests(self, place: Workplace, executor: Executor) -> None:
        call = place.call("add", "total", parameters={"left": 1, "right": 1})
        digests = {executor.submit(call, place.events.append).result(60).outputs["total"].digest for _ in range(3)}
        assert len(digests) == 1

    def test_an_exception_is_a_failure_with_its_text_and_place(self, place: Workplace, executor: Executor) -> None:
        failure = executor.submit(place.call("fail"), place.events.append).result(60).failure
        assert failure is not None
        assert (failure.code, failure.what) == ("step", "ValueError: the seventh row is empty")
        assert failure.where.startswith("steps.py:")

    def test_the_log_shows_the_users_traceback_and_nobody_elses(self, place: Workplace, executor: Executor) -> None:
        executor.submit(place.call("fail"), place.events.append).result(60)
        log = "\n".join(place.log())
        assert 'steps.py", line' in log
        assert "ValueError: the seventh row is empty" in log
        assert "modelyard/engines" not in log

    def test_wrong_arguments_are_an_input_error_that_names_them(self, place: Workplace, executor: Executor) -> None:
        call = place.call("add", "total", parameters={"rihgt": 1})
        failure = executor.submit(call, place.events.append).result(60).failure
        assert failure is not None
        assert failure.code == "input"
        assert "lacks left" in failure.what
        assert "rihgt" in failure.what

    def test_every_line_is_told_in_order_and_stands_in_the_log(self, place: Workplace, executor: Executor) -> None:
        executor.submit(place.call("talk", "said"), place.events.append).result(60)
        expected = ["one", "two", "INFO steps: three", "four"]
        assert place.lines() == expected
        assert place.log() == expected

    def test_metrics_are_told_and_the_final_ones_returned(self, place: Workplace, executor: Executor) -> None:
        result = executor.submit(place.call("measure", "value"), place.events.append).result(60)
        told = [
            (event.data["name"], event.data["value"], event.data["step"])
            for event in place.events
            if event.kind is EventKind.METRIC
        ]
        assert told == [("loss", 1.0, 0), ("loss", 0.5, 1), ("loss", 1.0 / 3, 2), ("accuracy", 0.75, None)]
        assert result.metrics == {"accuracy": 0.75}
        progress = [event.data for event in place.events if event.kind is EventKind.PROGRESS]
        assert progress == [{"done": 3.0, "total": 3.0, "unit": "epochs"}]

    def test_events_come_before_the_future_ends(self, place: Workplace, executor: Executor) -> None:
        seen: list[int] = []
        future = executor.submit(place.call("talk", "said"), place.events.append)
        future.add_done_callback(lambda _: seen.append(len(place.events)))
        future.result(60)
        time.sleep(0.05)
        assert seen == [len(place.events)]

    def test_a_step_runs_in_its_project_with_a_folder_of_its_own(self, place: Workplace, executor: Executor) -> None:
        before = Path.cwd()
        result = executor.submit(place.call("where", "cwd", "project", "seed"), place.events.append).result(60)
        assert place.store.load(result.outputs["cwd"]) == str(place.project)
        assert place.store.load(result.outputs["seed"]) == 5
        assert Path.cwd() == before
        assert {path.name for path in place.logs.iterdir()} <= {"task.log"}, "nothing is left but a log"

    def test_a_step_that_passes_its_timeout_is_stopped(self, place: Workplace, executor: Executor) -> None:
        begun = time.monotonic()
        future = executor.submit(place.call("sleep", "state", timeout=0.3), place.events.append)
        with pytest.raises(StepTimeoutError, match=r"0\.3 s"):
            future.result(60)
        assert time.monotonic() - begun < 30

    def test_a_cancelled_task_ends_cancelled_and_the_next_one_runs(self, place: Workplace, executor: Executor) -> None:
        def cancel() -> None:
            place.wait_for("asleep")
            executor.cancel("task")

        canceller = threading.Thread(target=cancel)
        canceller.start()
        future = executor.submit(place.call("sleep", "state"), place.events.append)
        with pytest.raises(CancelledError):
            future.result(60)
        canceller.join()
        assert future.cancelled()
        result = executor.submit(place.call("add", "total", parameters={"left": 1}), place.events.append).result(60)
        assert result.failure is None

    def test_cancelling_an_unknown_task_does_nothing(self, executor: Executor) -> None:
        executor.cancel("nobody")

    def test_code_edited_between_two_tasks_is_run_as_it_is_now(self, place: Workplace, executor: Executor) -> None:
        call = place.call("add", "total", parameters={"left": 1})
        executor.submit(call, place.events.append).result(60)
        steps = place.project / "steps.py"
        # The same length within the same second: byte code would not notice.
        steps.write_text(steps.read_text().replace("left + right", "left - right"))
        result = executor.submit(call, place.events.append).result(60)
        assert place.store.load(result.outputs["total"]) == -1

    def test_capacity_tasks_run_side_by_side(self, place: Workplace) -> None:
        executor = self.make_executor(2)
        try:
            begun = time.monotonic()
            warm = [self._sleep(executor, place, f"warm{index}", 0.0) for index in range(executor.capacity)]
            assert all(future.result(60).failure is None for future in warm)
            begun = time.monotonic()
            futures = [self._sleep(executor, place, f"task{index}", 0.5) for index in range(executor.capacity)]
            assert all(future.result(60).failure is None for future in futures)
            assert time.monotonic() - begun < 0.5 * 1.9
        finally:
            executor.close()

    def test_closing_twice_is_no_error(self, place: Workplace) -> None:
        executor = self.make_executor(1)
        executor.submit(place.call("add", "total", parameters={"left": 1}), place.events.append).result(60)
        executor.close()
        executor.close()
        with pytest.raises(RuntimeError, match="closed"):
            executor.submit(place.call("fail"), place.events.append)

    @staticmethod
    def _sleep(executor: Executor, place: Workplace, task: str, seconds: float) -> Future[TaskResult]:
        emit: Listener = place.events.append
        return executor.submit(place.call("sleep", "state", task=task, parameters={"seconds": seconds}), emit)


class IsolatedExecutorConformance(ExecutorConformance):
    """The further rules of an executor that runs steps in processes of their own."""

    def test_a_killed_worker_is_that_tasks_failure_and_nobody_elses(self, place: Workplace, executor: Executor) -> None:
        future = executor.submit(place.call("kill"), place.events.append)
        with pytest.raises(WorkerLostError, match="SIGKILL") as caught:
            future.result(60)
        assert caught.value.remedy is not None
        assert "memory" in caught.value.remedy
        with pytest.raises(WorkerLostError, match="exit status 7"):
            executor.submit(place.call("leave"), place.events.append).result(60)
        result = executor.submit(place.call("add", "total", parameters={"left": 1}), place.events.append).result(60)
        assert result.failure is None
