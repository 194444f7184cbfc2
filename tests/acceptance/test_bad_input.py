"""Each wrong input gets one clear error, exit code and remedy; nothing is half-written and nothing is lost."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.projects import environment, modelyard

CSV = "a,b,label\n" + "".join(f"{i},{i % 7},{'yes' if i % 2 else 'no'}\n" for i in range(40))
BLUEPRINT = """\
version: 1
pipeline:
  name: tiny
  steps:
    - {id: data, kind: importer, format: csv, local_data: rows.csv, target: label, split: {test: 0.25}}
    - {id: count, kind: python, function: "steps:count", inputs: {train: data.train}}
"""
STEPS = "def count(train):\n    return len(train)\n"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "blueprint.yaml").write_text(BLUEPRINT)
    (folder / "rows.csv").write_text(CSV)
    (folder / "steps.py").write_text(STEPS)
    return folder


def refused(folder: Path, *arguments: str, code: int, words: tuple[str, ...]) -> str:
    """The command must end with the code, say the words on standard error, and show no traceback."""
    done = modelyard(folder, *arguments, code=code)
    assert "Traceback" not in done.stdout + done.stderr
    for word in words:
        assert word in done.stdout + done.stderr, f"{word!r} is missing in:\n{done.stdout}{done.stderr}"
    return done.stderr


def test_the_project_of_these_tests_runs(project: Path) -> None:
    modelyard(project, "run")
    assert json.loads(modelyard(project, "ls", "--json").stdout)[0]["state"] == "succeeded"


def test_an_unknown_key_names_line_column_and_the_nearest_key(project: Path) -> None:
    (project / "blueprint.yaml").write_text(BLUEPRINT.replace("target: label", "tarket: label"))
    refused(project, "check", code=2, words=("blueprint.yaml:5:", "tarket", "target"))
    assert not (project / ".modelyard" / "store" / "names").exists()


def test_all_problems_of_a_blueprint_are_told_at_once(project: Path) -> None:
    wrong = BLUEPRINT.replace("target: label", "tarket: label").replace("kind: python", "kind: pyton")
    (project / "blueprint.yaml").write_text(wrong)
    told = refused(project, "check", code=2, words=("tarket", "pyton"))
    assert told.count("error:") == 2


def test_a_cycle_is_shown_as_a_path(project: Path) -> None:
    cyclic = BLUEPRINT + '    - {id: again, kind: python, function: "steps:count", needs: [count]}\n'
    cyclic = cyclic.replace("inputs: {train: data.train}}", "needs: [again], inputs: {train: data.train}}")
    (project / "blueprint.yaml").write_text(cyclic)
    refused(project, "run", code=2, words=("count -> again -> count",))


def test_an_input_of_the_wrong_type_or_name_is_refused_before_anything_runs(project: Path) -> None:
    line = "    - {id: evaluate, kind: evaluator, inputs: {model: data.train, test: data.tset}}\n"
    (project / "blueprint.yaml").write_text(BLUEPRINT + line)
    told = refused(project, "run", code=2, words=("inputs.model", "dataset", "data has no output tset", "test"))
    assert told.count("error:") == 2
    assert not (project / ".modelyard" / "runs").exists()


def test_a_missing_column_names_the_nearest(project: Path) -> None:
    (project / "blueprint.yaml").write_text(BLUEPRINT.replace("target: label", "target: lable"))
    refused(project, "run", code=7, words=("lable", "label"))


def test_a_missing_data_file_is_named(project: Path) -> None:
    (project / "rows.csv").unlink()
    refused(project, "run", code=7, words=("rows.csv",))


def test_a_wrong_checksum_says_expected_and_got(project: Path) -> None:
    right = f"local_data: {{data: rows.csv, checksum: 'sha256:{'0' * 64}'}}"
    (project / "blueprint.yaml").write_text(BLUEPRINT.replace("local_data: rows.csv", right))
    refused(project, "run", code=7, words=("rows.csv", "0000000"))


def test_a_corrupt_archive_is_named(project: Path) -> None:
    (project / "rows.npz").write_bytes(b"PK\x03\x04 this is no archive")
    wrong = BLUEPRINT.replace("format: csv, local_data: rows.csv", "format: npz, local_data: rows.npz")
    (project / "blueprint.yaml").write_text(wrong)
    refused(project, "run", code=7, words=("rows.npz",))


def test_an_override_of_an_unknown_parameter_names_the_nearest(project: Path) -> None:
    refused(project, "run", "-p", "data.spilt.test=0.5", code=2, words=("spilt", "split"))
    refused(project, "run", "-p", "nonsense", code=2, words=("train.alpha=0.01",))


def test_an_unknown_command_run_step_blueprint_or_executor_names_what_there_is(project: Path) -> None:
    refused(project, "rum", code=2, words=("run",))
    refused(project, "run", "tiney", code=2, words=("tiny",))
    refused(project, "run", "--executor", "inlime", code=2, words=("inline",))
    refused(project, "logs", "latest", "data", code=2, words=("no runs yet",))
    modelyard(project, "run")
    refused(project, "logs", "latest", "dta", code=2, words=("data",))
    refused(project, "diff", "latest", "19990101-000000-0000", code=2, words=("19990101",))


def test_a_folder_without_a_project_says_how_to_start_one(tmp_path: Path) -> None:
    refused(tmp_path, "run", code=2, words=("blueprint.yaml", "modelyard init"))


def test_init_never_overwrites_a_file(tmp_path: Path) -> None:
    (tmp_path / "blueprint.yaml").write_text("mine\n")
    refused(tmp_path, "init", "--template", "digits-small", code=2, words=("blueprint.yaml", "nothing was written"))
    assert (tmp_path / "blueprint.yaml").read_text() == "mine\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["blueprint.yaml"]


def test_a_project_outside_git_runs_but_can_not_be_reviewed(project: Path) -> None:
    modelyard(project, "run")
    refused(project, "ls", "models", code=2, words=("Git repository", "git init"))


def test_a_wrong_setting_names_file_or_variable(project: Path) -> None:
    (project / "modelyard.toml").write_text("stoer = 'file:///tmp/x'\n")
    refused(project, "ls", code=2, words=("modelyard.toml", "stoer"))
    (project / "modelyard.toml").write_text("workers = 'many'\n")
    refused(project, "ls", code=2, words=("modelyard.toml", "workers"))
    (project / "modelyard.toml").write_text("")
    done = modelyard(project, "ls", code=2, MODELYARD_WORKERS="0")
    assert "MODELYARD_WORKERS" in done.stderr


def test_a_step_that_raises_shows_its_own_traceback_in_its_log_and_none_on_the_terminal(project: Path) -> None:
    (project / "steps.py").write_text("def count(train):\n    return 1 / 0\n")
    refused(project, "run", code=7, words=("count", "division by zero"))
    log = modelyard(project, "logs", "latest", "count").stdout
    assert "ZeroDivisionError" in log
    assert "steps.py" in log
    assert "engines" not in log


def test_nothing_is_lost_when_a_step_fails_and_is_mended(project: Path) -> None:
    (project / "steps.py").write_text("def count(train):\n    return 1 / 0\n")
    failed = modelyard(project, "run", "-q", code=7).stdout.strip()
    (project / "steps.py").write_text(STEPS)
    again = json.loads(modelyard(project, "run", "--resume", failed, "--json").stdout)
    assert {name: task["state"] for name, task in again["tasks"].items()} == {"data": "cached", "count": "succeeded"}
    assert again["resumed"] == failed


def test_a_killed_step_is_that_steps_failure_alone(project: Path) -> None:
    (project / "steps.py").write_text(
        "import os, signal\ndef count(train):\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    refused(project, "run", code=7, words=("count", "SIGKILL"))
    tasks = json.loads(modelyard(project, "ls", "--json").stdout)[0]["tasks"]
    assert tasks["data"]["state"] == "succeeded"
    assert tasks["count"]["failure"]["code"] == "worker-lost"


def test_a_killed_run_is_told_as_interrupted_and_can_be_resumed(project: Path) -> None:
    (project / "steps.py").write_text("import time\ndef count(train):\n    time.sleep(60)\n")
    process = subprocess.Popen(
        [sys.executable, "-m", "modelyard", "run"], cwd=project, env=environment(project.parent),
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    for line in process.stdout:
        if line.split()[:2] == ["count", "started"]:
            break
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    (project / "steps.py").write_text(STEPS)
    run = json.loads(modelyard(project, "ls", "--json").stdout)[0]
    assert run["state"] == "interrupted"
    assert run["tasks"]["data"]["state"] == "succeeded"
    again = json.loads(modelyard(project, "run", "--resume", run["id"], "--json").stdout)
    assert again["tasks"]["data"]["state"] == "cached"
    assert again["state"] == "succeeded"


def test_ctrl_c_leaves_a_cancelled_run_and_no_process(project: Path) -> None:
    (project / "steps.py").write_text(
        "import os, time\ndef count(train):\n    print('pid', os.getpid(), flush=True)\n    time.sleep(60)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "modelyard", "run"], cwd=project, env=environment(project.parent),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    logs = project / ".modelyard" / "runs"
    deadline = time.monotonic() + 60
    pid = 0
    while not pid:
        assert time.monotonic() < deadline
        for log in logs.glob("*/count.log"):
            words = log.read_text().split()
            pid = int(words[words.index("pid") + 1]) if "pid" in words and words[-1] != "pid" else 0
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert json.loads(modelyard(project, "ls", "--json").stdout)[0]["state"] == "cancelled"
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_two_runs_at_the_same_time_in_one_project_both_succeed(project: Path) -> None:
    (project / "steps.py").write_text("import time\ndef count(train):\n    time.sleep(0.5)\n    return len(train)\n")
    both = [
        subprocess.Popen(
            [sys.executable, "-m", "modelyard", "run", "--json"], cwd=project, env=environment(project.parent),
            stdout=subprocess.PIPE, text=True,
        )
        for _ in range(2)
    ]  # fmt: skip
    results = [json.loads(process.communicate(timeout=120)[0]) for process in both]
    assert [result["state"] for result in results] == ["succeeded", "succeeded"]
    digests = {result["tasks"]["count"]["outputs"]["result"]["digest"] for result in results}
    assert len(digests) == 1
    assert len(json.loads(modelyard(project, "ls", "--json").stdout)) == 2
    modelyard(project, "verify")


@contextlib.contextmanager
def mounted(folder: Path, *options: str) -> Iterator[None]:
    """A file system of its own on a folder; needs root, and says so where it has it not."""
    done = subprocess.run(["mount", *options, str(folder)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"mounting a file system was refused here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_is_one_clear_error_and_the_run_can_go_on_after_it(project: Path) -> None:
    internal = project / ".modelyard"
    internal.mkdir()
    (project / "steps.py").write_text("import numpy\ndef count(train):\n    return numpy.arange(4_000_000)\n")
    with mounted(internal, "-t", "tmpfs", "-o", "size=8m", "tmpfs"):
        refused(project, "run", code=7, words=("The disk is full", "modelyard gc"))
        subprocess.run(["mount", "-o", "remount,size=200m", str(internal)], check=True)
        again = json.loads(modelyard(project, "run", "--json").stdout)
        assert again["state"] == "succeeded"
        assert again["tasks"]["data"]["state"] == "cached"
        modelyard(project, "verify")


def test_a_read_only_project_is_one_clear_error(project: Path) -> None:
    modelyard(project, "run")
    with mounted(project, "--bind", "-o", "ro", str(project)):
        done = modelyard(project, "run", code=6)
        assert "can be written" in done.stderr
        assert "Traceback" not in done.stderr
        for words in (("ls",), ("logs", "latest", "count")):
            refused(project, *words, code=6, words=("catalog.db", "The file system is read-only."))


def test_a_disk_that_is_full_to_the_last_byte_is_told_by_the_catalog_too(project: Path) -> None:
    internal = project / ".modelyard"
    internal.mkdir()
    with mounted(internal, "-t", "tmpfs", "-o", "size=8m", "tmpfs"):
        modelyard(project, "run")
        with contextlib.suppress(OSError), (internal / "fill").open("wb", buffering=0) as fill:
            while True:
                fill.write(bytes(65536))
        refused(project, "ls", code=6, words=("catalog.db", "The disk is full."))
        (internal / "fill").unlink()
        assert json.loads(modelyard(project, "ls", "--json").stdout)[0]["state"] == "succeeded"


def test_a_damaged_catalog_says_how_to_rebuild_it_and_rebuilding_brings_everything_back(project: Path) -> None:
    modelyard(project, "run")
    before = json.loads(modelyard(project, "ls", "--json").stdout)
    database = project / ".modelyard" / "catalog.db"
    database.write_bytes(b"no database" * 1000)
    for leftover in database.parent.glob("catalog.db-*"):
        leftover.unlink()
    refused(project, "ls", code=4, words=("modelyard catalog rebuild",))
    modelyard(project, "catalog", "rebuild")
    assert json.loads(modelyard(project, "ls", "--json").stdout) == before


def test_a_program_that_stops_reading_our_output_causes_no_error(project: Path) -> None:
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m modelyard blueprint schema | head -1"],
        cwd=project, env=environment(project.parent), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout.strip() == "{"
    assert done.stderr == ""


def test_git_missing_is_told(project: Path, tmp_path: Path) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("sh", "env"):
        tools.joinpath(name).symlink_to(shutil.which(name) or "/bin/sh")
    done = modelyard(project, "ls", "models", code=2, PATH=str(tools))
    assert "git" in done.stderr.lower()
    assert "install" in done.stderr.lower()
