"""A server that is measured: started, found with all its processes, weighed, and ended.

Its processes are known by a mark in their environment, which survives whatever they fork, exec and daemonise.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import shutil
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

__all__ = ["Server", "free_port"]

MARK = "MODELYARD_BENCH_SERVER"
TICK = os.sysconf("SC_CLK_TCK")
START_SECONDS = 60.0


def free_port() -> int:
    """Return a port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """A server's processes; leave it by `with`, and all of them are ended.

    Args:
        command: That starts it.
        folder: Where it runs, and writes its log.
        variables: Its environment.
        leaves: A folder elsewhere that is removed afterwards.
    """

    def __init__(
        self, command: Sequence[str], folder: Path, variables: Mapping[str, str], leaves: Path | None = None
    ) -> None:
        self._leaves = leaves
        self._mark = uuid.uuid4().hex
        self.log = folder / "server.log"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, cwd=folder, env={**variables, MARK: self._mark}, stdout=log, stderr=log,
                stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.end()

    def wait_answer(self, port: int, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> bytes:
        """Ask until the answer is 200, and return it.

        Raises:
            RuntimeError: The server ended, or did not answer in time; with the last of its log, or of its answers.
        """
        deadline = time.monotonic() + START_SECONDS
        said = "nothing"
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise RuntimeError(f"the server ended: {self.last_words()}")
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            try:
                connection.request(method, path, body, dict(headers))
                response = connection.getresponse()
                answer = response.read()
                if response.status == 200:
                    return answer
                said = f"{response.status} {answer[:200].decode(errors='replace')}"
            except (OSError, http.client.HTTPException) as problem:
                said = repr(problem)
            finally:
                connection.close()
            time.sleep(0.1)
        raise RuntimeError(f"no answer within {START_SECONDS:g} s, the last: {said}; {self.last_words()}")

    def last_words(self) -> str:
        """Return the last line of the log that says something."""
        lines = [line.strip() for line in self.log.read_text(encoding="utf-8", errors="replace").splitlines()]
        return next((line[:300] for line in reversed(lines) if line), "its log is empty")

    def pids(self) -> list[int]:
        """Return every process that it started, and they, and so on."""
        wanted = f"{MARK}={self._mark}".encode()
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    if wanted in (entry / "environ").read_bytes().split(b"\0"):
                        found.append(int(entry.name))
        return found

    def cpu(self) -> float:
        """Return the processor seconds of all its processes; counted in ticks of 10 ms."""
        total = 0
        for pid in self.pids():
            with contextlib.suppress(OSError):
                fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
                total += int(fields[11]) + int(fields[12])
        return total / TICK

    def memory(self) -> dict[str, float]:
        """Return `processes`, bytes of `pss` over all of them, and of `rss` of the largest.

        PSS is the kernel's proportional set size: memory that several share counts a part in each.
        """
        sizes = []
        for pid in self.pids():
            with contextlib.suppress(OSError):
                text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8")
                rss, pss = (re.search(rf"^{name}:\s+(\d+)", text, re.MULTILINE) for name in ("Rss", "Pss"))
                if rss and pss:
                    sizes.append((int(rss[1]) * 1024, int(pss[1]) * 1024))
        largest = max((rss for rss, _ in sizes), default=0)
        return {"processes": len(sizes), "pss": sum(pss for _, pss in sizes), "rss": largest}

    def end(self) -> None:
        """Stop it: politely first, so that it removes what it made, and then whatever is left."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(3)
        deadline = time.monotonic() + 5
        while (left := self.pids()) and time.monotonic() < deadline:
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)
        self.process.wait()
        if self._leaves is not None:
            shutil.rmtree(self._leaves, ignore_errors=True)
