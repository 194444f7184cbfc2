"""Several processes at one catalog, and processes that are killed in the middle: real ones, on both databases."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from tests.integration.catalog.conftest import Server

from modelyard.catalog import Catalog
from modelyard.errors import ModelyardError, StorageError
from modelyard.records import RunRecord, RunState, TaskState

PRELUDE = """
import os, socket, sys, time
from modelyard.catalog import Catalog, process_identity
from modelyard.records import *
def run(id, tasks=3, state=RunState.SUCCEEDED):
    return RunRecord(id=id, blueprint="b", blueprint_digest="d", state=state, started=time.time(), pid=os.getpid(),
        host=socket.gethostname(), process=process_identity(os.getpid()), tasks={f"t{n}": TaskRecord(task=f"t{n}",
        kind="python", state=TaskState.RUNNING, metrics={"m": 1.0}, outputs={"o": Artifact("d" * 64, "json")})
        for n in range(tasks)})
"""


def start(code: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", PRELUDE + code, *arguments], stdout=subprocess.PIPE, text=True
    )


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def killed(process: subprocess.Popen[str]) -> list[str]:
    process.send_signal(signal.SIGKILL)
    with process:
        assert process.stdout is not None
        # Not by `communicate`, which passes over what `readline` has read ahead.
        output = process.stdout.read()
    assert process.returncode == -signal.SIGKILL
    return output.split()


def whole(run: RunRecord, tasks: int) -> bool:
    return len(run.tasks) == tasks and all(task.metrics and task.outputs for task in run.tasks.values())


def test_processes_that_make_and_fill_a_catalog_at_once_all_succeed(url: str) -> None:
    code = """
with Catalog.open(sys.argv[1]) as catalog:
    for n in range(25):
        catalog.record(run(f"{sys.argv[2]}-{n:02}"))
"""
    children = [start(code, url, name) for name in ("a", "b", "c")]
    assert [child.wait(60) for child in children] == [0, 0, 0]
    for child in children:
        child.communicate()
    with Catalog.open(url) as catalog:
        runs = catalog.runs(limit=100)
    assert sorted(run.id for run in runs) == [f"{name}-{n:02}" for name in "abc" for n in range(25)]
    assert all(whole(run, 3) for run in runs)


def test_a_process_killed_inside_a_transaction_loses_that_transaction_alone(url: str) -> None:
    code = """
catalog = Catalog.open(sys.argv[1])
catalog.record(run("before"))
with catalog.database.writing() as connection:
    catalog._write_all(connection, run("half"), 1)
    print("inside", flush=True)
    time.sleep(60)
"""
    child = start(code, url)
    assert said(child) == "inside"
    killed(child)
    with Catalog.open(url) as catalog:
        assert [run.id for run in catalog.runs()] == ["before"]
        started = time.monotonic()
        catalog.record(RunRecord(id="after", blueprint="b", blueprint_digest="d"))
        assert time.monotonic() - started < 5
        assert len(catalog.runs()) == 2
        assert catalog.database.check() == []


def test_whatever_was_recorded_before_a_kill_is_there_afterwards(url: str) -> None:
    code = """
catalog = Catalog.open(sys.argv[1])
for n in range(100_000):
    catalog.record(run(f"{sys.argv[2]}-{n:05}", tasks=20))
    print(f"{sys.argv[2]}-{n:05}", flush=True)
