"""A run is interrupted where the process that it names is gone, or is another one by now."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import msgspec
import pytest

from modelyard.catalog import is_alive, process_identity, settle
from modelyard.records import RunRecord, RunState, TaskRecord, TaskState


@pytest.fixture
def mine() -> RunRecord:
    tasks = {state.value: TaskRecord(task=state.value, kind="python", state=state) for state in TaskState}
    return RunRecord(
        id="r", blueprint="b", blueprint_digest="d", tasks=tasks, pid=os.getpid(), host=socket.gethostname(),
        process=process_identity(os.getpid()),
    )  # fmt: skip


def test_a_process_has_one_identity_and_two_have_two() -> None:
    assert process_identity(os.getpid()) == process_identity(os.getpid())
    assert process_identity(os.getpid()) != process_identity(os.getppid())


def test_a_process_that_is_gone_has_no_identity() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert process_identity(child.pid) == "", "it has ended, and is not reaped"
    child.wait()
    assert process_identity(child.pid) == ""


def test_a_name_with_brackets_and_spaces_does_not_mislead() -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", "open('/proc/self/comm','w').write(') Z 1 2 (');print(flush=True);input()"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert child.stdout is not None
    before = process_identity(child.pid)
    child.stdout.readline()
    assert process_identity(child.pid) == before != ""
    child.communicate(b"\n")


def test_a_running_process_is_alive(mine: RunRecord) -> None:
    assert is_alive(mine)


def test_a_later_process_with_the_same_pid_is_not_taken_for_it(mine: RunRecord) -> None:
    boot, pid, ticks = mine.process.split("/")
    for other in (f"{boot}/{pid}/{int(ticks) - 1}", f"another-boot/{pid}/{ticks}"):
        assert not is_alive(msgspec.structs.replace(mine, process=other))


def test_a_record_that_knows_only_a_pid_is_judged_by_it(mine: RunRecord) -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    assert is_alive(msgspec.structs.replace(mine, process=""))
    assert is_alive(msgspec.structs.replace(mine, process="", pid=1))
    assert not is_alive(msgspec.structs.replace(mine, process="", pid=child.pid))


def test_a_run_of_another_machine_is_taken_to_be_alive(mine: RunRecord) -> None:
    assert is_alive(msgspec.structs.replace(mine, host="elsewhere", process="x/1"))


def test_a_dead_run_is_interrupted_and_its_open_tasks_with_it(mine: RunRecord) -> None:
    settled = settle(mine, lambda _: False)
    assert settled.state is RunState.INTERRUPTED
    changed = {name: task.state for name, task in settled.tasks.items() if task.state != name}
    assert changed == {"running": TaskState.INTERRUPTED, "waiting": TaskState.SKIPPED}
    assert settle(settled, lambda _: False) == settled


def test_a_living_run_stays_as_it_is(mine: RunRecord) -> None:
    assert settle(mine, lambda _: True) is mine


@pytest.mark.parametrize("state", [state for state in RunState if state is not RunState.RUNNING])
def test_nobody_asks_whether_a_run_that_has_ended_is_alive(mine: RunRecord, state: RunState) -> None:
    ended = msgspec.structs.replace(mine, state=state)
    assert settle(ended, lambda _: pytest.fail("asked")) is ended
