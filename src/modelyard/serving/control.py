"""The supervisor's Unix socket: what clients on this machine, under the same user, may ask."""

from __future__ import annotations

import os
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from modelyard.errors import InputError
from modelyard.files import storage_errors
from modelyard.serving.asking import (
    ControlReply,
    ControlRequest,
    Failed,
    RepositoryIndexRequest,
    Routed,
    Staged,
    StatusRequest,
    StopRequest,
    Swapped,
)
from modelyard.serving.logs import Log, log_about
from modelyard.serving.problems import problem_of
from modelyard.serving.tracing import NOBODY, Origin, Trace, Tracer, parse_traceparent
from modelyard.serving.wire import Channel, failure_of

__all__ = ["SOCKET", "ControlServer", "connect"]

SOCKET = "control.sock"
QUESTIONS = (StatusRequest, RepositoryIndexRequest, StopRequest)
"""What changes no slot, and has no span."""


@contextmanager
def _reachable(folder: Path) -> Iterator[str]:
    """Yield a short path of the socket: a Unix socket's own path may have 107 bytes, and project folders are deep."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{descriptor}/{SOCKET}"
    finally:
        os.close(descriptor)


def connect(folder: Path) -> socket.socket | None:
    """Return a connection to the supervisor of a service folder, or None where none runs."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with _reachable(folder) as path:
            connection.connect(path)
    except OSError:
        connection.close()
        return None
    return connection


class ControlServer:
    """Answers clients, each in a thread of its own: a status is told while a swap goes on.

    Args:
        folder: The service's folder; the socket `control.sock` in it is for its owner alone.
        answer: Does what a request asks; what it raises is told to the client.
        log: The supervisor's.
        tracer: Begins traces of changes; None where nobody wants any.
    """

    def __init__(
        self,
        folder: Path,
        answer: Callable[[ControlRequest], ControlReply],
        log: Log,
        tracer: Tracer | None = None,
    ) -> None:
        self._path = folder / SOCKET
        self._answer = answer
        self._log = log
        self._tracer = tracer
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with storage_errors(self._path):
            # Set before the name exists: at no moment may anyone else connect.
            os.fchmod(self._socket.fileno(), 0o600)
            self._path.unlink(missing_ok=True)
            with _reachable(folder) as path:
                self._socket.bind(path)
            self._socket.listen(16)

    def start(self) -> None:
        """Begin to answer."""
        threading.Thread(target=self._run, name="control", daemon=True).start()

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._converse, args=(connection,), name="client", daemon=True).start()

    def _converse(self, connection: socket.socket) -> None:
        channel: Channel[ControlRequest] = Channel(connection, ControlRequest)
        try:
            while (request := channel.receive()) is not None:
                channel.send(self.reply(request))
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            channel.send(Failed(failure_of(InputError(f"This is no request: {error}."))))
        channel.close()

    def reply(self, request: ControlRequest, origin: Origin = NOBODY) -> ControlReply:
        """Return the answer to a request; it never raises. Lines about it name its origin's id and trace.

        Args:
            request: What is asked.
            origin: The request to a worker that it came by.
        """
        named = {"request": origin.request} if origin.request else {}
        with self._begin(request, origin) as trace, log_about(**named, **trace.fields):
            try:
                reply = self._answer(request)
            except Exception as error:
                self._log.info("request-failed", asked=type(request).__name__, reason=str(error)[:500])
                trace.status = problem_of(error).status
                trace.tell({"error.type": failure_of(error).code})
                return Failed(failure_of(error))
            trace.tell(_told(reply))
            return reply

    def _begin(self, request: ControlRequest, origin: Origin) -> Trace:
        if self._tracer is None or not origin.request or isinstance(request, QUESTIONS):
            parent = parse_traceparent(origin.traceparent)
            return Trace(parent.trace_id if parent is not None else "")
        attributes = {"modelyard.request_id": origin.request}
        for name in ("model", "version"):
            if value := getattr(request, name, None):
                attributes[f"modelyard.{name}"] = value
        return self._tracer.begin(_span_name(request), attributes, origin.traceparent, origin.tracestate, "change")

    def close(self) -> None:
        """Answer no more, and remove the socket."""
        self._path.unlink(missing_ok=True)
        # Closing alone does not end a blocked accept.
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


def _span_name(request: ControlRequest) -> str:
    """Return such as `modelyard swap` or `modelyard end-canary`."""
    words = re.findall(r"[A-Z][a-z]+", type(request).__name__.removesuffix("Request"))
    return f"modelyard {'-'.join(words).lower()}"


def _told(reply: ControlReply) -> dict[str, str | int | float]:
    """Return what a span tells of how a change was made."""
    swapped = reply.swapped if isinstance(reply, Staged) else reply
    told: dict[str, str | int | float] = {}
    if isinstance(swapped, Swapped):
        told = {"modelyard.version": swapped.version, "modelyard.generation": swapped.generation}
        told["modelyard.stage_seconds"] = swapped.stage_seconds
    if isinstance(swapped, Swapped | Routed):
        told["modelyard.prepare_seconds"] = swapped.prepare_seconds
        told["modelyard.commit_seconds"] = swapped.commit_seconds
    return told
