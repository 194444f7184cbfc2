"""One HTTP/1.1 connection of a client: llhttp reads the protocol, and this page keeps the client to what it may cost.

Source: RFC 9110 and RFC 9112. See decision record 0100.
"""

from __future__ import annotations

import asyncio
import fcntl
import functools
import re
import socket
import sys
import termios
from collections import deque
from http import HTTPStatus
from typing import Final, Protocol, cast
from urllib.parse import unquote

from httptools import HttpParserError, HttpParserInvalidMethodError, HttpParserUpgrade, HttpRequestParser

from modelyard.serving.http.exchange import Exchange, Headers
from modelyard.serving.problems import HttpProblem

__all__ = ["Connection", "Home"]

TARGET_BYTES = 16 * 1024
HEAD_BYTES = 64 * 1024
"""Of names, values and the target; what the parser has not told yet may add one read from the socket."""
HEAD_FIELDS = 128
HEAD_SECONDS = 10.0
"""How long a head may take from its first byte."""
IDLE_SECONDS = 75.0
"""Longer than proxies keep their own (nginx: 60 s), so that it is not this end that closes under a request."""
CROWDED_SECONDS = 2.0
"""How long a connection may be idle while others wait for one."""
LINGER_SECONDS = 2.0
"""How long is read and dropped what a client sends before it has read that it was refused."""
FRESH_SECONDS = 1.0
"""How long a draining worker waits for a request that may be on its way."""
SMALL_REST = 64 * 1024
"""A body that is answered before its end is read to it and dropped where so little is missing."""
HELD_HIGH = 256 * 1024
"""Bytes of a body that wait for whoever reads it, before the client has to."""
PORTION = 16 * 1024
"""How much is parsed before it is looked whether requests wait already: each costs more than its bytes."""
JOINED = 64 * 1024

_NAMES: Final[dict[bytes, str]] = {}
_MOST_NAMES = 512
_PATHS: Final[dict[bytes, tuple[str, str]]] = {}
"""Of the first targets that are paths alone; what is asked again and again is read once."""
_MOST_PATHS = 512
_SHORT = 256
_STATUS: Final = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}
_CLOSE = ("connection", "close")
_WISH = frozenset({b"connection", b"upgrade", b"http2-settings"})
_ENDS = re.compile(rb"(?:^|,)[ \t]*close[ \t]*(?:,|$)", re.IGNORECASE)
_AUTHORITY = re.compile(r"https?://([^/?#@]+)((?:[/?#].*)?)", re.IGNORECASE)
_METHOD = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+ /")


class Home(Protocol):
    """What a connection belongs to."""

    date: bytes
    """The line that says what time it is."""
    stall_seconds: float
    """How long a client may leave an answer unread."""

    @property
    def crowded(self) -> bool:
        """Whether others wait for a connection to end."""

    def begin(self, exchange: Exchange) -> None:
        """Have a request answered, whatever happens, or abandoned."""

    def refusal(self, problem: HttpProblem) -> tuple[Headers, bytes]:
        """Return how a request is answered that could not be read, and take it down."""

    def opened(self, client: Connection) -> None:
        """Take down that a connection is there."""

    def closed(self, client: Connection) -> None:
        """Take down that it is gone."""


