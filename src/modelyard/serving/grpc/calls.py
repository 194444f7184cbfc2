"""Calls of gRPC over HTTP/2 streams: their headers, deadline and messages, who may make them, and how they end.

Protocol: https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md.
"""

from __future__ import annotations

import asyncio
import re
import zlib
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from google.protobuf.message import DecodeError, Message
from hpack import NeverIndexedHeaderTuple

from modelyard.errors import BusyError, ForbiddenError, UnauthenticatedError
from modelyard.serving.grpc.status import Headers, Status, problem_headers, status_of
from modelyard.serving.grpc.stream import Stream
from modelyard.serving.logs import Log
from modelyard.serving.problems import HttpProblem, problem_of
from modelyard.serving.request_ids import RequestIds
from modelyard.serving.spec import LONGEST_DEADLINE, Limits
from modelyard.serving.tracing import trace_fields

__all__ = ["Access", "Call", "Dispatcher", "Guard", "Method"]

Access = Literal["infer", "read", "load", "promote", "public"]

LONGEST_METADATA = 16_384
HELD_BODIES = 16
"""Longest bodies that all unfinished calls of a worker may hold together."""

_TIMEOUT = re.compile(rb"([0-9]{1,8})([HMSmun])")
_UNITS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_ENCODINGS = {b"gzip": 31, b"deflate": 15}
_HEAD: Headers = ((b":status", b"200"), (b"content-type", b"application/grpc"))
_OK: Headers = ((b"grpc-status", b"0"),)
_ENCODINGS_HEADER: Headers = ((b"grpc-accept-encoding", b"identity,gzip,deflate"),)


class Guard(Protocol):
    """Decides who may do what."""

    open: bool
    """Whether nobody need prove anything."""

    def admit(self, host: str | None, origin: str | None, fetch_site: str | None) -> None:
        """Refuse what a browser sends for somebody else's page."""

    def check(self, authorization: str | None, api_key: str | None, scope: str, model: str | None = None) -> Any:
        """Return who asks; raises an error where it is not allowed."""


@dataclass(frozen=True, slots=True)
class Method:
    """One method of a service.

    Args:
        request: Class of its messages.
        access: What a caller needs.
        answer: Returns the answer to a message, or, where it streams, answers a call to its end.
        model: Which model a message is about; None where it is about all of them.
        client_streaming: Whether many messages come; such a method streams its answers, too.
        server_streaming: Whether many answers go.
    """

    request: Any
    access: Access
    answer: Callable[[Call, Any], Awaitable[Message | None]]
    model: Callable[[Any], str] | None = None
    client_streaming: bool = False
    server_streaming: bool = False


