"""The parent of a worker process: sees to it that nothing which a step started outlives it.

It starts `python -m modelyard.engines.worker`, waits, and kills the worker with all its descendants, also those that
left its process group, when the worker has died, when it is told to (SIGTERM), or when the executor is gone, even by
`kill -9`. It then ends as the worker did: by the same signal or with the same status.

It is a script that imports nothing of Modelyard, to start in ten milliseconds and stay small.
Linux: prctl(2) PR_SET_CHILD_SUBREAPER and PR_SET_PDEATHSIG; elsewhere only the process group is killed.
"""

import contextlib
import ctypes
import os
import resource
import select
import signal
import sys
import time

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36


def prctl(option: int, value: int) -> None:
    """Set a property of this process, where the system has them."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def start(command: list[str]) -> int:
    """Start the worker, which dies with this process; return its pid."""
    guardian = os.getpid()
    worker = os.fork()
    if worker:
        return worker
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    for number in (signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    if os.getppid() != guardian:
        os._exit(1)
    try:
        os.execv(command[0], command)  # noqa: S606  (an argument list of our own)
    finally:
        os._exit(127)


def parents() -> dict[int, int]:
    """Return the parent of every process."""
    found = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError), open(f"/proc/{name}/stat", "rb") as file:
                # The program's name stands in parentheses and may hold anything.
                found[int(name)] = int(file.read().rpartition(b")")[2].split()[1])
    return found


def descendants() -> list[int]:
    """Return every process below this one."""
    children: dict[int, list[int]] = {}
    for process, parent in parents().items():
        children.setdefault(parent, []).append(process)
    found = []
    waiting = [os.getpid()]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


def kill_all(patience: float = 5.0) -> None:
    """Kill every descendant; orphans become our children, so none is out of reach."""
    end = time.monotonic() + patience
    while time.monotonic() < end:
        for process in descendants():
            with contextlib.suppress(OSError):
                os.kill(process, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG) != (0, 0):
                pass
        except ChildProcessError:
            return
        time.sleep(0.002)


def reap(worker: int) -> int | None:
    """Collect children that ended; return the worker's status if it is among them."""
    status = None
    with contextlib.suppress(ChildProcessError):
        while True:
            process, code = os.waitpid(-1, os.WNOHANG)
            if process == 0:
                break
            if process == worker:
                status = code
    return status


def end_like(status: int) -> None:
    """End this process in the way that the worker's wait status tells."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        with contextlib.suppress(OSError, ValueError):
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


def main(lifeline: int, connection: int, command: list[str]) -> None:
    """Watch over one worker.

    Args:
        lifeline: A pipe whose other end the executor holds open as long as it lives.
        connection: The worker's socket, closed here once the worker has it.
        command: The worker's program and arguments.
    """
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    terminated: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _frame: terminated.append(number))
    signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
    prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    worker = start(command)
    os.close(connection)
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (1, 2):
        os.dup2(null, descriptor)
    while True:
        ready, _, _ = select.select([lifeline, wake_read], [], [])
        status = reap(worker)
        if status is not None:
            kill_all()
            end_like(status)
        if terminated or lifeline in ready:
            kill_all()
            end_like(signal.SIGKILL)
        if wake_read in ready:
            os.read(wake_read, 4096)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
