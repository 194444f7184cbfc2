"""What the command line prints, and where: terminals, pipes, closed and full outputs."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from tests.projects import environment, modelyard

from modelyard.cli.output import table

BLUEPRINT = """\
pipeline:
  name: tiny
  steps:
    - {id: hello, kind: command, run: echo hello}
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli") / "project"
    folder.mkdir()
    (folder / "blueprint.yaml").write_text(BLUEPRINT)
    modelyard(folder, "run")
    return folder


def shell(project: Path, line: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", line.replace("modelyard", f"{sys.executable} -m modelyard")],
        cwd=project, env=environment(project.parent), capture_output=True, text=True, check=False,
    )  # fmt: skip


def on_a_terminal(project: Path, columns: int, *arguments: str, **more: str) -> str:
    """What a command prints on a terminal of that width."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-m", "modelyard", *arguments],
        cwd=project, env=environment(project.parent, TERM="xterm", **more), stdout=theirs, stderr=theirs, stdin=theirs,
    )  # fmt: skip
    os.close(theirs)
    printed = b""
    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError:
            break
        if not piece:
            break
        printed += piece
    os.close(ours)
    assert process.wait() == 0, printed
    return printed.decode()


@pytest.mark.parametrize("columns", [20, 60, 80, 200])
def test_no_terminal_is_too_narrow_for_a_whole_run_id_and_state(project: Path, columns: int) -> None:
    run = modelyard(project, "ls").stdout.splitlines()[1].split()[0]
    printed = on_a_terminal(project, columns, "ls")
    assert run in printed
    assert "succeeded" in printed
    assert "…" not in printed


def test_colours_are_for_terminals_that_want_them(project: Path) -> None:
    assert "\x1b[32m" in on_a_terminal(project, 80, "ls")
    assert "\x1b[32m" not in on_a_terminal(project, 80, "ls", NO_COLOR="1")
    assert "\x1b" not in modelyard(project, "ls").stdout


def test_a_run_on_a_terminal_ends_with_the_state_of_every_step(project: Path) -> None:
    printed = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", on_a_terminal(project, 80, "run", "-p", "hello.cache=false"))
    assert re.search(r"hello\s+succeeded", printed.split("Run ")[0])


def test_brackets_in_a_cell_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    table(("label",), [("[/red]",), ("[bold]x",)], empty="")
    assert capsys.readouterr().out.splitlines() == ["label", "[/red]", "[bold]x"]


@pytest.mark.parametrize("words", ["ls --json", "blueprint schema", "plan", "run"])
def test_a_reader_that_leaves_early_is_no_failure(project: Path, words: str) -> None:
    done = shell(project, f"modelyard {words} | true")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("words", ["ls", "run"])
def test_a_full_output_is_a_storage_error(project: Path, words: str) -> None:
    done = shell(project, f"modelyard {words} > /dev/full")
    assert done.returncode == 6
    assert "No space left on device" in done.stderr
    assert "defect" not in done.stderr


def test_a_run_without_any_output_runs(project: Path) -> None:
    before = len(shell(project, "modelyard ls --json | grep '\"blueprint_digest\"'").stdout.splitlines())
    assert shell(project, "modelyard run <&- >&- 2>&-").returncode == 0
    after = len(shell(project, "modelyard ls --json | grep '\"blueprint_digest\"'").stdout.splitlines())
    assert after == before + 1


def test_a_step_that_is_tried_again_says_why(tmp_path: Path) -> None:
    line = "test -e $PROJECT/tried || { touch $PROJECT/tried; exit 3; }"
    step = f"    - {{id: second, kind: command, run: '{line}', retries: 1, retry_delay: 0.1}}\n"
    (tmp_path / "blueprint.yaml").write_text(BLUEPRINT + step)
    lines = modelyard(tmp_path, "run").stdout.splitlines()
    assert any("again in" in line and "status 3" in line for line in lines)
    assert any("second" in line and "succeeded" in line for line in lines)


def test_damage_is_told_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "blueprint.yaml").write_text(BLUEPRINT)
    modelyard(tmp_path, "run")
    victim = max((tmp_path / ".modelyard/store/objects").glob("*/*"), key=lambda path: path.stat().st_size)
    victim.chmod(0o600)
    victim.write_bytes(victim.read_bytes()[:-1] + b"?")
    told = modelyard(tmp_path, "verify", code=4).stdout
    assert victim.name[:8] in told.replace("/", "")
    assert "Delete the changed files" in told
