"""One HTTP/2 connection of a client: h2 speaks the protocol, and this page keeps the client to what it may cost."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any, Final, Protocol, cast

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    DataReceived,
    PingAckReceived,
    RemoteSettingsChanged,
    RequestReceived,
    StreamEnded,
    StreamReset,
    WindowUpdated,
)
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes, Settings
from hyperframe.frame import GoAwayFrame

from modelyard.serving.grpc.headers import Decoder, Encoder
from modelyard.serving.grpc.status import Headers
from modelyard.serving.grpc.stream import NOBODY, Receiver, Stream
from modelyard.serving.grpc.toll import Kind, Toll, TollError

__all__ = ["Connection", "Home"]

STREAMS = 128
STREAM_WINDOW = 1 << 20
CONNECTION_WINDOW = 4 << 20
LARGEST_SENT = 1 << 18
ADVERTISED_HEADERS = 16_384
"""A call that brings more is refused, and a connection ends at the four times that h2 reads."""
MOST_SETTINGS = 64
"""h2 remembers each setting that a client names, also those that nobody knows."""
WRITE_HIGH = 1 << 20
HIGHEST = (1 << 31) - 1
GREETING_SECONDS = 10.0
IDLE_SECONDS = 900.0
KEEPALIVE = {"TCP_KEEPIDLE": 300, "TCP_KEEPINTVL": 30, "TCP_KEEPCNT": 4}
"""Seconds of silence, seconds between questions, and how many go unanswered; where the system has such a setting."""
DRAIN_PING = b"drainage"


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


class _Http2(H2Connection):
    # Of each closed stream h2 remembers how it was closed, for clients that are late; 65,536 of them are megabytes.
    MAX_CLOSED_STREAMS = 1024

    def __init__(self) -> None:
        # What comes is checked by h2; what goes is ours, in lower case and without whitespace.
        configuration = H2Configuration(
            client_side=False, header_encoding=None, validate_outbound_headers=False,
            normalize_outbound_headers=False, normalize_inbound_headers=False,
        )  # fmt: skip
        super().__init__(configuration)
        self.decoder: Decoder = Decoder(configuration, self.DEFAULT_MAX_HEADER_LIST_SIZE)
        self.encoder = Encoder()

    def let_go(self) -> None:
        """Forget everything: it refers to itself, and what is frozen at a swap is never searched for cycles again."""
        self.__dict__.clear()


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
        self._http2 = _Http2()
        self._toll = Toll(loop.time)
        self._preface = 24
        self._configured = False
        self._ahead = b""
        self._flushing = False
        self._streams: dict[int, Stream] = {}
        self._active = loop.time()
        self._draining = self._refusing = self._dead = False
        self._paused_at = 0.0

    # What asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet."""
        self.transport = cast("asyncio.Transport", transport)
        self.transport.set_write_buffer_limits(WRITE_HIGH)
        self._keep_alive()
        http2 = self._http2
        http2.local_settings = Settings(
            client=False,
            initial_values={
                SettingCodes.INITIAL_WINDOW_SIZE: STREAM_WINDOW,
                SettingCodes.MAX_HEADER_LIST_SIZE: ADVERTISED_HEADERS,
            },
        )
        http2.initiate_connection()
        # Beyond it h2 ends the connection, once the client has acknowledged it; before, streams are refused one by one.
        http2.update_settings({SettingCodes.MAX_CONCURRENT_STREAMS: STREAMS})
        http2.increment_flow_control_window(CONNECTION_WINDOW - 65_535)
        self._flush()
        self._home.opened(self)

    def _keep_alive(self) -> None:
        """Have the kernel find out who is gone without a word: a call that watches waits for nothing else."""
        accepted = self.transport.get_extra_info("socket")
        accepted.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in KEEPALIVE.items():
            if (option := getattr(socket, name, None)) is not None:
                accepted.setsockopt(socket.IPPROTO_TCP, option, value)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  (asyncio gives it)
        """Give up every call: nobody is left to hear of it."""
        self._dead = True
        self._abandon_all()
        self._http2.let_go()
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
            self._read(data)
        except TollError as error:
            self._end(error.code, str(error))
        except ProtocolError:
            # h2 has said why.
            self._close()
            self._abandon_all()
        else:
            self.send_soon()

    # What streams call

    @property
    def paused(self) -> bool:
        """Whether the client takes nothing at the moment."""
        return self._paused_at > 0.0

    @property
    def now(self) -> float:
        """Seconds on the event loop's clock."""
        return self._loop.time()

    def room(self, number: int) -> int:
        """Return how many bytes of a stream may be sent in one frame now."""
        http2 = self._http2
        return min(http2.local_flow_control_window(number), http2.max_outbound_frame_size, LARGEST_SENT)

    def send_headers(self, number: int, headers: Headers, end: bool = False) -> None:
        """Send headers or trailers."""
        self._http2.send_headers(number, headers, end)
        if end:
            self._toll.earn(2.0)
        self.send_soon()

    def send_data(self, number: int, data: memoryview) -> None:
        """Send bytes for which there is room."""
        self._http2.send_data(number, data)
        self._toll.earn(len(data) / 1024)
        self.send_soon()

    def reset(self, number: int, code: ErrorCodes) -> None:
        """End a stream."""
        self._http2.reset_stream(number, code)
        self.send_soon()

    def consumed(self, number: int, count: int) -> None:
        """Let the client send again what was taken of a stream."""
        if count and not self._dead:
            self._http2.acknowledge_received_data(count, number)
            self.send_soon()

    def forget(self, stream: Stream) -> None:
        """Count a stream no more."""
        self._streams.pop(stream.number, None)
        # Call and stream know each other: apart, they are freed at once, without a search for cycles.
        stream.receiver = NOBODY
        if not self._streams:
            self._active = self._loop.time()
            self._close_if_done()

    # Writing and ending

    def send_soon(self) -> None:
        """Send at the end of this turn of the event loop: what is written until then is one system call."""
        if not self._flushing and not self._dead:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        if self._dead:
            return
        data = self._ahead + self._http2.data_to_send()
        self._ahead = b""
        # The connection may be on its way out.
        if data and not self.transport.is_closing():
            self.transport.write(data)

    def _go_away(self, last: int) -> None:
        """Say which streams are still answered. To h2 that would be the end, also of those in flight."""
        self._ahead += self._http2.data_to_send() + GoAwayFrame(0, last_stream_id=last).serialize()
        self.send_soon()

    def _end(self, code: ErrorCodes, reason: str) -> None:
        """End the connection, and say why."""
        self._http2.close_connection(code, reason.encode())
        self._close()
        self._abandon_all()

    def _close(self) -> None:
        self._flush()
        self._dead = True
        self._active = self._loop.time()
        self.transport.close()

    def _close_if_done(self) -> None:
        if self._refusing and not self._streams and not self._dead:
            self._close()

    def _abandon_all(self) -> None:
        for stream in list(self._streams.values()):
            stream.abandon()
            stream.receiver = NOBODY
        self._streams.clear()

    def drain(self) -> None:
        """Take no more calls; close when those in flight are answered.

        The client is told at once, and what it sent before it heard of it is still answered: its answer to a ping says
        that it has heard.
        """
        if not self._draining and not self._dead:
            self._draining = True
            self._active = self._loop.time()
            self._go_away(HIGHEST)
            self._http2.ping(DRAIN_PING)

    def _refuse(self) -> None:
        if not self._refusing:
            self._refusing = True
            self._go_away(self._http2.highest_inbound_stream_id)
            for stream in list(self._streams.values()):
                stream.receiver.drain()
            self._close_if_done()

    def sweep(self, now: float) -> None:
        """End what keeps us waiting; called about once a second."""
        patience = self._home.stall_seconds
        if (not self._configured and now - self._active > GREETING_SECONDS) or (
            (self._paused_at and now - self._paused_at > patience)
            # Headers that do not end, and last words that nobody takes.
            or ((self._toll.block or self._dead) and now - self._active > patience)
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

    # Reading

    def _read(self, data: bytes) -> None:
        """Read frame by frame: a stream is what it is at that frame, and not at the end of all that came."""
        if self._preface:
            preface, data = data[: self._preface], data[self._preface :]
            self._preface -= len(preface)
            self._http2.receive_data(preface)
        for kind, number, frame in self._toll.frames(data):
            self._take(kind, number, frame)
            if self._dead:
                return

    def _take(self, kind: int, number: int, frame: bytes) -> None:
        self._configured = True
        if kind == Kind.GOAWAY:
            # Its calls are answered to their ends; h2 would send nothing more.
            self._draining = self._refusing = True
            self._close_if_done()
            return
        if kind == Kind.DATA and number not in self._streams:
            # What was on its way when the call was answered early.
            self._toll.pay(1.0)
        for event in self._http2.receive_data(frame):
            handler = _HANDLERS.get(type(event))
            if handler is not None:
                handler(self, event)
        if self._toll.block:
            self._active = self._loop.time()

    def _request(self, event: RequestReceived) -> None:
        number = event.stream_id
        if self._refusing or len(self._streams) >= STREAMS:
            # The client sends the call again, or elsewhere.
            self._toll.pay(1.0)
            self.reset(number, ErrorCodes.REFUSED_STREAM)
            return
        headers, size = self._http2.decoder.request(event.headers)
        stream = Stream(self, number, ended=event.stream_ended is not None)
        self._active = stream.stalled_since
        self._streams[number] = stream
        receiver = self._home.receiver(stream, headers, size)
        if not stream.done:
            stream.receiver = receiver

    def _data(self, event: DataReceived) -> None:
        number, data = event.stream_id, event.data
        stream = self._streams.get(number)
        if stream is None:
            self.consumed(number, event.flow_controlled_length)
            return
        self.consumed(number, event.flow_controlled_length - len(data))
        stream.ended = event.stream_ended is not None
        if data:
            stream.receiver.receive(data)

    def _ended(self, event: StreamEnded) -> None:
        stream = self._streams.get(event.stream_id)
        if stream is not None:
            stream.ended = True
            if not stream.done:
                stream.end()

    def _reset(self, event: StreamReset) -> None:
        stream = self._streams.get(event.stream_id)
        if stream is not None:
            stream.abandon()
            self.forget(stream)

    def _window(self, event: WindowUpdated) -> None:
        if not event.stream_id:
            self._pump_all()
        elif (stream := self._streams.get(event.stream_id)) is not None and stream.waiting:
            stream.pump()

    def _settings(self, _event: RemoteSettingsChanged) -> None:
        if len(self._http2.remote_settings) > MOST_SETTINGS:
            raise TollError(ErrorCodes.ENHANCE_YOUR_CALM, "too many settings")
        self._pump_all()

    def _pong(self, event: PingAckReceived) -> None:
        if event.ping_data == DRAIN_PING and self._draining:
            self._refuse()

    def _pump_all(self) -> None:
        """Send what waits; each stream gets the same chance, as the first goes to the end of the line."""
        for stream in [stream for stream in self._streams.values() if stream.waiting]:
            if self._http2.outbound_flow_control_window <= 0 or self.paused:
                break
            if self._streams.pop(stream.number, None) is not None:
                self._streams[stream.number] = stream
                stream.pump()


_HANDLERS: Final[dict[type, Callable[[Connection, Any], None]]] = {
    RequestReceived: Connection._request,
    DataReceived: Connection._data,
    StreamEnded: Connection._ended,
    StreamReset: Connection._reset,
    WindowUpdated: Connection._window,
    RemoteSettingsChanged: Connection._settings,
    PingAckReceived: Connection._pong,
}
