"""The step kind `command`: run a shell line, with folders for its inputs and outputs."""

from __future__ import annotations

import os
import signal
import subprocess
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from modelyard.contracts import Context
from modelyard.errors import DataError, StepError
from modelyard.files import storage_errors

__all__ = ["run_command"]

_LAST_LINES = 20
_GRACE = 5.0


def run_command(
    context: Context, *, run: str, parameters: Mapping[str, Any] | None = None, **inputs: Any
) -> dict[str, Path]:
    """Run a line with `/bin/sh -c` in the task's work folder; standard output and error go to the log line by line.

    The line finds in its environment:

    - `INPUT_<PORT>`: for each input, a folder (or file) to read;
    - `OUTPUT_<NAME>`: for each output, an empty folder to write into;
    - `PARAMETER_<NAME>`: each parameter as text (true and false for booleans);
    - `PROJECT`: the project folder; `SEED`: the task's seed.

    Names are in capitals, with `_` for `-`.

    Args:
        context: Of the task.
        run: The line.
        parameters: Name to text, number or boolean.
        inputs: Port to the folder that fills it. What else a command step may have (image, files) is for the engine.

    Returns:
        Each output's folder.

    Raises:
        DataError: An input is no folder.
        StepError: The line ended with another status than 0, or by a signal; its last lines stand in the error.
    """
    environment = dict(os.environ) | {"PROJECT": str(context.project), "SEED": str(context.seed)}
    for name, value in (parameters or {}).items():
        environment[f"PARAMETER_{_capital(name)}"] = str(value).lower() if isinstance(value, bool) else str(value)
    for port, value in inputs.items():
        if port in ("image", "files"):
            continue
        if not isinstance(value, Path):
            raise DataError(
                f"A command reads folders, and this input is a {type(value).__name__}.",
                where=f"inputs.{port}",
                remedy="Let a python step write the value into a folder, and return its path.",
            )
        environment[f"INPUT_{_capital(port)}"] = str(value)
    outputs = {name: context.workdir / "outputs" / name for name in context.outputs}
    place = context.workdir / "work"
    for folder in (place, *outputs.values()):
        with storage_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
    for name, folder in outputs.items():
        environment[f"OUTPUT_{_capital(name)}"] = str(folder)
    context.log(f"$ {run}")
    status, last = _run(context, run, place, environment)
    if status != 0:
        raise StepError(_ending(status) + _told(last), where="run", remedy="Read the log, and correct the line.")
    return outputs


def _capital(name: str) -> str:
    return name.upper().replace("-", "_")


def _run(context: Context, line: str, place: Path, environment: Mapping[str, str]) -> tuple[int, list[str]]:
    last: deque[str] = deque(maxlen=_LAST_LINES)
    with (
        storage_errors("/bin/sh"),
        subprocess.Popen(
            ["/bin/sh", "-c", line],
            cwd=place,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        ) as process,
        _ended(process),
    ):
        for each in process.stdout or ():
            last.append(each.rstrip("\n"))
            context.log(last[-1])
        return process.wait(), list(last)


@contextmanager
def _ended(process: subprocess.Popen[str]) -> Iterator[None]:
    """Take the line's whole process group down when the step is interrupted, so that nothing of it goes on."""
    try:
        yield
    except BaseException:
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(process.pid, number)
                process.wait(_GRACE)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                continue
        raise


def _ending(status: int) -> str:
    # A shell that runs one command for another reports the signal as 128 + its number.
    number = -status if status < 0 else status - 128
    if number > 0 and (status < 0 or status > 128):
        try:
            name = signal.Signals(number).name
        except ValueError:
            return f"The command ended with status {status}."
        hint = ", as the system does when memory runs out" if name == "SIGKILL" else ""
        return f"The command was killed by {name}{hint}."
    return f"The command ended with status {status}."


def _told(last: list[str]) -> str:
    return " It wrote nothing." if not last else " Its last lines:\n" + "\n".join(f"    {line}" for line in last)
