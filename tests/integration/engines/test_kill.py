"""Real processes, really killed: nothing that was said done is lost, and nothing outlives its run."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from modelyard.records import RunRecord, RunState, TaskState
from modelyard.store.store import Store

STEPS = """
import os, signal, subprocess, sys, time
from pathlib import Path

def begin(context):
    count(context, "begin")
    return {"value": 1}

def slow(context, *, value):
    count(context, "slow")
    count(context, "pids", f"{os.getpid()} {os.getppid()}\\n")
    time.sleep(0.0 if (context.project / "quick").exists() else 600)
    return {"value": value + 1}

def forks(context, *, how="wait"):
    child = os.fork()
    if child == 0:
        os.setsid()
        time.sleep(600)
        os._exit(0)
    shell = subprocess.Popen(["sh", "-c", "sleep 600 & echo $! >> shell.pids; wait"], start_new_session=True)
    while not Path("shell.pids").exists():
        time.sleep(0.01)
    background = int(Path("shell.pids").read_text())
    count(context, "pids", f"{os.getpid()} {os.getppid()} {child} {shell.pid} {background}\\n")
    if how == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(600)

def count(context, name, text="."):
    with (context.project / f"{name}.count").open("a") as file:
        file.write(text)
"""

RUNNER = """
import sys, time
from pathlib import Path
import msgspec
from modelyard.blueprint.code import CodeReader
from modelyard.blueprint.plan import Plan, Source, Task
from modelyard.engines.executors import open_executor
from modelyard.engines.scheduler import Scheduler
from modelyard.records import RunRecord
from modelyard.store.store import Store

def task(name, function, *needs, **more):
    inputs = {"value": Source(needs[0], "value")} if needs else {}
    return Task(id=name, kind="python", call=f"work:{function}", parameters=more.pop("parameters", {}), inputs=inputs,
                types=more.pop("types", {"value": "any"}), needs=needs, files={}, **more)

PLANS = {
    "slow": lambda: Plan("demo", "0", "classification", (task("one", "begin"), task("two", "slow", "one"))),
    "forks": lambda: Plan("demo", "0", "classification", (task("one", "forks", timeout=600.0, types={}),)),
    "forks-timeout": lambda: Plan("demo", "0", "classification", (task("one", "forks", timeout=3.0, types={}),)),
    "forks-die": lambda: Plan("demo", "0", "classification", (
        task("one", "forks", types={}, parameters={"how": "die"}),)),
}

def main(project, store_url, executor_name, plan, run, resume):
    store = Store.open(store_url)
    old = None
    if resume:
        old = msgspec.json.decode(store.objects.get(store.names.get(f"runs/{resume}")), type=RunRecord)
    with open_executor(executor_name, workers=2, store=store) as executor:
        scheduler = Scheduler(store, CodeReader(Path(project)), executor)
        record = RunRecord(id=run, blueprint="demo", blueprint_digest="0", started=time.time())
        finished = scheduler.run(PLANS[plan](), run=record, project=Path(project), resume=old)
    sys.exit({"succeeded": 0, "failed": 7, "cancelled": 130}[finished.state])

if __name__ == "__main__":
    main(*sys.argv[1:7])
"""


class Site:
    """A project whose runs are processes of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.project = folder / "project"
        self.project.mkdir()
        (self.project / "work.py").write_text(STEPS)
        (folder / "runner.py").write_text(RUNNER)
        self.store = Store.open(f"file://{folder}/store")

    def start(
        self, plan: str, run: str = "first", *, executor: str = "processes", resume: str = ""
    ) -> subprocess.Popen[bytes]:
        arguments = [str(self.project), self.store.url, executor, plan, run, resume]
        return subprocess.Popen([sys.executable, str(self.folder / "runner.py"), *arguments], start_new_session=True)

    def pids(self, wait: float = 60.0) -> list[int]:
        """The processes of the running step: worker, guardian, and what it started."""
        file = self.project / "pids.count"
        until(lambda: file.exists() and file.read_text().endswith("\n"), wait)
        return [int(pid) for pid in file.read_text().split()]

    def count(self, name: str) -> int:
        file = self.project / f"{name}.count"
        return len(file.read_text()) if file.exists() else 0

    def record(self, run: str) -> RunRecord:
        digest = self.store.names.get(f"runs/{run}")
        assert digest is not None
        return msgspec.json.decode(self.store.objects.get(digest), type=RunRecord)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    yield site
    file = site.project / "pids.count"
    # An inline step's parent is this very process.
    for pid in {*(file.read_text().split() if file.exists() else ())} - {str(os.getpid())}:
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)


