"""What a later task needs is imported while an earlier one runs, in the worker that then gets the later one."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from modelyard.engines.processes import ProcessExecutor
from modelyard.testing.executor import Workplace

STEPS = """
import os, sys

def tell():
    return [os.getpid(), "wave" in sys.modules]
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workplace:
    place = Workplace(tmp_path)
    for name in ("early", "late"):
        (place.project / f"{name}.py").write_text(STEPS)
    installed = tmp_path / "installed"
    installed.mkdir()
    (installed / "slow.py").write_text(
        f"import os, time\nopen({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\ntime.sleep(600)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(installed))
    return place


def told(executor: ProcessExecutor, place: Workplace, module: str) -> Any:
    call = msgspec.structs.replace(place.call("tell", "value"), call=f"{module}:tell")
    result = executor.submit(call, place.events.append).result(60)
    assert result.failure is None
    return place.store.load(result.outputs["value"])


def test_a_task_finds_its_modules_imported_in_a_worker_of_its_own(place: Workplace) -> None:
    executor = ProcessExecutor(2)
    try:
        executor.expect({"late", "wave"})
        early, wave = told(executor, place, "early")
        assert not wave
        late, wave = told(executor, place, "late")
        assert wave, "it was not imported ahead"
        assert late != early
        assert told(executor, place, "early")[0] == early, "what is prepared waits for the task it is for"
        assert told(executor, place, "late")[0] == late
    finally:
        executor.close()


def test_one_worker_runs_everything_and_imports_nothing_ahead(place: Workplace) -> None:
    executor = ProcessExecutor(1)
    try:
        executor.expect({"late", "wave"})
        assert told(executor, place, "early") == told(executor, place, "late")
    finally:
        executor.close()


def test_the_end_does_not_wait_for_an_import_that_nobody_needed(place: Workplace, tmp_path: Path) -> None:
    executor = ProcessExecutor(2)
    executor.expect({"slow"})
    told(executor, place, "early")
    end = time.monotonic() + 60
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        assert time.monotonic() < end
        time.sleep(0.005)
    started = time.monotonic()
    executor.close()
    assert time.monotonic() - started < 5, "less than the grace that a worker at rest is given"
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_an_import_that_fails_costs_no_task(place: Workplace) -> None:
    executor = ProcessExecutor(2)
    try:
        executor.expect({"late", "nowhere"})
        told(executor, place, "early")
        told(executor, place, "late")
    finally:
        executor.close()
