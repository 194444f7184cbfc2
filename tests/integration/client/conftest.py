from __future__ import annotations

import asyncio
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from tests.integration.serving.conftest import Service, service, shared

from modelyard.client import AsyncClient, Client

__all__ = ["Service", "service", "shared"]


class InALoop:
    """An `AsyncClient` with an event loop of its own, called as a `Client` is, so that one test proves both."""

    def __init__(self, url: str, **options: Any) -> None:
        self._runner = asyncio.Runner()
        self._client = AsyncClient(url, **options)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._client, name)
        return lambda *given, **options: self._runner.run(method(*given, **options))

    def finish(self) -> None:
        self.close()
        self._runner.close()


Connect = Callable[..., Any]


@pytest.fixture(params=["Client", "AsyncClient"])
def connect(request: pytest.FixtureRequest) -> Iterator[Connect]:
    """Make a client of either kind."""
    made: list[Any] = []

    def make(url: str, **options: Any) -> Any:
        made.append(Client(url, **options) if request.param == "Client" else InALoop(url, **options))
        return made[-1]

    yield make
    for client in made:
        client.finish() if isinstance(client, InALoop) else client.close()


RESET = "reset"
"""What a script says to have the connection reset once the request was read."""

ANSWER = b'{"model":"m","version":"v1","generation":1,"columns":{"value":[2.0]}}'


def answer(status: int = 200, body: bytes = ANSWER, **headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} Said", f"content-length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@dataclass
class Script:
    """A server on a real socket that answers each request by the next line of its script; the last one stays."""

    lines: list[bytes | str | list[bytes]]
    trickle: float = 0.0
    """Seconds between the pieces of an answer that is a list."""
    tls: ssl.SSLContext | None = None
    heads: list[dict[str, str]] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    connections: int = 0

    def __enter__(self) -> Script:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        # A blocked accept does not hear of a close.
        socket.create_connection(self._listening.getsockname()).close()
        self._thread.join(5)
        self._listening.close()

    @property
    def url(self) -> str:
        return f"http{'s' if self.tls else ''}://127.0.0.1:{self._listening.getsockname()[1]}"

    def _accept(self) -> None:
        while True:
            connection, _ = self._listening.accept()
            if self._stopping.is_set():
                connection.close()
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            if self.tls is not None:
                connection = self.tls.wrap_socket(connection, server_side=True)
            with connection, connection.makefile("rb") as reading:
                while self._one(connection, reading):
                    pass
        except OSError:
            connection.close()

    def _one(self, connection: socket.socket, reading: Any) -> bool:
        head: dict[str, str] = {"": reading.readline().decode().strip()}
        if not head[""]:
            return False
        while line := reading.readline().decode().strip():
            name, _, value = line.partition(":")
            head[name.lower()] = value.strip()
        self.bodies.append(reading.read(int(head.get("content-length", 0))))
        self.heads.append(head)
        line = self.lines.pop(0) if len(self.lines) > 1 else self.lines[0]
        if isinstance(line, str):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return False
        for piece in [line] if isinstance(line, bytes) else line:
            connection.sendall(piece)
            if isinstance(line, list) and self._stopping.wait(self.trickle):
                return False
        return True
