"""Steps that mean harm, in real worker processes: they fail by themselves, and the scheduler's process goes on."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelyard.engines.processes import ProcessExecutor
from modelyard.errors import ModelyardError, WorkerLostError
from modelyard.records import EventKind, TaskResult
from modelyard.testing.executor import Workplace

STEPS = r"""
import json, os, stat, struct, sys, time

def sockets():
    for descriptor in range(3, 64):
        try:
            if stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                yield descriptor
        except OSError:
            pass

def say(data):
    for descriptor in sockets():
        os.write(descriptor, data)

def garbage():
    say(struct.pack(">I", 5) + b"hello")
    time.sleep(60)

def endless():
    say(struct.pack(">I", 0xFFFFFFF0))
    while True:
        say(b"x" * 65536)

def forge():
    event = {"run": "run", "task": "victim", "kind": "metric", "time": 1.0,
             "data": {"name": "accuracy", "value": 1.0, "step": 1}}
    message = json.dumps({"type": "told", "event": event}).encode()
    say(struct.pack(">I", len(message)) + message)
    time.sleep(60)

def close_all():
    os.closerange(0, 256)
    return 1

def leave():
    os._exit(0)

def kill_guardian():
    os.kill(os.getppid(), 9)
    time.sleep(60)

def nameless():
    class Odd(Exception):
        def __str__(self):
            raise RuntimeError("no text")
    raise Odd

def surrogate(context):
    context.metric("\ud800", 1.0)
    print("\ud800")
    raise ValueError("half a pair: \ud800")

def spoil(context):
    os.chdir("/")
    sys.path.clear()
    sys.modules["json"] = None
    os.environ.clear()
    return 1

def well(context):
    return 1
"""


@pytest.fixture
def place(tmp_path: Path) -> Workplace:
    place = Workplace(tmp_path)
    (place.project / "steps.py").write_text(STEPS)
    return place


@pytest.fixture(scope="module")
def executor() -> Iterator[ProcessExecutor]:
    executor = ProcessExecutor(1)
    yield executor
    executor.close()


def run(executor: ProcessExecutor, place: Workplace, name: str, *outputs: str) -> TaskResult:
    return executor.submit(place.call(name, *outputs), place.events.append).result(60)


@pytest.mark.parametrize("name", ["garbage", "endless", "forge", "close_all", "leave", "kill_guardian"])
def test_a_step_that_spoils_its_worker_is_lost_alone_and_the_next_step_runs(
    executor: ProcessExecutor, place: Workplace, name: str
) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(WorkerLostError) as caught:
        run(executor, place, name)
    assert isinstance(caught.value, ModelyardError)
    assert caught.value.remedy
    assert not [event for event in place.events if event.task != "task" or event.kind is EventKind.METRIC]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024, "kilobytes"
    assert run(executor, place, "well", "value").failure is None


@pytest.mark.parametrize(("name", "what"), [("nameless", "Odd"), ("surrogate", "ValueError: half a pair: \\ud800")])
def test_an_error_that_can_not_be_told_is_the_steps_failure_and_not_its_workers(
    executor: ProcessExecutor, place: Workplace, name: str, what: str
) -> None:
    failure = run(executor, place, name).failure
    assert failure is not None
    assert (failure.code, failure.what) == ("step", what)


def test_a_step_that_spoils_its_process_does_not_spoil_the_next_one(
    executor: ProcessExecutor, place: Workplace
) -> None:
    run(executor, place, "spoil", "value")
    again = run(executor, place, "well", "value")
    assert again.failure is None
    assert Path.cwd() != Path("/")
