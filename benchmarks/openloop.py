"""Requests by the clock: each is due at its time, whatever became of those before, and latency counts from then on.

So a server that stalls is charged with everything that waited for it (coordinated omission), and one that can't keep up
with a growing wait. It runs in a process of its own; `OpenLoop` starts it and asks it. See decision record 0098.
"""

from __future__ import annotations

import base64
import contextlib
import json
import re
import select
import socket
import subprocess
import sys
import time
import zlib
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.common import ROOT

__all__ = ["OpenLoop", "Sample", "fire", "quantile"]

RETRY_SECONDS = 0.01
"""How long after a connection was lost the request is sent again."""


@dataclass(frozen=True)
class Sample:
    """One request; times by `time.monotonic`, which all processes of a machine share.

    Args:
        due: When it should have been sent.
        begun: When it was sent, the last time.
        ended: When its answer was there, or when it was given up.
        kind: Which of the requests it was.
        status: Of the answer; 0 where there was none.
        version: That the answer names, or an empty text.
        content: CRC 32 of what the answer says.
        tries: How often it was sent.
    """

    due: float
    begun: float
    ended: float
    kind: int
    status: int
    version: str
    content: int
    tries: int

    @property
    def latency(self) -> float:
        """Seconds from when it was due to its answer."""
        return self.ended - self.due


@dataclass
class _Flight:
    due: float
    kind: int
    first: float = 0.0
    begun: float = 0.0
    tries: int = 0
    answer: bytearray = field(default_factory=bytearray)


