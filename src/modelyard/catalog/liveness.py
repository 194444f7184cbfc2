"""Whether the process of a run still lives, and what a run is whose process does not."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import msgspec

from modelyard.records import RunRecord, RunState, TaskState

__all__ = ["is_alive", "process_identity", "settle"]

_AFTER_DEATH = {TaskState.RUNNING: TaskState.INTERRUPTED, TaskState.WAITING: TaskState.SKIPPED}


def process_identity(pid: int) -> str:
    """Name a living process so that a later one with the same number has another name.

    The name is the kernel's boot id and the process's start in clock ticks since that boot, both from `/proc`: unlike
    a time of day neither moves when the clock is set.

    Args:
        pid: Process number.

    Returns:
        `<boot id>/<pid>/<ticks>`, or an empty text where there is no such process, it has ended and waits to be reaped,
        or the system has no `/proc`.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    # Field 2 is the program's name in brackets, and may hold spaces and brackets of its own.
    fields = status.rpartition(")")[2].split()
    state, started = fields[0], fields[19]
    return "" if state in "ZX" else f"{boot}/{pid}/{started}"


def is_alive(record: RunRecord) -> bool:
    """Say whether the process that a run names still runs; a run of another machine is taken to be alive.

    A record without `process` (an older one, or a system without `/proc`) is judged by its pid alone.
    """
    if record.host != socket.gethostname() or not record.pid:
        return True
    if record.process:
        return process_identity(record.pid) == record.process
    try:
        os.kill(record.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def settle(record: RunRecord, alive: Callable[[RunRecord], bool]) -> RunRecord:
    """Return the run as it really stands: one recorded as running whose process has died is interrupted.

    Its running tasks are interrupted, its waiting tasks skipped.

    Args:
        record: As it was last recorded.
        alive: Says whether the run's process lives; asked only of a run that is recorded as running.
    """
    if record.state is not RunState.RUNNING or alive(record):
        return record
    settled = {
        name: msgspec.structs.replace(task, state=_AFTER_DEATH.get(task.state, task.state))
        for name, task in record.tasks.items()
    }
    return msgspec.structs.replace(record, state=RunState.INTERRUPTED, tasks=settled)