"""
    done: list[str] = []
    for attempt in range(3):
        child = start(code, url, str(attempt))
        done.append(said(child))
        time.sleep(random.uniform(0.02, 0.2))
        done += killed(child)
    with Catalog.open(url) as catalog:
        found = {run.id: run for run in catalog.runs(limit=100_000)}
        assert set(done) <= set(found)
        # A record that was committed may have been killed before it was printed: one for each kill.
        assert len(found) <= len(done) + 3
        assert all(whole(run, 20) for run in found.values())
        assert catalog.database.check() == []


def test_a_process_killed_while_it_makes_the_catalog_leaves_one_that_opens(tmp_path: Path) -> None:
    for attempt in range(6):
        url = f"sqlite:///{tmp_path}/{attempt}.db"
        child = start("print('go', flush=True); Catalog.open(sys.argv[1]); time.sleep(60)", url)
        said(child)
        time.sleep(attempt * 0.025)
        killed(child)
        with Catalog.open(url) as catalog:
            assert catalog.runs() == []


def test_a_run_whose_process_was_killed_is_interrupted_and_one_that_lives_is_not(url: str) -> None:
    code = """
with Catalog.open(sys.argv[1]) as catalog:
    catalog.record(run("r", state=RunState.RUNNING))
    print("running", flush=True)
    time.sleep(60)
"""
    child = start(code, url)
    assert said(child) == "running"
    with Catalog.open(url) as catalog:
        assert catalog.run("r").state is RunState.RUNNING
        # Not reaped yet: a dead process whose parent has not looked is dead all the same.
        child.send_signal(signal.SIGKILL)
        deadline = time.monotonic() + 10
        while catalog.run("r").state is RunState.RUNNING and time.monotonic() < deadline:
            time.sleep(0.01)
        assert catalog.run("r").state is RunState.INTERRUPTED
        child.communicate()
        assert catalog.run("r").state is RunState.INTERRUPTED
        assert {task.state for task in catalog.run("r").tasks.values()} == {TaskState.INTERRUPTED}


def test_a_full_disk_is_one_clear_error_and_loses_nothing(tmp_path: Path) -> None:
    code = """
import resource
from modelyard.errors import StorageError
catalog = Catalog.open(sys.argv[1])
catalog.record(run("small"))
size = os.path.getsize(sys.argv[2] + "-wal")
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20_000, size + 20_000))
try:
    catalog.record(run("large", tasks=5_000))
except StorageError as error:
    print(error.where)
"""
    file = tmp_path / "catalog.db"
    output = subprocess.run(
        [sys.executable, "-c", PRELUDE + code, f"sqlite:///{file}", str(file)],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert output.stdout.strip() == str(file), output.stderr
    with Catalog.open(f"sqlite:///{file}") as catalog:
        assert [run.id for run in catalog.runs()] == ["small"]
        assert catalog.database.check() == []


@pytest.mark.skipif(os.getuid() != 0, reason="only root may become another user")
def test_a_folder_that_may_not_be_written_is_one_clear_error() -> None:
    folder = Path(tempfile.mkdtemp())
    try:
        folder.chmod(0o555)
        output = subprocess.run(
            [sys.executable, "-c", PRELUDE + """
from modelyard.errors import StorageError
import modelyard.catalog.migrate
os.setuid(65534)
try:
    Catalog.open(sys.argv[1])
except StorageError as error:
    print(error)
""", f"sqlite:///{folder}/catalog.db"], capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert "Permission denied" in output.stdout, output.stderr
        assert str(folder) in output.stdout
    finally:
        shutil.rmtree(folder)


def test_a_database_server_that_restarts_is_found_again_and_one_that_is_gone_is_told(postgres: Server) -> None:
    with Catalog.open(postgres.new_database()) as catalog:
        catalog.record(RunRecord(id="a", blueprint="b", blueprint_digest="d"))
        postgres.stop()
        try:
            with pytest.raises(StorageError, match="does not answer") as caught:
                catalog.runs()
            assert caught.value.remedy
        finally:
            postgres.start()
        assert [run.id for run in catalog.runs()] == ["a"]


def test_a_database_that_does_not_exist_is_told_without_the_password(postgres: Server) -> None:
    url = postgres.url("none").replace("modelyard@", "modelyard:secret@")
    with pytest.raises(ModelyardError) as caught:
        Catalog.open(url)
    assert isinstance(caught.value, StorageError)
    assert "none" in str(caught.value)
    assert "secret" not in str(caught.value)
