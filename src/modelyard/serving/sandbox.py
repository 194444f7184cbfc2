"""A process for what a stranger uploaded: it has limits, nothing of ours to inherit, and may die without harm.

It is started anew, not forked; it gets an empty environment, a folder of its own, and two pipes. What it is asked and
what it answers are frames: a length, a JSON object, and the bytes that the object announces.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec

from modelyard.errors import ModelyardError, RunError
from modelyard.records import Failure

__all__ = ["Bounds", "Sandbox", "SandboxLostError", "SandboxRefusedError", "read_frame", "write_frame"]

LONGEST_HEAD = 1024 * 1024
_LENGTH = 8


class Bounds(msgspec.Struct, frozen=True):
    """What a process may take.

    Args:
        memory: Bytes of private memory.
        cpu_seconds: Of processor time, from its start to its end.
        seconds: One answer may take.
        file_bytes: The largest file that it may write.
        processes: For each worker, those that serve requests which bring their own model; the ones that only wait for
            another request included.
        idle_seconds: How long one waits for another request with the same model.
    """

    memory: int = 2 * 1024**3
    cpu_seconds: int = 120
    seconds: float = 60.0
    file_bytes: int = 2 * 1024**3
    processes: int = 2
    idle_seconds: float = 30.0


class SandboxLostError(RunError):
    """The process died before it answered, or took too long."""

    late = False
    """Whether it took too long."""


class SandboxRefusedError(ModelyardError):
    """The process says why it did not do what it was asked.

    Args:
        status: Of HTTP, as the process sees it.
        failure: Why.
        joined: Whether the upload was sound in itself, and something else did not fit it.
    """

    def __init__(self, status: int, failure: Failure, *, joined: bool) -> None:
        super().__init__(failure.what, where=failure.where or None, remedy=failure.remedy or None)
        self.status = status
        self.failure = failure
        self.joined = joined


class Sandbox:
    """One such process. One thread at a time may use it.

    Args:
        folder: New; the process works there, and it is removed with the process.
        bounds: What it may take.
        niceness: How far it steps back behind what answers requests.
    """

    def __init__(self, folder: Path, bounds: Bounds, *, niceness: int = 10) -> None:
        folder.mkdir(mode=0o700)
        self.folder = folder
        self._bounds = bounds
        told = msgspec.json.encode({"bounds": bounds, "niceness": niceness}).decode()
        environment = {
            "PATH": os.defpath, "HOME": str(folder), "TMPDIR": str(folder), "LANG": "C.UTF-8", "OMP_NUM_THREADS": "1",
            "ORT_DISABLE_TELEMETRY": "1",
        }  # fmt: skip
        self._process = subprocess.Popen(
            # Isolated: neither the folder nor PYTHON variables say what is imported.
            [sys.executable, "-I", "-m", "modelyard.serving.sandboxed", told],
            cwd=folder, env=environment, close_fds=True, start_new_session=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0,
        )  # fmt: skip

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the process still runs."""
        return self._process.poll() is None

    def ask(self, question: dict[str, Any], body: bytes = b"") -> tuple[dict[str, Any], bytes]:
        """Ask, and return the answer with its bytes; a process that does not answer is ended.

        Raises:
            SandboxRefusedError: It says why it did not.
            SandboxLostError: It died, or took too long.
        """
        # Started with pipes; for the type checker.
        assert self._process.stdin is not None and self._process.stdout is not None  # noqa: S101, PT018
        deadline = time.monotonic() + self._bounds.seconds
        try:
            _write(self._process.stdin.fileno(), question, body, deadline)
            head, content = _read(self._process.stdout.fileno(), deadline)
        except (OSError, EOFError, TimeoutError, msgspec.MsgspecError) as error:
            late = isinstance(error, TimeoutError)
            status = self.end()
            why = f"took longer than {self._bounds.seconds:g} s" if late else _death(status)
            lost = SandboxLostError(f"The process of the upload {why}.", remedy="Upload a smaller model.")
            lost.late = late
            raise lost from error
        if "refused" in head:
            failure = msgspec.convert(head["refused"], Failure)
            raise SandboxRefusedError(head["status"], failure, joined=head["joined"])
        return head, content

    def end(self) -> int:
        """End the process and all that it started, remove its folder, and return its exit status."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if self._process.poll() is None:
                os.killpg(self._process.pid, signal.SIGKILL)
        status = self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        shutil.rmtree(self.folder, ignore_errors=True)
        return status


def read_frame(descriptor: int) -> tuple[dict[str, Any], bytes]:
    """Return the next frame of a pipe; raises EOFError where the other side is gone."""
    return _read(descriptor, None)


def write_frame(descriptor: int, head: dict[str, Any], body: bytes = b"") -> None:
    """Write a frame to a pipe."""
    _write(descriptor, head, body, None)


def _read(descriptor: int, deadline: float | None) -> tuple[dict[str, Any], bytes]:
    length = int.from_bytes(_exactly(descriptor, _LENGTH, deadline), "little")
    if length > LONGEST_HEAD:
        raise EOFError("the frame makes no sense")
    head = msgspec.json.decode(_exactly(descriptor, length, deadline), type=dict[str, Any])
    return head, _exactly(descriptor, int(head.get("bytes", 0)), deadline)


def _exactly(descriptor: int, size: int, deadline: float | None) -> bytes:
    pieces = bytearray()
    while len(pieces) < size:
        _wait(descriptor, deadline, writing=False)
        piece = os.read(descriptor, min(size - len(pieces), 1 << 20))
        if not piece:
            raise EOFError("the other side is gone")
        pieces += piece
    return bytes(pieces)


def _write(descriptor: int, head: dict[str, Any], body: bytes, deadline: float | None) -> None:
    text = msgspec.json.encode({**head, "bytes": len(body)})
    view = memoryview(len(text).to_bytes(_LENGTH, "little") + text + body)
    while view:
        _wait(descriptor, deadline, writing=True)
        # A pipe takes no more than this without waiting.
        view = view[os.write(descriptor, view[: select.PIPE_BUF]) :]


def _wait(descriptor: int, deadline: float | None, *, writing: bool) -> None:
    if deadline is None:
        return
    left = deadline - time.monotonic()
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT if writing else select.POLLIN)
    if left <= 0 or not poll.poll(left * 1000):
        raise TimeoutError


def _death(status: int) -> str:
    if status >= 0:
        return f"ended with status {status}"
    return f"was ended by {signal.Signals(-status).name}"
