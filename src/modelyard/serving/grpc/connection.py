"""One HTTP/2 connection of a client (RFC 9113), as much of it as a gRPC server needs, and no more than it can afford.

What a frame costs us is paid from a purse that fills with time and with calls answered: who sends pings, resets,
settings or empty frames without end runs out of it, and the connection ends.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from typing import Protocol, cast

from modelyard.serving.grpc.frames import (
    HEAD,
    PREFACE,
    ErrorCode,
    Flag,
    Kind,
    ProtocolError,
    Setting,
    StreamError,
    frame,
    go_away,
    reset,
    settings,
    window_update,
)
from modelyard.serving.grpc.headers import HeaderBlocks, Headers
from modelyard.serving.grpc.stream import NOBODY, Receiver, Stream

__all__ = ["Connection", "Home"]

STREAMS = 128
STREAM_WINDOW = 1 << 20
CONNECTION_WINDOW = 4 << 20
LARGEST_FRAME = 16_384
LONGEST_HEADERS = 65_536
"""Beyond this the connection ends; a call that brings more than gRPC's metadata may have is refused before."""
ADVERTISED_HEADERS = 16_384
WRITE_HIGH = 1 << 20
HIGHEST = (1 << 31) - 1
PURSE = 2000.0
PURSE_PER_SECOND = 500.0
PING_PRICE = 20.0
GREETING_SECONDS = 10.0
IDLE_SECONDS = 900.0
DRAIN_PING = b"drainage"

_GREETING = settings(
    {
        Setting.MAX_CONCURRENT_STREAMS: STREAMS,
        Setting.INITIAL_WINDOW_SIZE: STREAM_WINDOW,
        Setting.MAX_HEADER_LIST_SIZE: ADVERTISED_HEADERS,
    }
) + window_update(0, CONNECTION_WINDOW - 65_535)
_SETTINGS_ACK = frame(Kind.SETTINGS, Flag.ACK, 0)


class Home(Protocol):
    """What a connection belongs to."""

    stall_seconds: float
    """How long a client may keep us waiting in the middle of something."""

    def receiver(self, stream: Stream, headers: dict[bytes, bytes], size: int) -> Receiver:
        """Return who takes a call whose headers came."""

    def opened(self, connection: Connection) -> None:
        """Take down that a connection is there."""

    def closed(self, connection: Connection) -> None:
        """Take down that it is gone."""