class Connection(asyncio.Protocol):
    """A connection. Its requests are answered one after the other, in the order in which they came.

    Args:
        home: Who answers its requests.
        loop: Its event loop.
    """

    _parser: HttpRequestParser
    _transport: asyncio.Transport

    def __init__(self, home: Home, loop: asyncio.AbstractEventLoop) -> None:
        self._home = home
        self._loop = loop
        self._answering: Exchange | None = None
        self._receiving: Exchange | None = None
        self._waiting: deque[Exchange] = deque()
        self._since = loop.time()
        self._unsent = 0
        self._unsent_since = 0.0
        self._unfed = b""
        self._in_head = self._fresh = self._unread = self._unwritten = self._cut = False
        # No request after these; not even one that has come; no byte is read any more; the answer that ends it was
        # sent; it is being closed.
        self._last = self._final = self._deaf = self._ended = self._closing = False
        self._target = b""
        self._fields: list[tuple[bytes, bytes]] = []
        self._parsed = self._received = 0

    # What asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast("asyncio.Transport", transport)
        self._parser = HttpRequestParser(self)
        self._home.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  (asyncio gives it)
        """Tell whoever still reads a body; an answer that is still computed is dropped."""
        self._closing = True
        self._unfed = b""
        self._lose_body()
        self._waiting.clear()
        # They refer to each other, and what is frozen at a swap is never searched for cycles again.
        del self._parser
        self._home.closed(self)

    def pause_writing(self) -> None:
        """Begin no further request: the client does not take its answers."""
        self._unwritten = True

    def resume_writing(self) -> None:
        """Go on."""
        self._unwritten = False
        self._next()

    def eof_received(self) -> bool:
        """Answer what has come, then end: a client may close its half of the connection after its request."""
        if self._unfed:
            self._cut = True
            return True
        self._last = True
        self._lose_body()
        answering = self._answering is not None and not self._answering.answered
        return not self._closing and (answering or bool(self._waiting))

    def data_received(self, data: bytes) -> None:
        """Read what came."""
        if self._deaf:
            return
        if self._unfed:
            self._unfed += data
        else:
            self._feed(data)

    def _feed(self, data: bytes) -> None:
        """Parse, and keep as it is what comes after a request that has to wait."""
        at = 0
        while at < len(data) and not self._deaf:
            if self._waiting:
                self._unfed = data[at:]
                self._pause()
                return
            end = at + self._portion()
            piece = data if not at and len(data) <= end else data[at:end]
            self._fresh = False
            at += self._parse(piece)
            if self._in_head and self._fresh:
                self._since = self._loop.time()
            elif self._in_head or self._receiving is not None:
                self._count(len(piece))

    def _portion(self) -> int:
        """Return how much to parse: what is known to be body is not cut."""
        exchange = self._receiving
        if exchange is None or "content-length" not in exchange.headers:
            return PORTION
        return max(PORTION, int(exchange.headers["content-length"]) - exchange.received)

    def _parse(self, piece: bytes) -> int:
        """Give bytes to the parser; return how many it took."""
        try:
            self._parser.feed_data(piece)
        except HttpParserUpgrade as upgrade:
            used: int = upgrade.args[0]
            self._stay()
            return used
        except HttpParserError as error:
            self._refuse(_problem_of(error, piece))
        return len(piece)

    def _feed_rest(self) -> None:
        """Parse what was kept."""
        data, self._unfed = self._unfed, b""
        self._feed(data)
        if self._waiting or self._unfed:
            return
        if self._cut:
            if not self.eof_received():
                self._close()
        elif self._receiving is None or self._receiving.reading or self._receiving.held <= HELD_HIGH:
            self._resume()

    def _count(self, size: int) -> None:
        """Count bytes that neither end a head nor belong to a body: the parser keeps them, also those of a trailer."""
        received = self._receiving.received if self._receiving is not None else 0
        self._parsed = self._parsed + size if received == self._received else 0
        self._received = received
        if self._parsed > HEAD_BYTES:
            self._refuse(_too_large())

    # What the parser calls

    def on_message_begin(self) -> None:
        """Begin a head."""
        if self._final or self._ended:
            raise HttpProblem(400, "malformed", "The request comes after the last one of its connection.")
        self._in_head = self._fresh = True
        self._target = b""
        self._fields = []
        self._parsed = self._received = 0

    def on_url(self, part: bytes) -> None:
        """Take a part of the target."""
        self._target += part
        if len(self._target) > TARGET_BYTES:
            raise HttpProblem(
                414, "target-too-long", f"The target of the request is longer than {TARGET_BYTES} bytes.",
                remedy="Send the data in the body.",
            )  # fmt: skip

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a field."""
        if not self._in_head:
            # A trailer, which nobody asked for.
            return
        self._fields.append((name, value))

    def on_headers_complete(self) -> None:
        """Begin a request, before its body has come."""
        parser = self._parser
        if parser.should_upgrade():
            return
        self._in_head = False
        headers = _headers(self._fields)
        if "connection" in headers or "host" not in headers or not parser.should_keep_alive():
            self._look_at_version(headers)
        if "transfer-encoding" in headers:
            _look_at_coding(headers["transfer-encoding"], parser.get_http_version())
        path, query = _PATHS.get(self._target) or _target(self._target, headers)
        exchange = self._receiving = Exchange(self, parser.get_method().decode("ascii"), path, query, headers)
        if self._answering is None and not self._unwritten:
            self._begin(exchange)
        else:
            self._waiting.append(exchange)
            self._pause()

    def _look_at_version(self, headers: dict[str, str]) -> None:
        version = self._parser.get_http_version()
        if version not in ("1.0", "1.1"):
            raise HttpProblem(505, "version", "This version of HTTP is not spoken.", remedy="Send HTTP/1.1.")
        if version == "1.0" or not self._parser.should_keep_alive():
            # HTTP/1.0 keeps a connection only where both say so.
            self._last = self._final = True
        if version == "1.0":
            # It knows no answer before the answer (RFC 9110, section 10.1.1).
            headers.pop("expect", None)
        if version == "1.1" and "host" not in headers:
            raise HttpProblem(400, "malformed", "The request does not say which host it asks.")

    def on_body(self, piece: bytes) -> None:
        """Take a piece of the body."""
        exchange = self._receiving
        if exchange is None:
            return
        exchange.add(piece)
        if exchange.held > HELD_HIGH and not exchange.reading:
            self._pause()

    def on_message_complete(self) -> None:
        """End a request's body."""
        exchange, self._receiving = self._receiving, None
        if exchange is None:
            return
        exchange.finish()
        if exchange.answered:
            # Its answer was there before its end.
            self._answered()

    # What exchanges call

    def want(self, exchange: Exchange) -> None:
        """Let more of a body come."""
        if exchange.headers.pop("expect", "").lower() == "100-continue" and not exchange.received:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._resume()

    def answer(self, exchange: Exchange, status: int, headers: Headers, body: bytes, own: Headers) -> None:
        """Send an answer."""
        if self._closing:
            return
        if not exchange.complete and not _worth_reading(exchange):
            self._last = True
        if _CLOSE in headers:
            self._ended = True
        elif self._last and not self._waiting and not self._unfed:
            self._ended = True
            own = [*own, _CLOSE]
        self._write(status, headers, body, own, empty=exchange.method == "HEAD")
        if exchange.complete:
            self._answered()
        elif exchange.lost:
            self._close(linger=True)
        else:
            self._since = self._loop.time()
            self._resume()

    def abandon(self, _exchange: Exchange) -> None:
        """End the connection: what was asked can't be answered."""
        self._transport.abort()

    # What the server calls

    def sweep(self, now: float) -> None:
        """End the connection where the client kept us waiting for too long; `now` is the event loop's time."""
        unsent = self._transport.get_write_buffer_size()
        if unsent:
            # The kernel takes more in steps of megabytes only; what it still holds shows whether the client reads.
            unsent += _unacknowledged(self._transport.get_extra_info("socket"))
            if unsent >= self._unsent > 0 and now - self._unsent_since > self._home.stall_seconds:
                self._transport.abort()
            elif unsent < self._unsent or not self._unsent:
                self._unsent_since = now
            self._unsent = unsent
            return
        self._unsent = 0
        quiet = now - self._since
        if self._closing:
            if quiet > LINGER_SECONDS:
                self._transport.abort()
        elif self._in_head and not self._unread:
            if quiet > HEAD_SECONDS:
                self._refuse(HttpProblem(408, "timeout", f"The request did not arrive within {HEAD_SECONDS:g} s."))
        elif self._answering is None:
            if quiet > self._patience():
                self._close()
        elif self._answering.answered and quiet > LINGER_SECONDS:
            # It was answered early, and the rest of its body does not come.
            self._transport.abort()

    def _patience(self) -> float:
        if self._last:
            return FRESH_SECONDS
        return CROWDED_SECONDS if self._home.crowded else IDLE_SECONDS

    def drain(self) -> None:
        """End it with its next answer, or when nothing is asked for a moment: a request may be on its way."""
        self._last = True

    # The way of a request

    def _begin(self, exchange: Exchange) -> None:
        self._answering = exchange
        self._home.begin(exchange)

    def _answered(self) -> None:
        """Go on to the next request, or end, after one was answered and has come to its end."""
        self._answering = None
        if self._ended:
            self._close(linger=self._deaf)
        else:
            self._since = self._loop.time()
            self._next()

    def _next(self) -> None:
        if self._closing or self._answering is not None or self._unwritten:
            return
        if self._waiting:
            self._begin(self._waiting.popleft())
        else:
            self._resume()

    def _stay(self) -> None:
        """Read a request whose client would rather speak another protocol: a server need not take that up.

        The parser leaves such a request's body to the other protocol, so it gets the head once more, without the wish.
        """
        parser = self._parser
        method, version = parser.get_method(), parser.get_http_version().encode()
        kept = [field for field in self._fields if field[0].lower() not in _WISH]
        if any(name.lower() == b"connection" and _ENDS.search(value) for name, value in self._fields):
            kept.append((b"connection", b"close"))
        fields = b"".join([b"%b: %b\r\n" % field for field in kept])
        self._parser = HttpRequestParser(self)
        if method == b"CONNECT":
            self._refuse(HttpProblem(405, "method", "This is no proxy.", headers=(("allow", "GET, HEAD, POST"),)))
        else:
            self._parse(b"%b %b HTTP/%b\r\n%b\r\n" % (method, self._target, version, fields))

    def _refuse(self, problem: HttpProblem) -> None:
        """Read no more; what came before is answered, and where there is nothing, the problem is told."""
        self._unfed = b""
        if self._closing:
            return
        self._last = self._deaf = True
        self._in_head = False
        receiving = self._receiving
        if receiving is not None and receiving.answered:
            self._close(linger=True)
        elif self._answering is None and not self._waiting:
            headers, body = self._home.refusal(problem)
            self._write(problem.status, headers, body, () if _CLOSE in headers else (_CLOSE,))
            self._close(linger=True)
        else:
            # Whoever reads its body answers.
            self._lose_body()

    def _lose_body(self) -> None:
        if self._receiving is not None:
            self._receiving.lose()

    # The way of bytes

    def _write(self, status: int, headers: Headers, body: bytes, own: Headers, *, empty: bool = False) -> None:
        start = b"%b%b%b%bcontent-length: %d\r\n\r\n" % (
            _STATUS[status],
            self._home.date,
            _kept_lines(headers) if isinstance(headers, tuple) else _lines(headers),
            _lines(own),
            len(body),
        )
        if empty or not body:
            self._transport.write(start)
        elif len(body) <= JOINED:
            self._transport.write(start + body)
        else:
            self._transport.writelines((start, body))

    def _pause(self) -> None:
        if not self._unread:
            self._unread = True
            self._transport.pause_reading()

    def _resume(self) -> None:
        if self._unfed:
            # Not from within the answer to another: each would stand on the stack of the one before.
            self._loop.call_soon(self._feed_rest)
        elif self._unread and not self._closing:
            self._unread = False
            self._transport.resume_reading()

    def _close(self, *, linger: bool = False) -> None:
        """Send what is left to be sent, and end.

        Args:
            linger: Read and drop what the client still sends, for a while: closed at once, the connection would be
                reset, and the client might never read the answer.
        """
        if self._closing:
            return
        self._since = self._loop.time()
        self._unfed = b""
        if linger and self._transport.can_write_eof():
            self._resume()
            self._transport.write_eof()
        else:
            self._transport.close()
        self._closing = self._deaf = True