class Dispatcher:
    """Gives calls to their methods; whatever happens, each is answered exactly once.

    Args:
        methods: By path, such as `/inference.GRPCInferenceService/ModelInfer`.
        limits: What one request may ask for.
        log: Of this worker.
        loop: Its event loop.
        worker: Its number, from 0.
        guard: Who may do what; None lets everybody do everything.
    """

    def __init__(
        self,
        methods: Mapping[str, Method],
        limits: Limits,
        log: Log,
        loop: asyncio.AbstractEventLoop,
        worker: int,
        guard: Guard | None = None,
    ) -> None:
        self.limits = limits
        self.log = log
        self.loop = loop
        self.guard = guard
        self.held = 0
        """Bytes that unfinished calls hold, or have announced."""
        self.tasks: set[asyncio.Task[None]] = set()
        self._methods = {path.encode(): method for path, method in methods.items()}
        self._ids = RequestIds(worker)

    def receiver(self, stream: Stream, headers: dict[bytes, bytes], size: int) -> Call:
        """Return the call of a stream; one that can't be is answered already."""
        given = headers.get(b"x-request-id")
        call = Call(self, stream, headers, self._ids.of(given.decode("latin-1") if given is not None else None))
        try:
            method = self._method(headers, size)
            call.begin(method, _encoding(headers), _timeout(headers))
            if self.guard is not None:
                self.guard.admit(
                    call.metadata(b":authority"), call.metadata(b"origin"), call.metadata(b"sec-fetch-site")
                )
                if not self.guard.open and b"authorization" not in headers and b"x-api-key" not in headers:
                    # Who brings no credentials at all need not send the body first.
                    self.check(call, method, None)
        except Exception as error:
            call.fail(error)
        return call

    def _method(self, headers: dict[bytes, bytes], size: int) -> Method:
        kind = headers.get(b"content-type", b"")
        if headers[b":method"] != b"POST" or kind[:16] != b"application/grpc" or kind[16:17] not in (b"", b"+", b";"):
            raise HttpProblem(400, "no-grpc", "This port answers gRPC alone.", remedy="HTTP has a port of its own.")
        if kind[16:17] == b"+" and kind[17:] != b"proto":
            raise HttpProblem(400, "no-grpc", "Messages are read as protobuf alone.")
        if size > LONGEST_METADATA:
            raise HttpProblem(413, "metadata-too-large", f"The metadata has more than {LONGEST_METADATA} bytes.")
        method = self._methods.get(headers[b":path"])
        if method is None:
            raise HttpProblem(501, "no-method", "There is no such method here.")
        return method

    def check(self, call: Call, method: Method, model: str | None) -> None:
        """Raise an error where the caller may not do that."""
        if self.guard is None:
            return
        authorization, key = call.metadata(b"authorization"), call.metadata(b"x-api-key")
        try:
            call.principal = self.guard.check(authorization, key, method.access, model)
        except UnauthenticatedError as error:
            raise HttpProblem(401, error.code, error.what, remedy=error.remedy) from None
        except ForbiddenError as error:
            raise HttpProblem(403, error.code, error.what, remedy=error.remedy) from None
        except BusyError as error:
            raise HttpProblem(
                503, "credentials", error.what, remedy=error.remedy, headers=(("retry-after", "5"),)
            ) from None

    def start(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run a call's work."""
        task = self.loop.create_task(coroutine)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task


class Call:
    """One call.

    Args:
        dispatcher: Of the worker.
        stream: That it came on.
        headers: Of the request; metadata is among them.
        request_id: The client's own, or one that was given to it.
    """

    __slots__ = (
        "_arrived", "_buffer", "_deferred", "_dispatcher", "_draining", "_encoding", "_held", "_messages", "_method",
        "_needed", "_started", "_stream", "_task", "_timer", "headers", "named", "principal", "request_id",
    )  # fmt: skip

    def __init__(self, dispatcher: Dispatcher, stream: Stream, headers: dict[bytes, bytes], request_id: str) -> None:
        self._dispatcher = dispatcher
        self._stream = stream
        self._method: Method | None = None
        self._encoding: int | None = None
        self._buffer = bytearray()
        self._deferred = 0
        self._needed = 5
        self._held = 0
        self._messages: deque[bytes] = deque()
        self._arrived: asyncio.Event | None = None
        self._started = False
        self._draining = False
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.headers = headers
        self.request_id = request_id
        self.principal: Any = None
        self.named: Headers = ()
        """Headers that name what answers."""

    def begin(self, method: Method, encoding: int | None, timeout: float | None) -> None:
        """Take down what the headers said.

        Args:
            method: That is called.
            encoding: zlib's window bits where messages may be compressed, or None.
            timeout: Seconds that the client waits, or None.
        """
        self._method = method
        self._encoding = encoding
        if timeout is not None:
            self._timer = self._dispatcher.loop.call_later(timeout, self._expire)
        if method.client_streaming:
            self._stream.stalled_since = 0.0
            self._converse_soon(method, None)

    # What the stream calls

    def receive(self, data: bytes) -> None:
        """Take bytes of the body."""
        if self._stream.done:
            self._stream.consumed(len(data))
            return
        buffer = self._buffer
        buffer += data
        if self._messages:
            # The method has not taken what came before: the client's window stays as it is until then.
            self._deferred += len(data)
        else:
            self._stream.consumed(len(data))
        try:
            while len(buffer) >= self._needed:
                if not self._held:
                    self._announce()
                    continue
                message, packed = bytes(buffer[5 : self._needed]), buffer[0]
                del buffer[: self._needed]
                self._needed = 5
                self._let_go()
                self._messages.append(self._unpacked(message) if packed else message)
                if self._arrived is not None:
                    self._arrived.set()
        except HttpProblem as problem:
            self.fail(problem)

    def _announce(self) -> None:
        """Read a message's prefix, and make room for what it announces."""
        packed, size = self._buffer[0], int.from_bytes(self._buffer[1:5], "big")
        limit = self._dispatcher.limits.body_bytes
        if packed > 1 or (packed and self._encoding is None):
            raise HttpProblem(400, "malformed", "A message says that it is compressed, and the headers say not how.")
        if size > limit:
            raise HttpProblem(413, "too-large", f"The message has {size} bytes, and {limit} are allowed.")
        if self._arrived is None and (self._messages or len(self._buffer) > 5 + size):
            raise HttpProblem(400, "malformed", "There is more than one message.")
        if self._dispatcher.held + size > HELD_BODIES * limit:
            raise HttpProblem(
                429, "busy", "Too many large requests are on their way.", remedy="Try again.",
                headers=(("retry-after", "1"),),
            )  # fmt: skip
        self._needed = self._held = 5 + size
        self._dispatcher.held += self._held

    def _let_go(self) -> None:
        self._dispatcher.held -= self._held
        self._held = 0

    def _unpacked(self, message: bytes) -> bytes:
        limit = self._dispatcher.limits.body_bytes
        assert self._encoding is not None  # noqa: S101  (narrows the type; the prefix was refused otherwise)
        unpacker = zlib.decompressobj(self._encoding)
        try:
            data = unpacker.decompress(message, limit + 1)
        except zlib.error as error:
            raise HttpProblem(400, "malformed", "The message can't be decompressed.") from error
        if len(data) > limit or not unpacker.eof:
            raise HttpProblem(413, "too-large", f"The message has more than {limit} bytes when it is decompressed.")
        return data

    def end(self) -> None:
        """Take down that the body is complete, and answer."""
        if self._buffer:
            self.fail(HttpProblem(400, "malformed", "The last message is cut off."))
        elif self._arrived is not None:
            self._arrived.set()
        elif len(self._messages) != 1:
            self.fail(HttpProblem(400, "malformed", "There is no message."))
        elif self._method is not None:
            message = self._messages.popleft()
            if self._method.server_streaming:
                self._converse_soon(self._method, message)
            else:
                self._task = self._dispatcher.start(self._answer(self._method, message))

    def abandon(self) -> None:
        """Stop: the client gave up, or is gone."""
        self._close()
        if self._task is not None:
            self._task.cancel()

    def stalled(self) -> None:
        """Tell a client that keeps us waiting that we don't."""
        self.fail(HttpProblem(408, "slow", "The request did not arrive in time."))

    def drain(self) -> None:
        """End a streaming call before its next message: clients keep such calls open for as long as they run."""
        self._draining = True
        self.wake()

    def _expire(self) -> None:
        task, self._task = self._task, None
        self.fail(HttpProblem(504, "deadline", "There was no answer before the deadline."))
        if task is not None:
            task.cancel()

    # What the method's side calls

    async def _answer(self, method: Method, message: bytes) -> None:
        try:
            answer = await method.answer(self, self._parse(method, message))
            assert answer is not None  # noqa: S101  (only streaming methods return none)
            self._succeed(answer.SerializeToString())
        except Exception as error:
            self.fail(error)

    def _converse_soon(self, method: Method, message: bytes | None) -> None:
        self._arrived = asyncio.Event()
        self._task = self._dispatcher.start(self._converse(method, message))

    async def _converse(self, method: Method, message: bytes | None) -> None:
        try:
            await method.answer(self, self._parse(method, message) if message is not None else None)
            self._begin()
            self._finish(_OK)
        except Exception as error:
            self.fail(error)

    def _parse(self, method: Method, message: bytes) -> Any:
        try:
            parsed = method.request.FromString(message)
        except DecodeError as error:
            raise HttpProblem(400, "malformed", f"The message is no {method.request.DESCRIPTOR.name}.") from error
        self._dispatcher.check(self, method, method.model(parsed) if method.model is not None else None)
        return parsed

    async def messages(self) -> AsyncIterator[Any]:
        """Yield the messages of a streaming call, each checked for who may send it."""
        method = self._method
        assert method is not None  # noqa: S101  (narrows the type)
        while True:
            while self._messages:
                message = self._messages.popleft()
                self._stream.consumed(self._deferred)
                self._deferred = 0
                yield self._parse(method, message)
            if self._stream.ended:
                return
            await self.woken()

    async def woken(self) -> None:
        """Wait in a streaming call until something comes, or `wake` is called.

        Raises:
            HttpProblem: 503 the service stops.
        """
        if self._draining:
            raise HttpProblem(
                503, "stopping", "The service is stopping.", remedy="Call again.", headers=(("retry-after", "1"),)
            )
        assert self._arrived is not None  # noqa: S101  (narrows the type)
        self._arrived.clear()
        await self._arrived.wait()

    def wake(self) -> None:
        """Let a streaming call look again at what it waits for."""
        if self._arrived is not None:
            self._arrived.set()

    async def send(self, message: Message) -> None:
        """Send a message of a streaming call, once the client has taken those before."""
        stream = self._stream
        while stream.waiting and not stream.done:
            stream.relieved = asyncio.Event()
            await stream.relieved.wait()
        self._begin()
        stream.send(_prefixed(message.SerializeToString()))

    def metadata(self, name: bytes) -> str | None:
        """Return a value of the request's metadata."""
        value = self.headers.get(name)
        return value.decode("latin-1") if value is not None else None

    def _head(self) -> Headers:
        # Each id is another: in HPACK's table it would only push out what comes again.
        return (*_HEAD, *self.named, NeverIndexedHeaderTuple(b"x-request-id", self.request_id.encode()))

    def _begin(self) -> None:
        if not self._started:
            self._started = True
            self._stream.begin(self._head())

    def _succeed(self, message: bytes) -> None:
        if not self._stream.done:
            self._begin()
            self._stream.send(_prefixed(message))
            self._finish(_OK + self.named)

    def _finish(self, headers: Headers) -> None:
        self._close()
        self._stream.finish(headers)

    def fail(self, error: Exception) -> None:
        """Answer with an error, where no answer was given yet."""
        if self._stream.done:
            return
        problem = problem_of(error)
        log, traced = self._dispatcher.log, trace_fields(self.metadata(b"traceparent"))
        if status_of(problem) is Status.INTERNAL:
            log.error(
                "request-failed", request=self.request_id, status=problem.status, reason=repr(error)[:500], **traced
            )
        else:
            log.info("request-refused", request=self.request_id, status=problem.status, code=problem.code, **traced)
        told = problem_headers(problem)
        if problem.code == "encoding":
            told += _ENCODINGS_HEADER
        self._finish(told + self.named if self._started else self._head() + told)
        if self._arrived is not None and self._task is not None and self._task is not asyncio.current_task():
            # The method would wait for messages that nobody sends.
            self._task.cancel()

    def _close(self) -> None:
        """Give back what the call holds."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._let_go()
        self._needed = 5
        self._buffer = bytearray()
        self._messages.clear()
        # What nobody takes any more is the connection's window again.
        self._stream.consumed(self._deferred)
        self._deferred = 0
        self.wake()


def _prefixed(message: bytes) -> bytes:
    return b"\0" + len(message).to_bytes(4, "big") + message


def _encoding(headers: dict[bytes, bytes]) -> int | None:
    given = headers.get(b"grpc-encoding", b"identity")
    if given == b"identity":
        return None
    bits = _ENCODINGS.get(given)
    if bits is None:
        raise HttpProblem(
            501, "encoding", "Messages are not read in that compression.", remedy="Send gzip, deflate or none."
        )
    return bits


def _timeout(headers: dict[bytes, bytes]) -> float | None:
    given = headers.get(b"grpc-timeout")
    if given is None:
        return None
    found = _TIMEOUT.fullmatch(given)
    if found is None:
        raise HttpProblem(400, "malformed", "The metadata grpc-timeout is no time.")
    return min(int(found[1]) * _UNITS[found[2]], LONGEST_DEADLINE)
