"""Shell lines: what they find in their environment, what they may write, and how they end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from modelyard.errors import DataError, StepError
from modelyard.steps.command import run_command
from modelyard.testing.context import RecordedContext


def test_a_line_reads_its_inputs_and_writes_its_outputs(context: RecordedContext, tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "a.txt").write_text("hello")
    context.outputs = ("clean-text",)
    result = run_command(
        context,
        run='tr a-z A-Z < "$INPUT_RAW_DATA/a.txt" > "$OUTPUT_CLEAN_TEXT/a.txt"; echo "$PARAMETER_RATE $PARAMETER_DRY"',
        parameters={"rate": 0.5, "dry": True},
        files=["a"],
        image=None,
        **{"raw-data": tmp_path / "raw"},
    )
    assert (result["clean-text"] / "a.txt").read_text() == "HELLO"
    assert context.lines[-1] == "0.5 true"


def test_a_line_knows_the_project_and_stands_in_the_work_folder(context: RecordedContext) -> None:
    run_command(context, run='echo "$PROJECT"; pwd; cat')
    assert context.lines[1] == str(context.project)
    assert Path(context.lines[2]).is_relative_to(context.workdir)


def test_output_and_errors_reach_the_log_while_the_line_runs(context: RecordedContext) -> None:
    times: list[float] = []
    # The test listens to it.
    context.log = lambda _: times.append(time.monotonic())  # type: ignore[method-assign,assignment]
    run_command(context, run="echo one; sleep 0.4; echo two >&2")
    assert times[2] - times[1] > 0.3


def test_another_status_than_zero_tells_the_last_lines(context: RecordedContext) -> None:
    with pytest.raises(StepError, match=r"status 3\. Its last lines:\n    line 11\n") as told:
        run_command(context, run="for i in $(seq 30); do echo line $i; done; exit 3")
    assert "line 30" in told.value.what
    assert told.value.remedy


def test_silence_is_told_too(context: RecordedContext) -> None:
    with pytest.raises(StepError, match=r"status 1\. It wrote nothing"):
        run_command(context, run="false")


@pytest.mark.parametrize(("line", "name"), [("kill -9 $$", "SIGKILL"), ("sh -c 'kill -TERM $$'; exit $?", "SIGTERM")])
def test_a_signal_is_named(context: RecordedContext, line: str, name: str) -> None:
    with pytest.raises(StepError, match=f"killed by {name}"):
        run_command(context, run=line)


def test_bytes_that_are_no_text_do_no_harm(context: RecordedContext) -> None:
    run_command(context, run="printf '\\377\\n'")
    assert len(context.lines) == 2


def test_an_input_that_is_no_folder_is_told(context: RecordedContext) -> None:
    with pytest.raises(DataError, match="reads folders, and this input is a dict") as told:
        run_command(context, run="true", numbers={"a": 1})
    assert told.value.where == "inputs.numbers"


def test_an_interrupt_takes_the_whole_line_down(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from modelyard.steps.command import run_command;"
        "from modelyard.testing.context import RecordedContext as C; root = Path(sys.argv[1]); context = C(root, root);"
        "context.log = lambda text: print(text, flush=True);"
        "run_command(context, run='sleep 300 & echo $!; wait')"
    )
    step = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert step.stdout is not None
    with step.stdout as told:
        told.readline()
        child = int(told.readline())
        assert _lives(child)
        step.send_signal(signal.SIGINT)
        step.wait(20)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and _lives(child):
        time.sleep(0.02)
    assert not _lives(child)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().split(")")[1][:3]
    except (ProcessLookupError, FileNotFoundError):
        return False
