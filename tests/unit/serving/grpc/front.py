"""A worker's gRPC front in a thread of this process, on a real socket; everything behind it but the model is real."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import hpack
import uvloop
from tests.unit.serving.grpc.frames import HEAD, PREFACE, Kind, frame, settings

from modelyard.data import Field
from modelyard.packages.contract import Contract
from modelyard.serving.grpc.front import grpc_server
from modelyard.serving.inference import Inference
from modelyard.serving.liaison import Liaison
from modelyard.serving.loading import Served
from modelyard.serving.logs import Log
from modelyard.serving.metrics import Metrics
from modelyard.serving.route import Route
from modelyard.serving.slots import Generation, Slots
from modelyard.serving.spec import Limits
from modelyard.serving.state import GenerationRecord, Page

MIXED = Contract(
    (Field("age", "float32"), Field("kind", "string"), Field("flags", "bool", (2,))),
    (Field("score", "float32"), Field("label", "string")),
)
DOUBLING = Contract((Field("x", "float64"),), (Field("value", "float64"),))


def doubling(columns: Any) -> Any:
    return {"value": columns["x"] * 2.0}


def mixed(columns: Any) -> Any:
    return {"score": columns["age"] + columns["flags"].sum(axis=1, dtype="float32"), "label": columns["kind"]}


class Front:
    """The front of one worker that serves `m`, which doubles, and `mixed`."""

    def __init__(self, limits: Limits | None = None, guard: Any = None, tls: Any = None, stall: float = 0.0) -> None:
        self.page = Page.create()
        self.slots = Slots(self.page)
        self.hold("m", 0, 1, DOUBLING, doubling)
        self.hold("mixed", 1, 1, MIXED, mixed)
        self.page.words[Page.READY] = 1
        self.loop = uvloop.new_event_loop()
        listening = socket.create_server(("127.0.0.1", 0))
        listening.setblocking(False)
        self.port = listening.getsockname()[1]
        log = Log("error", service="test")
        self.inference = Inference(self.slots, limits or Limits(), Metrics(self.page, self.slots, 1), log, 0, 1)
        self.server = grpc_server(
            self.inference, Liaison(lambda _ask: False), self.loop, listening.detach(), 0, guard, tls
        )
        if stall:
            self.server.stall_seconds = stall
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()
        self.do(self.server.start)

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    def hold(self, name: str, index: int, number: int, contract: Contract, predict: Any) -> None:
        record = GenerationRecord(number, name, f"v{number}.0.0", "d" * 64, "/store")
        self.slots.hold(name, index, Generation(record, Served(contract, predict, {}, {})))
        self.page.words[self.page.slot_word(index)] = Route(number, 0, 0).pack()

    def do(self, call: Callable[[], Any]) -> Any:
        """Call something in the event loop's thread."""
        done: Future[Any] = Future()
        self.loop.call_soon_threadsafe(lambda: done.set_result(call()))
        return done.result(5)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def held(self) -> int:
        return self.server._dispatcher.held

    def drained(self, timeout: float) -> None:
        """Drain, and wait until the last connection is closed."""
        self.server.drain()
        asyncio.run_coroutine_threadsafe(self.server.wait_drained(), self.loop).result(timeout)

    def close(self) -> None:
        self.do(self.server._drain)
        for connection in list(self.server.clients):
            self.do(connection.transport.abort)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(5)
        self.inference.computing.shutdown()
        self.loop.close()
        self.page.close()


class Wire:
    """A client that speaks in frames, also such as no client should."""

    def __init__(self, port: int, greet: bool = True) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.encoder, self.decoder = hpack.Encoder(), hpack.Decoder()
        self.rest = b""
        if greet:
            self.send(PREFACE + settings({}))

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def block(self, *extra: tuple[str, str], path: str = "/inference.GRPCInferenceService/ModelInfer") -> bytes:
        given = [
            (":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "localhost"),
            ("te", "trailers"), ("content-type", "application/grpc"), *extra,
        ]  # fmt: skip
        return self.encoder.encode(given)

    def headers(self, stream: int, *extra: tuple[str, str], end: bool = False, **options: Any) -> None:
        self.send(frame(Kind.HEADERS, 5 if end else 4, stream, self.block(*extra, **options)))

    def data(self, stream: int, data: bytes, end: bool = True) -> None:
        self.send(frame(Kind.DATA, 1 if end else 0, stream, data))

    def call(self, stream: int, message: bytes, *extra: tuple[str, str], **options: Any) -> None:
        self.headers(stream, *extra, **options)
        self.data(stream, struct.pack(">BL", 0, len(message)) + message)

    def frame(self) -> tuple[int, int, int, bytes] | None:
        """Return the next frame, or None when the server has closed."""
        while len(self.rest) < 9 or len(self.rest) < 9 + self._length():
            try:
                data = self.socket.recv(65536)
            except ConnectionResetError:
                return None
            if not data:
                return None
            self.rest += data
        length = self._length()
        _, _, kind, flags, stream = HEAD.unpack_from(self.rest)
        payload, self.rest = self.rest[9 : 9 + length], self.rest[9 + length :]
        return kind, flags, stream, payload

    def _length(self) -> int:
        return int.from_bytes(self.rest[:3], "big")

    def until(self, kind: int, stream: int | None = None) -> tuple[int, bytes]:
        """Return flags and payload of the next frame of a kind."""
        while (found := self.frame()) is not None:
            if found[0] == kind and stream in (None, found[2]):
                return found[1], found[3]
        raise AssertionError(f"the server closed without a frame of kind {kind}")

    def trailers(self, stream: int) -> dict[str, str]:
        """Return all headers of an answer up to its end."""
        all_headers: dict[str, str] = {}
        while (found := self.frame()) is not None:
            kind, flags, number, payload = found
            # Those of other streams, too: later ones refer to earlier ones.
            headers = dict(self.decoder.decode(payload)) if kind == Kind.HEADERS else {}
            if number == stream:
                all_headers |= headers
                if kind == Kind.HEADERS and flags & 1:
                    return all_headers
        raise AssertionError("the server closed before the end of an answer")

    def ended(self) -> int | None:
        """Return the code that the connection ends with, or None where it is just closed."""
        code = None
        while (found := self.frame()) is not None:
            if found[0] == Kind.GOAWAY:
                code = int.from_bytes(found[3][4:8], "big")
        return code

    def close(self) -> None:
        self.socket.close()