def _lines(headers: Headers) -> bytes:
    """Return headers as they are sent."""
    text = "".join([f"{name}: {value}\r\n" for name, value in headers])
    if text.count("\n") != len(headers) or text.count("\r") != len(headers):
        raise ValueError("a header has a line break")
    return text.encode("latin-1")


_kept_lines = functools.lru_cache(maxsize=256)(_lines)


def _unacknowledged(wire: socket.socket) -> int:
    """Return how many bytes the kernel holds that the other end has not acknowledged (SIOCOUTQ, tcp(7))."""
    answer = fcntl.ioctl(wire.fileno(), termios.TIOCOUTQ, bytes(4))
    return int.from_bytes(answer, sys.byteorder)


def _problem_of(error: HttpParserError, data: bytes) -> HttpProblem:
    cause = error.__context__
    if isinstance(cause, HttpProblem):
        return cause
    if isinstance(error, HttpParserInvalidMethodError) and _METHOD.match(data):
        return HttpProblem(
            501, "method", "Nobody knows this method here.", remedy="GET /openapi.json says what is known."
        )
    return HttpProblem(400, "malformed", "The request is no HTTP/1.1.")


def _too_large() -> HttpProblem:
    return HttpProblem(
        431, "head-too-large", f"The head has more than {HEAD_BYTES} bytes or {HEAD_FIELDS} fields.",
        remedy="Send the data in the body.",
    )  # fmt: skip