class OpenLoop:
    """A process that sends requests by the clock.

    Args:
        port: Of the server, on 127.0.0.1.
        requests: Whole requests; `send` says which of them is sent, at first the first.
        rate: Requests a second, evenly.
        seconds: How long; None until `stop`.
        connections: The most at once. A request that is due while all are taken waits, and its wait counts.
        fresh: Whether each request opens a connection of its own.
        patience: Seconds in which a request whose connection was lost or refused is sent again; 0 never.
        version: A regular expression; its group is the version that an answer names.
        content: What an answer says begins with this.
    """

    def __init__(
        self,
        port: int,
        requests: Sequence[bytes],
        rate: float,
        seconds: float | None,
        *,
        connections: int = 32,
        fresh: bool = False,
        patience: float = 0.0,
        version: str | None = None,
        content: str = "",
    ) -> None:
        plan = {
            "port": port, "requests": [base64.b64encode(request).decode() for request in requests], "rate": rate,
            "seconds": seconds, "connections": connections, "fresh": fresh, "patience": patience, "version": version,
            "content": content,
        }  # fmt: skip
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.openloop"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
        )
        self._write(json.dumps(plan))
        self._read()

    def send(self, kind: int) -> None:
        """Send another of the requests from now on; returns when the last of the one before has been answered."""
        self._write(str(kind))
        self._read()

    def stop(self) -> list[Sample]:
        """Send no more, wait for what is on its way, and return all."""
        self._write("stop")
        return self.result()

    def result(self) -> list[Sample]:
        """Wait for the end, and return all."""
        line = self._read()
        self._process.wait(10)
        self._close()
        return [Sample(*one) for one in json.loads(line)]

    def kill(self) -> None:
        """End the process, whatever it does."""
        self._process.kill()
        self._process.wait()
        self._close()

    def _close(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()

    def _write(self, line: str) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(line.encode() + b"\n")
            self._process.stdin.flush()

    def _read(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline().decode()
        if not line:
            raise RuntimeError("the load generator died")
        return line


class _Loop:
    """The loop. `select` waits to the microsecond, where the timers of asyncio and libuv count in milliseconds."""

    def __init__(self, plan: Mapping[str, Any]) -> None:
        self._port: int = plan["port"]
        self._requests = [base64.b64decode(text) for text in plan["requests"]]
        self._pause = 1 / plan["rate"]
        self._seconds: float | None = plan["seconds"]
        self._fresh, self._patience = bool(plan["fresh"]), float(plan["patience"])
        self._version = re.compile(plan["version"].encode()) if plan["version"] else None
        self._content = plan["content"].encode()
        self._free = plan["connections"]
        self._idle: list[socket.socket] = []
        self._flying: dict[socket.socket, _Flight] = {}
        self._waiting: deque[_Flight] = deque()
        self._again: deque[tuple[float, _Flight]] = deque()
        self._kind = 0
        self._changing = False
        self.samples: list[tuple[Any, ...]] = []

    def run(self) -> None:
        """Send until the time is over, or until told to stop."""
        commands = sys.stdin.fileno()
        due = time.monotonic() + self._pause
        end = due + self._seconds if self._seconds is not None else float("inf")
        while due < end or self._flying or self._waiting or self._again:
            now = time.monotonic()
            while due <= now and due < end:
                self._waiting.append(_Flight(due, self._kind))
                due += self._pause
            while self._again and self._again[0][0] <= now:
                self._waiting.append(self._again.popleft()[1])
            while self._waiting and (self._idle or self._free):
                self._send(self._waiting.popleft())
            soon = min(due if due < end else now + 1, self._again[0][0] if self._again else now + 1)
            readable, _, _ = select.select([commands, *self._flying], [], [], max(0.0, soon - time.monotonic()))
            for ready in readable:
                if isinstance(ready, socket.socket):
                    self._receive(ready)
                elif not self._obey():
                    end = min(end, time.monotonic())
                    commands = self._deaf()

    def _obey(self) -> bool:
        line = sys.stdin.readline().strip()
        if not line.isdigit():
            return False
        self._kind, self._changing = int(line), True
        self._say_changed()
        return True

    def _say_changed(self) -> None:
        before = (*self._flying.values(), *self._waiting, *(flight for _, flight in self._again))
        if all(flight.kind == self._kind for flight in before):
            self._changing = False
            print(self._kind, flush=True)

    def _deaf(self) -> int:
        read, self._end_of_nothing = socket.socketpair()
        self._nothing = read
        return read.fileno()

    def _send(self, flight: _Flight) -> None:
        flight.begun = time.monotonic()
        flight.first = flight.first or flight.begun
        flight.tries += 1
        flight.answer = bytearray()
        try:
            if self._idle:
                connection = self._idle.pop()
            else:
                connection = socket.create_connection(("127.0.0.1", self._port), timeout=5)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._free -= 1
            connection.sendall(self._requests[flight.kind])
        except OSError:
            self._lost(flight)
            return
        self._flying[connection] = flight

    def _receive(self, connection: socket.socket) -> None:
        flight = self._flying[connection]
        try:
            data = connection.recv(1 << 18)
        except OSError:
            data = b""
        flight.answer += data
        status, last = _complete(flight.answer, closed=not data)
        if status is None and data:
            return
        del self._flying[connection]
        if last or not data or self._fresh:
            connection.close()
            self._free += 1
        else:
            self._idle.append(connection)
        if status is None:
            self._lost(flight)
        else:
            self._take(flight, status)

    def _lost(self, flight: _Flight) -> None:
        now = time.monotonic()
        # A connection that idled may have been closed by the server: whoever comes next finds out.
        for connection in self._idle:
            connection.close()
        self._free += len(self._idle)
        self._idle.clear()
        if now - flight.first < self._patience:
            self._again.append((now + RETRY_SECONDS, flight))
        else:
            self._take(flight, 0)

    def _take(self, flight: _Flight, status: int) -> None:
        ended = time.monotonic()
        version, content = "", 0
        if self._version is not None and (found := self._version.search(flight.answer)):
            version = found[1].decode()
            content = zlib.crc32(flight.answer[flight.answer.find(self._content) :])
        if self._changing:
            self._say_changed()
        self.samples.append((flight.due, flight.begun, ended, flight.kind, status, version, content, flight.tries))


def _complete(answer: bytearray, *, closed: bool) -> tuple[int | None, bool]:
    """Return the status of an answer that has come to its end, or None, and whether its connection closes."""
    end = answer.find(b"\r\n\r\n")
    if end < 0:
        return None, False
    head = bytes(answer[: end + 2]).lower()
    last = b"connection: close" in head
    place = head.find(b"content-length:")
    if place >= 0:
        whole = len(answer) >= end + 4 + int(head[place + 15 : head.index(b"\r\n", place)])
    elif b"transfer-encoding: chunked" in head:
        whole = answer.endswith(b"0\r\n\r\n")
    else:
        whole = closed
    return (int(head[9:12]), last) if whole else (None, last)


def quantile(values: Sequence[float], share: float) -> float:
    """Return what this share of the values does not pass."""
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)]


def fire(port: int, request: bytes, rate: float, seconds: float, *, fresh: bool = False) -> dict[str, float]:
    """Send by the clock for some seconds, and return `requests`, `failed`, `p50`, `p99`, `worst` and `late`.

    `late` is how late 99 of 100 were sent: what the load generator, or a lack of free connections, adds.
    """
    samples = OpenLoop(port, [request], rate, seconds, fresh=fresh).result()
    latencies = [one.latency for one in samples]
    return {
        "requests": len(samples), "failed": sum(one.status != 200 for one in samples),
        "p50": quantile(latencies, 0.5), "p99": quantile(latencies, 0.99), "worst": max(latencies),
        "late": quantile([one.begun - one.due for one in samples], 0.99),
    }  # fmt: skip


def _main(lines: Iterator[str]) -> None:
    loop = _Loop(json.loads(next(lines)))
    print("begun", flush=True)
    loop.run()
    print(json.dumps(loop.samples), flush=True)


if __name__ == "__main__":
    _main(iter(sys.stdin.readline, ""))