class Connection(asyncio.Protocol):
    """A connection.

    Args:
        home: Who answers its calls.
        loop: Its event loop.
    """

    transport: asyncio.Transport

    def __init__(self, home: Home, loop: asyncio.AbstractEventLoop) -> None:
        self._home = home
        self._loop = loop
        self._rest = b""
        self._greeted = False
        self._configured = False
        self._blocks = HeaderBlocks(LONGEST_HEADERS)
        self._out: list[bytes] = []
        self._block: tuple[int, int, bytearray] | None = None
        self._streams: dict[int, Stream] = {}
        self._last = 0
        self._window = CONNECTION_WINDOW
        self._unacknowledged = 0
        self._peer_initial = 65_535
        self._purse = PURSE
        self._counted = self._active = loop.time()
        self._draining = self._refusing = self._dead = False
        self._paused_at = 0.0
        self.peer_frame = LARGEST_FRAME
        self.peer_window = 65_535

    # What asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet."""
        self.transport = cast("asyncio.Transport", transport)
        self.transport.set_write_buffer_limits(WRITE_HIGH)
        self.transport.write(_GREETING)
        self._home.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  (asyncio gives it)
        """Give up every call: nobody is left to hear of it."""
        self._dead = True
        for stream in list(self._streams.values()):
            stream.abandon()
        self._streams.clear()
        self._home.closed(self)

    def pause_writing(self) -> None:
        """Send no more answers, and read no more that would need one: the client does not take them."""
        self._paused_at = self._loop.time()
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        """Go on."""
        self._paused_at = 0.0
        self.transport.resume_reading()
        self._pump_all()

    def data_received(self, data: bytes) -> None:
        """Take what came."""
        if self._dead:
            return
        try:
            self._take(self._rest + data if self._rest else bytes(data))
        except ProtocolError as error:
            self.end(error.code, str(error))

    @property
    def paused(self) -> bool:
        """Whether the client takes nothing at the moment."""
        return self._paused_at > 0.0

    @property
    def now(self) -> float:
        """Seconds on the event loop's clock."""
        return self._loop.time()

    def write(self, data: bytes) -> None:
        """Send bytes at the end of this turn of the event loop: what is written until then is one system call."""
        if not self._dead:
            if not self._out:
                self._loop.call_soon(self._flush)
            self._out.append(data)

    def _flush(self) -> None:
        if self._out:
            data = b"".join(self._out)
            self._out.clear()
            # The connection may be lost since.
            if not self.transport.is_closing():
                self.transport.write(data)

    def end(self, code: ErrorCode, reason: str) -> None:
        """End the connection, and say why."""
        if not self._dead:
            self.write(go_away(self._last, code, reason))
            self._close()
            for stream in list(self._streams.values()):
                stream.abandon()
            self._streams.clear()

    def drain(self) -> None:
        """Take no more calls; close when those in flight are answered.

        The client is told at once, and what it sent before it heard of it is still answered: its answer to a ping says
        that it has heard.
        """
        if not self._draining and not self._dead:
            self._draining = True
            self._active = self._loop.time()
            self.write(go_away(HIGHEST, ErrorCode.NO_ERROR) + frame(Kind.PING, 0, 0, DRAIN_PING))

    def _refuse(self) -> None:
        if not self._refusing:
            self._refusing = True
            self.write(go_away(self._last, ErrorCode.NO_ERROR))
            for stream in list(self._streams.values()):
                stream.receiver.drain()
            self._close_if_done()

    def _close_if_done(self) -> None:
        if self._refusing and not self._streams and not self._dead:
            self._close()

    def _close(self) -> None:
        self._flush()
        self._dead = True
        self.transport.close()

    def sweep(self, now: float) -> None:
        """End what keeps us waiting; called about once a second."""
        patience = self._home.stall_seconds
        if (not self._configured and now - self._active > GREETING_SECONDS) or (
            (self._paused_at and now - self._paused_at > patience)
            or (self._block is not None and now - self._active > patience)
        ):
            self._dead = True
            self.transport.abort()
        elif self._draining and now - self._active > 1.0:
            self._refuse()
        elif not self._streams and not self._draining and now - self._active > IDLE_SECONDS:
            self.drain()
        for stream in list(self._streams.values()):
            if stream.stalled_since and now - stream.stalled_since > patience:
                stream.stalled()

    # Frames

    def _take(self, data: bytes) -> None:
        place = 0
        size = len(data)
        if not self._greeted:
            if not PREFACE.startswith(data[:24]):
                raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "this is no HTTP/2")
            if size < len(PREFACE):
                self._rest = data
                return
            self._greeted = True
            place = len(PREFACE)
        while size - place >= 9:
            upper, lower, kind, flags, number = HEAD.unpack_from(data, place)
            length = upper << 16 | lower
            if length > LARGEST_FRAME:
                raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, "the frame is too long")
            end = place + 9 + length
            if end > size:
                break
            payload = data[place + 9 : end]
            place = end
            self._frame(kind, flags, number & HIGHEST, payload)
            if self._dead:
                return
        self._rest = data[place:] if place < size else b""

    def _frame(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        if self._block is not None and (kind != Kind.CONTINUATION or number != self._block[0]):
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "a header block is not finished")
        if not self._configured:
            if kind != Kind.SETTINGS or flags & Flag.ACK:
                raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "settings come first")
            self._configured = True
        handler = _HANDLERS.get(kind)
        try:
            if handler is not None:
                handler(self, flags, number, payload)
            elif kind == Kind.PUSH_PROMISE:
                raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "clients promise nothing")
            else:
                # Kinds that nobody knows yet are to be ignored (RFC 9113, section 4.1).
                self._pay(1.0)
        except StreamError as error:
            self._pay(1.0)
            stream = self._streams.get(error.stream)
            self.write(reset(error.stream, error.code))
            if stream is not None:
                stream.abandon()
                self.forget(stream)

    def _pay(self, price: float, reason: str = "too much for too little") -> None:
        self._purse -= price
        if self._purse < 0.0:
            now = self._loop.time()
            self._purse += min((now - self._counted) * PURSE_PER_SECOND, PURSE)
            self._counted = now
            if self._purse < 0.0:
                raise ProtocolError(ErrorCode.ENHANCE_YOUR_CALM, reason)

    def earn(self, amount: float) -> None:
        """Count an answer in the client's favour."""
        self._purse = min(self._purse + amount, PURSE)

    def _data(self, flags: int, number: int, payload: bytes) -> None:
        length = len(payload)
        self._window -= length
        if self._window < 0:
            raise ProtocolError(ErrorCode.FLOW_CONTROL_ERROR, "more than the connection's window")
        stream = self._existing(number)
        if stream is None or stream.ended:
            # What was on its way when the call was answered early.
            self._pay(1.0)
            self.consumed(None, length)
            if stream is not None:
                raise StreamError(number, ErrorCode.STREAM_CLOSED)
            return
        stream.window -= length
        if stream.window < 0:
            raise StreamError(number, ErrorCode.FLOW_CONTROL_ERROR)
        data = _unpadded(payload) if flags & Flag.PADDED else payload
        if not data and not flags & Flag.END_STREAM:
            self._pay(1.0)
        self.consumed(stream, length - len(data))
        if data:
            stream.receive(data)
        if flags & Flag.END_STREAM and not stream.done:
            stream.end()

    def consumed(self, stream: Stream | None, count: int) -> None:
        """Let the client send again what was taken of a stream."""
        if not count:
            return
        self._unacknowledged += count
        if self._unacknowledged > CONNECTION_WINDOW // 2:
            self._window += self._unacknowledged
            self.write(window_update(0, self._unacknowledged))
            self._unacknowledged = 0
        if stream is not None and not stream.ended:
            stream.unacknowledged += count
            if stream.unacknowledged > STREAM_WINDOW // 2:
                stream.window += stream.unacknowledged
                self.write(window_update(stream.number, stream.unacknowledged))
                stream.unacknowledged = 0

    def _existing(self, number: int) -> Stream | None:
        """Return a stream, or None where it is closed; one that never was is an error."""
        stream = self._streams.get(number)
        if stream is None and (not number & 1 or number > self._last):
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "there is no such stream")
        return stream

    def _headers(self, flags: int, number: int, payload: bytes) -> None:
        if not number & 1:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "clients open odd streams")
        block = _unpadded(payload) if flags & Flag.PADDED else payload
        if flags & Flag.PRIORITY:
            if len(block) < 5:
                raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, "no room for the priority")
            if int.from_bytes(block[:4], "big") & HIGHEST == number:
                raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "a stream depends on itself")
            block = block[5:]
        if flags & Flag.END_HEADERS:
            self._complete(flags, number, block)
        else:
            self._active = self._loop.time()
            self._block = (number, flags, bytearray(block))

    def _continuation(self, flags: int, _number: int, payload: bytes) -> None:
        if self._block is None:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "there is nothing to continue")
        number, first, block = self._block
        self._pay(1.0 if payload else PING_PRICE)
        block += payload
        if len(block) > LONGEST_HEADERS:
            raise ProtocolError(ErrorCode.ENHANCE_YOUR_CALM, "the headers are too long")
        if flags & Flag.END_HEADERS:
            self._block = None
            self._complete(first, number, bytes(block))

    def _complete(self, flags: int, number: int, block: bytes) -> None:
        headers = self._blocks.decode(block)
        stream = self._streams.get(number)
        if stream is not None:
            if stream.ended:
                raise ProtocolError(ErrorCode.STREAM_CLOSED, "headers after the end")
            if not flags & Flag.END_STREAM or headers.malformed or any(name[:1] == b":" for name in headers.given):
                raise StreamError(number, ErrorCode.PROTOCOL_ERROR)
            stream.end()
            return
        if number <= self._last:
            raise ProtocolError(ErrorCode.STREAM_CLOSED, "the stream is closed")
        if self._refusing:
            # The client was told: it sends the call elsewhere.
            return
        self._last = number
        if len(self._streams) >= STREAMS:
            raise StreamError(number, ErrorCode.REFUSED_STREAM)
        self._open(flags, number, headers)

    def _open(self, flags: int, number: int, headers: Headers) -> None:
        if headers.malformed or not headers.request:
            raise StreamError(number, ErrorCode.PROTOCOL_ERROR)
        stream = Stream(self, number, STREAM_WINDOW, self._peer_initial)
        stream.stalled_since = self._active = self._loop.time()
        stream.ended = bool(flags & Flag.END_STREAM)
        self._streams[number] = stream
        receiver = self._home.receiver(stream, headers.given, headers.size)
        if not stream.done:
            stream.receiver = receiver
        if flags & Flag.END_STREAM and not stream.done:
            stream.end()

    def forget(self, stream: Stream) -> None:
        """Count a stream no more."""
        self._streams.pop(stream.number, None)
        # Call and stream know each other: apart, they are freed at once, without a search for cycles.
        stream.receiver = NOBODY
        if not self._streams:
            self._active = self._loop.time()
            self._close_if_done()

    def _priority(self, _flags: int, number: int, payload: bytes) -> None:
        self._pay(1.0)
        if not number:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "there is no such stream")
        if len(payload) != 5:
            raise StreamError(number, ErrorCode.FRAME_SIZE_ERROR)
        if int.from_bytes(payload[:4], "big") & HIGHEST == number:
            raise StreamError(number, ErrorCode.PROTOCOL_ERROR)

    def _reset(self, _flags: int, number: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, "a reset has four bytes")
        stream = self._existing(number)
        self._pay(1.0)
        if stream is not None:
            stream.abandon()
            self.forget(stream)

    def _settings(self, flags: int, number: int, payload: bytes) -> None:
        if number:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "settings are the connection's")
        if flags & Flag.ACK:
            if payload:
                raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, "an acknowledgement is empty")
            return
        if len(payload) % 6:
            raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, "a setting has six bytes")
        self._pay(PING_PRICE + len(payload) // 6)
        for name, value in struct.iter_unpack(">HL", payload):
            self._set(name, value)
        self.write(_SETTINGS_ACK)
        self._pump_all()

    def _set(self, name: int, value: int) -> None:
        if name == Setting.ENABLE_PUSH and value > 1:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "ENABLE_PUSH is 0 or 1")
        if name == Setting.MAX_FRAME_SIZE:
            if not 16_384 <= value < 1 << 24:
                raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "MAX_FRAME_SIZE is impossible")
            self.peer_frame = min(value, 1 << 18)
        elif name == Setting.INITIAL_WINDOW_SIZE:
            if value > HIGHEST:
                raise ProtocolError(ErrorCode.FLOW_CONTROL_ERROR, "INITIAL_WINDOW_SIZE is impossible")
            change = value - self._peer_initial
            self._peer_initial = value
            for stream in self._streams.values():
                stream.peer_window += change
                if stream.peer_window > HIGHEST:
                    raise ProtocolError(ErrorCode.FLOW_CONTROL_ERROR, "a window is too large")

    def _ping(self, flags: int, number: int, payload: bytes) -> None:
        if number:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "pings are the connection's")
        if len(payload) != 8:
            raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, "a ping has eight bytes")
        self._pay(PING_PRICE, "too_many_pings")
        if not flags & Flag.ACK:
            self.write(frame(Kind.PING, Flag.ACK, 0, payload))
        elif payload == DRAIN_PING and self._draining:
            self._refuse()

    def _go_away(self, _flags: int, number: int, payload: bytes) -> None:
        if number:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "going away is the connection's")
        if len(payload) < 8:
            raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, "going away has eight bytes")
        # Its calls are answered to their ends.
        self._draining = self._refusing = True
        self._close_if_done()

    def _window_update(self, _flags: int, number: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, "a window update has four bytes")
        self._pay(1.0)
        count = int.from_bytes(payload, "big") & HIGHEST
        if not number:
            self.peer_window += count
            if not count or self.peer_window > HIGHEST:
                raise ProtocolError(
                    ErrorCode.FLOW_CONTROL_ERROR if count else ErrorCode.PROTOCOL_ERROR, "the window is impossible"
                )
            self._pump_all()
            return
        stream = self._existing(number)
        if not count:
            raise StreamError(number, ErrorCode.PROTOCOL_ERROR)
        if stream is not None:
            stream.peer_window += count
            if stream.peer_window > HIGHEST:
                raise StreamError(number, ErrorCode.FLOW_CONTROL_ERROR)
            stream.pump()

    def _pump_all(self) -> None:
        """Send what waits; each stream gets the same chance, as the first goes to the end of the line."""
        for stream in [stream for stream in self._streams.values() if stream.waiting]:
            if self.peer_window <= 0 or self.paused:
                break
            if self._streams.pop(stream.number, None) is not None:
                self._streams[stream.number] = stream
                stream.pump()


_HANDLERS: dict[int, Callable[[Connection, int, int, bytes], None]] = {
    Kind.DATA: Connection._data,
    Kind.HEADERS: Connection._headers,
    Kind.PRIORITY: Connection._priority,
    Kind.RST_STREAM: Connection._reset,
    Kind.SETTINGS: Connection._settings,
    Kind.PING: Connection._ping,
    Kind.GOAWAY: Connection._go_away,
    Kind.WINDOW_UPDATE: Connection._window_update,
    Kind.CONTINUATION: Connection._continuation,
}


def _unpadded(payload: bytes) -> bytes:
    if not payload or payload[0] >= len(payload):
        raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "more padding than frame")
    return payload[1 : len(payload) - payload[0]]