def _worth_reading(exchange: Exchange) -> bool:
    """Say whether the rest of a body that is answered already is small, and under way."""
    announced = exchange.headers.get("content-length")
    if announced is None or exchange.lost or "expect" in exchange.headers:
        return False
    return int(announced) - exchange.received <= SMALL_REST


def _headers(fields: list[tuple[bytes, bytes]]) -> dict[str, str]:
    headers: dict[str, str] = {}
    size = 0
    for name, value in fields:
        size += len(name) + len(value)
        key = _NAMES.get(name)
        if key is None:
            key = name.decode("latin-1").lower()
            if len(_NAMES) < _MOST_NAMES:
                _NAMES[name] = key
        text = value.decode("latin-1")
        if key in headers:
            if key == "host":
                raise HttpProblem(400, "malformed", "The request says twice which host it asks.")
            text = f"{headers[key]}, {text}"
        headers[key] = text
    if size > HEAD_BYTES or len(fields) > HEAD_FIELDS:
        raise _too_large()
    return headers


def _look_at_coding(coding: str, version: str) -> None:
    """Refuse what would have to be undone before a body is what its client means (RFC 9112, section 6.1)."""
    codings = [name.strip().lower() for name in coding.split(",")]
    if version != "1.1" or codings[-1] != "chunked":
        raise HttpProblem(400, "malformed", "The request does not say where its body ends.")
    if len(codings) > 1:
        raise HttpProblem(
            501, "transfer-encoding", "Bodies are taken in chunks alone.", remedy="Say content-encoding: gzip instead."
        )


def _target(target: bytes, headers: dict[str, str]) -> tuple[str, str]:
    """Return path and query; a whole URL (RFC 9112, section 3.2.2) says the host too."""
    text = target.decode("latin-1")
    if not text.startswith("/") and text != "*":
        whole = _AUTHORITY.fullmatch(text)
        if whole is None:
            raise HttpProblem(400, "malformed", "The target of the request is neither a path nor a URL of HTTP.")
        headers["host"], text = whole.groups()
        if not text.startswith("/"):
            text = "/" + text
        target = b""
    path, _, query = text.partition("?")
    if "%" in path:
        path = unquote(path)
    if target and not query and len(_PATHS) < _MOST_PATHS and len(target) < _SHORT:
        _PATHS[target] = path, query
    return path, query
