"""A load generator that tells not only how fast a service answers but whether every answer is right.

It keeps connections alive, checks each answer against what its version should say, and remembers when each request
began and ended, so that a test can say of any moment which generation answered. With a rate, latency counts from when a
request was due and not from when it could be sent: a stalled service is charged for all that waited (coordinated
omission).
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

import msgspec

__all__ = ["Check", "LoadGenerator", "LoadReport", "Sample"]

Check = Callable[[Mapping[str, Any]], bool]
"""Says whether an answer is what the version that it names should say."""


class Sample(msgspec.Struct, frozen=True, gc=False):
    """One request.

    Args:
        due: When it should have been sent, by `time.monotonic`, which all processes of a machine share.
        begun: When it was sent.
        ended: When its answer was there, or when it failed.
        version: That answered; an empty text where none did.
        generation: That answered; 0 where none did.
        failure: Why it failed, or an empty text.
    """

    due: float
    begun: float
    ended: float
    version: str = ""
    generation: int = 0
    failure: str = ""


class LoadReport(msgspec.Struct, frozen=True):
    """What a load generator saw.

    Args:
        samples: Every request, in the order in which they ended.
        mixed: Answers that are not what their version should say.
    """

    samples: list[Sample]
    mixed: list[Mapping[str, Any]]

    @property
    def requests(self) -> int:
        """How many requests were sent."""
        return len(self.samples)

    @property
    def failures(self) -> list[Sample]:
        """Requests that were not answered by status 200."""
        return [sample for sample in self.samples if sample.failure]

    @property
    def versions(self) -> Counter[str]:
        """How many requests each version answered."""
        return Counter(sample.version for sample in self.samples if not sample.failure)

    def between(self, start: float, end: float) -> LoadReport:
        """Return the report of the requests that were due in this time."""
        return LoadReport([sample for sample in self.samples if start <= sample.due < end], self.mixed)

    def latency(self, share: float) -> float:
        """Return the seconds that this share of the answers, such as 0.99, did not pass; 0 without answers."""
        times = sorted(sample.ended - sample.due for sample in self.samples if not sample.failure)
        return times[min(int(len(times) * share), len(times) - 1)] if times else 0.0

    def __repr__(self) -> str:
        return (
            f"LoadReport({self.requests} requests, {len(self.failures)} failed, {len(self.mixed)} mixed, "
            f"p50 {self.latency(0.5) * 1000:.2f} ms, p99 {self.latency(0.99) * 1000:.2f} ms)"
        )


class LoadGenerator:
    """Sends one request again and again over connections that it keeps alive, in a thread of its own.

    Args:
        url: Of the request.
        body: Of the request, as JSON.
        check: Says whether an answer is right; left out, every answer is.
        connections: How many, each with one request at a time.
        rate: Requests a second over all connections; None sends the next as soon as the last is answered.
        fresh: Open a connection for each request.
    """

    def __init__(
        self,
        url: str,
        body: bytes,
        *,
        check: Check | None = None,
        connections: int = 4,
        rate: float | None = None,
        fresh: bool = False,
    ) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80
        closing = "connection: close\r\n" if fresh else ""
        self._request = (
            f"POST {parts.path} HTTP/1.1\r\nhost: {parts.netloc}\r\ncontent-type: application/json\r\n{closing}"
            f"content-length: {len(body)}\r\n\r\n"
        ).encode() + body
        self._check = check
        self._connections = connections
        self._pause = connections / rate if rate else 0.0
        self._fresh = fresh
        self._samples: list[Sample] = []
        self._mixed: list[Mapping[str, Any]] = []
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="load", daemon=True)

    def __enter__(self) -> LoadGenerator:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def stop(self) -> LoadReport:
        """Let the requests in flight end, and return what was seen."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()
        return self.report()

    def report(self) -> LoadReport:
        """Return what was seen so far."""
        return LoadReport(list(self._samples), list(self._mixed))

    def wait_for(self, requests: int, timeout: float = 30.0) -> None:
        """Return when so many further requests have ended.

        Raises:
            TimeoutError: They did not end in time.
        """
        goal = len(self._samples) + requests
        deadline = time.monotonic() + timeout
        while len(self._samples) < goal:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{requests} requests did not end within {timeout:g} s.")
            time.sleep(0.005)

    def _run(self) -> None:
        asyncio.run(self._all())

    async def _all(self) -> None:
        await asyncio.gather(*(self._one(number) for number in range(self._connections)))

    async def _one(self, number: int) -> None:
        streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        # Connections are spread over the pause, so that requests do not come in bursts.
        due = time.monotonic() + self._pause * number / self._connections
        while not self._stopping.is_set():
            begun = time.monotonic()
            if begun < due:
                await asyncio.sleep(due - begun)
                begun = time.monotonic()
            if not self._pause:
                due = begun
            try:
                if streams is None:
                    streams = await asyncio.open_connection(self._host, self._port)
                streams[1].write(self._request)
                status, body, last = await _answer(streams[0])
                self._take(due, begun, status, body)
                if last or self._fresh:
                    streams[1].close()
                    streams = None
            except (OSError, asyncio.IncompleteReadError) as error:
                self._samples.append(Sample(due, begun, time.monotonic(), failure=repr(error)))
                if streams is not None:
                    streams[1].close()
                streams = None
                # A service that is gone would be asked a hundred thousand times a second.
                await asyncio.sleep(0.01)
            due += self._pause
        if streams is not None:
            streams[1].close()

    def _take(self, due: float, begun: float, status: int, body: bytes) -> None:
        ended = time.monotonic()
        if status != 200:
            self._samples.append(Sample(due, begun, ended, failure=f"{status} {body[:300].decode(errors='replace')}"))
            return
        answer = msgspec.json.decode(body)
        self._samples.append(Sample(due, begun, ended, answer["version"], answer["generation"]))
        if self._check is not None and not self._check(answer):
            self._mixed.append(answer)


async def _answer(reader: asyncio.StreamReader) -> tuple[int, bytes, bool]:
    """Return status, body, and whether the server closes the connection."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    status = int(head[9:12])
    length = head.find(b"content-length: ")
    size = int(head[length + 16 : head.index(b"\r\n", length)])
    return status, await reader.readexactly(size), b"connection: close" in head
