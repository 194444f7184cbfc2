"""The supervisor's Unix socket: what clients on this machine, under the same user, may ask."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from modelyard.errors import InputError
from modelyard.files import storage_errors
from modelyard.serving.asking import ControlReply, ControlRequest, Failed
from modelyard.serving.logs import Log
from modelyard.serving.wire import Channel, failure_of

__all__ = ["SOCKET", "ControlServer", "connect"]

SOCKET = "control.sock"


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
    """

    def __init__(self, folder: Path, answer: Callable[[ControlRequest], ControlReply], log: Log) -> None:
        self._path = folder / SOCKET
        self._answer = answer
        self._log = log
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

    def reply(self, request: ControlRequest) -> ControlReply:
        """Return the answer to a request; it never raises."""
        try:
            return self._answer(request)
        except Exception as error:
            self._log.info("request-failed", request=type(request).__name__, reason=str(error)[:500])
            return Failed(failure_of(error))

    def close(self) -> None:
        """Answer no more, and remove the socket."""
        self._path.unlink(missing_ok=True)
        # Closing alone does not end a blocked accept.
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
