"""What a later task needs is imported while an earlier one runs: in the worker that then gets it, or in a thread."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from modelyard.engines.inline import InlineExecutor
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


LATER = """
import threading, time
thread = threading.current_thread().name
time.sleep(0.3)
whole = True
"""


@pytest.fixture
def later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A module that is slow to import."""
    folder = tmp_path / "more"
    folder.mkdir()
    (folder / "slow_later.py").write_text(LATER)
    (folder / "fails_later.py").write_text("raise RuntimeError('not in this thread')")
    monkeypatch.syspath_prepend(folder)
    yield "slow_later"
    for name in ("slow_later", "fails_later", "look"):
        sys.modules.pop(name, None)


def begun(executor: InlineExecutor, place: Workplace) -> None:
    """Let the importer run, as far as it comes without parameters."""
    call = msgspec.structs.replace(place.call("tell", "data"), call="modelyard.steps.importer:import_data")
    assert executor.submit(call, place.events.append).result().failure is not None


def looked(executor: InlineExecutor, place: Workplace) -> Any:
    """Return what a step of the project finds imported: nothing, a part, or the whole."""
    step = "import sys\n\ndef tell():\n    return [getattr(sys.modules.get('slow_later'), 'whole', None)]\n"
    (place.project / "look.py").write_text(step)
    call = msgspec.structs.replace(place.call("tell", "value"), call="look:tell")
    result = executor.submit(call, place.events.append).result()
    assert result.failure is None
    return place.store.load(result.outputs["value"])[0]


def test_in_one_process_it_is_imported_beside_modelyards_own_reading(place: Workplace, later: str) -> None:
    executor = InlineExecutor(place.store)
    executor.expect({"fails_later", later})
    begun(executor, place)
    executor.close()
    assert sys.modules[later].thread == "modelyard-ahead"


def test_a_projects_step_has_its_process_to_itself(place: Workplace, later: str) -> None:
    executor = InlineExecutor(place.store)
    executor.expect({later})
    assert looked(executor, place) is None, "it was imported beside a step of the project"
    begun(executor, place)
    assert looked(executor, place) is True, "it was not waited for"
    executor.close()