def until(true: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


def alive(pid: int) -> bool:
    """Whether a process still runs; one that waits to be collected by its parent does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] != b"Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def gone(pids: list[int]) -> Callable[[], bool]:
    return lambda: not any(map(alive, pids))


def test_a_worker_killed_in_its_task_fails_that_task_and_the_run_says_so(site: Site) -> None:
    run = site.start("slow")
    worker, guardian = site.pids()
    os.kill(worker, signal.SIGKILL)
    assert run.wait(60) == 7
    record = site.record("first")
    assert record.state is RunState.FAILED
    assert record.tasks["one"].state is TaskState.SUCCEEDED
    failure = record.tasks["two"].failure
    assert failure is not None
    assert failure.code == "worker-lost"
    assert "SIGKILL" in failure.what
    assert gone([worker, guardian])()


def test_killing_the_guardian_takes_the_worker_with_it(site: Site) -> None:
    run = site.start("slow")
    worker, guardian = site.pids()
    os.kill(guardian, signal.SIGKILL)
    assert run.wait(60) == 7
    until(gone([worker, guardian]), 10)


@pytest.mark.parametrize("executor", ["processes", "inline"])
def test_after_kill_9_of_the_scheduler_a_resumed_run_repeats_no_finished_task(site: Site, executor: str) -> None:
    run = site.start("slow", executor=executor)
    processes = site.pids()
    run.kill()
    run.wait(60)
    if executor == "processes":
        until(gone(processes), 10)
    assert site.record("first").state is RunState.RUNNING
    (site.project / "quick").touch()
    assert site.start("slow", "second", executor=executor, resume="first").wait(60) == 0
    record = site.record("second")
    assert record.state is RunState.SUCCEEDED
    assert record.resumed == "first"
    assert record.tasks["one"].state is TaskState.CACHED
    assert record.tasks["one"].cached_from == "first"
    assert site.count("begin") == 1
    assert site.count("slow") == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("executor", ["processes", "inline"])
def test_ctrl_c_leaves_a_correct_record_and_no_orphans(site: Site, executor: str, number: signal.Signals) -> None:
    run = site.start("slow", executor=executor)
    processes = site.pids()
    run.send_signal(number)
    assert run.wait(60) == 130
    record = site.record("first")
    assert record.state is RunState.CANCELLED
    assert record.tasks["one"].state is TaskState.SUCCEEDED
    assert record.tasks["two"].state is TaskState.CANCELLED
    assert record.finished > 0
    if executor == "processes":
        until(gone(processes), 10)


def test_a_second_ctrl_c_ends_at_once_and_leaves_no_orphans(site: Site) -> None:
    run = site.start("forks")
    processes = site.pids()
    run.send_signal(signal.SIGINT)
    run.send_signal(signal.SIGINT)
    assert run.wait(60) != 0
    until(gone(processes), 10)


@pytest.mark.parametrize("end", ["timeout", "die", "kill-scheduler", "cancel", "kill-worker"])
def test_what_a_step_forked_dies_with_it_even_in_sessions_of_its_own(site: Site, end: str) -> None:
    run = site.start({"timeout": "forks-timeout", "die": "forks-die"}.get(end, "forks"))
    processes = site.pids()
    assert len(processes) == 5
    if end == "kill-scheduler":
        run.kill()
    elif end == "cancel":
        run.send_signal(signal.SIGINT)
    elif end == "kill-worker":
        os.kill(processes[0], signal.SIGKILL)
    run.wait(60)
    until(gone(processes), 10)
    if end == "timeout":
        failure = site.record("first").tasks["one"].failure
        assert failure is not None
        assert failure.code == "step-timeout"


def test_kills_at_random_moments_lose_no_finished_task(site: Site) -> None:
    """Every step notes that it ran; a step that was announced as done must never run again."""
    runner = (site.folder / "runner.py").read_text()
    runner = (
        runner.replace(
            "Scheduler(store, CodeReader(Path(project)), executor)",
            "Scheduler(store, CodeReader(Path(project)), executor, listeners=(announce,))",
        )
        .replace(
            "def main(",
            "def announce(event):\n"
            "    if event.data.get('state') == 'succeeded' and event.task:\n"
            "        with open(Path(sys.argv[1]) / 'done', 'a') as file:\n"
            "            file.write(event.task + '\\n')\n\n"
            "def main(",
        )
        .replace(
            "PLANS = {",
            "PLANS = {\n"
            "    'long': lambda: Plan('demo', '0', 'classification', tuple(\n"
            "        task(f's{i}', 'note', *((f's{i-1}',) if i else ()), parameters={'name': f's{i}'})\n"
            "        for i in range(60))),\n",
        )
    )
    (site.folder / "runner.py").write_text(runner)
    (site.project / "work.py").write_text(
        "def note(context, *, name, value=0):\n"
        "    with (context.project / 'ran').open('a') as file:\n"
        "        file.write(name + '\\n')\n"
        "    return {'value': value + 1}\n"
    )
    for attempt in range(40):
        run = site.start("long", f"run{attempt}", executor="inline" if attempt % 2 else "processes")
        try:
            if run.wait(0.35 + 0.013 * attempt) == 0:
                break
        except subprocess.TimeoutExpired:
            run.kill()
            run.wait(60)
    else:
        pytest.fail("it never came to its end")
    done = (site.project / "done").read_text().split()
    ran = (site.project / "ran").read_text().split()
    assert len(done) == len(set(done))
    assert set(ran) == {f"s{index}" for index in range(60)}
    assert attempt > 0
