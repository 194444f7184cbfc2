"""A task's log: what a step prints, logs or tells goes to one file, and line by line to a listener."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, TextIO

from modelyard.contracts import Listener
from modelyard.files import storage_errors
from modelyard.records import Event, EventKind, TaskCall

__all__ = ["Capture", "Lines", "TaskLog", "note_placement"]

LONGEST_LINE = 64 * 1024
"""Bytes after which a line without an end is cut: a step that prints one endless line must not fill the memory."""


_CLOSED = -1


class Lines:
    """Cuts a stream of bytes into lines of text.

    What a progress bar wrote over with a carriage return is dropped, as a terminal would show it.
    """

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[str]:
        """Return the lines that these bytes complete."""
        *whole, rest = (self._rest + data).split(b"\n")
        if len(rest) > LONGEST_LINE:
            whole.append(rest)
            rest = b""
        self._rest = rest
        return [self._text(line) for line in whole]

    def finish(self) -> list[str]:
        """Return what is left without a line end, and begin anew."""
        rest, self._rest = self._rest, b""
        return [self._text(rest)] if rest else []

    @staticmethod
    def _text(line: bytes) -> str:
        return line.rstrip(b"\r").rpartition(b"\r")[2].decode("utf-8", errors="replace")


class TaskLog:
    """The log of one task, appended to whole line by whole line; a task that says nothing has no file.

    Args:
        call: Names the file, the run and the task.
        emit: Is told each line as an event.
    """

    def __init__(self, call: TaskCall, emit: Listener) -> None:
        self._run = call.run
        self._task = call.task
        self._emit = emit
        # Absolute: by the time of the first line the step may stand in another folder.
        self._path = os.path.abspath(call.log)
        self._file: int | None = None
        self._mutex = threading.RLock()
        with storage_errors(self._path):
            os.makedirs(os.path.dirname(self._path), exist_ok=True)

    def line(self, text: str, stream: str) -> None:
        """Write one line.

        Args:
            text: Without its line end.
            stream: `stdout`, `stderr`, `log`, or `output` for what came through the file descriptors.
        """
        data = text.encode("utf-8", errors="backslashreplace")
        # A full disk must not turn a print into the step's failure: saving the outputs will say it better.
        with contextlib.suppress(OSError):
            os.write(self._descriptor(), data + b"\n")
        line = {"line": data.decode("utf-8"), "stream": stream}
        self._emit(Event(self._run, self._task, EventKind.LOG, time.time(), line))

    def close(self) -> None:
        """Close the file; later lines are told and not kept."""
        with self._mutex:
            if self._file is not None and self._file != _CLOSED:
                os.close(self._file)
            self._file = _CLOSED

    def _descriptor(self) -> int:
        with self._mutex:
            if self._file is None:
                self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
            return self._file


def note_placement(call: TaskCall, emit: Listener, executor: str) -> None:
    """Say in a task's log, once, that an executor on one machine can't heed the node that the task asks for."""
    if call.target_label is not None and call.attempt == 1:
        log = TaskLog(call, emit)
        log.line(f"The target_label {call.target_label} is ignored: {executor} runs every step on this machine.", "log")
        log.close()


class _Bytes(io.BufferedIOBase):
    """What `sys.stdout.buffer` is while a task runs."""

    def __init__(self, stream: _Stream) -> None:
        self._stream = stream

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        """Pass bytes on."""
        content = bytes(data)
        self._stream.write_bytes(content)
        return len(content)


class _Stream(io.TextIOBase):
    """Stands in for standard output or error, and tells a task's output from everybody else's."""

    def __init__(self, capture: Capture, descriptor: int, name: str) -> None:
        self._capture = capture
        self._descriptor = descriptor
        self._name = name
        self._lines = Lines()
        self._lock = threading.RLock()
        self._bytes = _Bytes(self)
        self.before: TextIO | None = None

    @property
    def encoding(self) -> str:  # type: ignore[override]  # typeshed has an attribute where Python has a property
        return "utf-8"

    @property
    def errors(self) -> str:  # type: ignore[override]  # as for `encoding`
        return "backslashreplace"

    @property
    def buffer(self) -> _Bytes:
        """The same stream, for bytes."""
        return self._bytes

    def __getattr__(self, name: str) -> Any:
        # A display that wrapped the stream before us looks for its own attributes on it.
        before = self.__dict__.get("before")
        if before is not None and self._capture.is_aside():
            return getattr(before, name)
        raise AttributeError(name)

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return self.before is not None and self._capture.is_aside() and self.before.isatty()

    def flush(self) -> None:
        if self.before is not None and self._capture.is_aside():
            self.before.flush()

    def write(self, text: str) -> int:
        """Pass text on: a task's into its log, everybody else's to where it would go without the task."""
        if self.before is not None and self._capture.is_aside():
            return self.before.write(text)
        self.write_bytes(text.encode("utf-8", "backslashreplace"))
        return len(text)

    def write_bytes(self, data: bytes) -> None:
        """Pass bytes on; between tasks, and in forked children, to the descriptor."""
        log = self._capture.log
        if log is None or self._capture.is_aside():
            os.write(self._descriptor, data)
            return
        with self._lock:
            lines = self._lines.feed(data)
        for line in lines:
            log.line(line, self._name)

    def finish(self) -> None:
        """Pass on a last line without an end."""
        lines = self._lines.finish()
        if self._capture.log is not None:
            for line in lines:
                self._capture.log.line(line, self._name)


class _Handler(logging.Handler):
    """Takes the records of the `logging` module into the task's log."""

    def __init__(self, capture: Capture) -> None:
        super().__init__()
        self._capture = capture
        self.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record, line by line."""
        log = self._capture.log
        if log is not None and not self._capture.is_aside():
            for line in self.format(record).splitlines():
                log.line(line, "log")


class Capture:
    """Python's own output streams and its logging, led into the log of whichever task runs now.

    It lives as long as its process: a step's code may keep `sys.stdout` beyond its task. Threads that ran before the
    task, and listeners while they are told an event, are not the task: what they print goes where it went before.
    """

    def __init__(self) -> None:
        self.log: TaskLog | None = None
        self._out, self._err = _Stream(self, 1, "stdout"), _Stream(self, 2, "stderr")
        self._handler = _Handler(self)
        self._others: frozenset[int | None] = frozenset()
        self._telling = 0
        self._process = os.getpid()

    def is_aside(self) -> bool:
        """Say whether the thread that asks is not the task."""
        me = threading.get_ident()
        return me in self._others or me == self._telling or os.getpid() != self._process

    def aside(self, emit: Listener) -> Listener:
        """Return the listener so that what it prints is not taken for the task's output."""

        def tell(event: Event) -> None:
            before, self._telling = self._telling, threading.get_ident()
            try:
                emit(event)
            finally:
                self._telling = before

        return tell

    @contextlib.contextmanager
    def into(self, log: TaskLog) -> Iterator[None]:
        """Lead all output of the block into a log."""
        before = sys.stdout, sys.stderr
        root = logging.getLogger()
        level = root.level
        self._others = frozenset(thread.ident for thread in threading.enumerate()) - {threading.get_ident()}
        self.log = log
        self._out.before, self._err.before = before
        sys.stdout, sys.stderr = self._out, self._err
        root.addHandler(self._handler)
        # An untouched root logger would swallow what a step says with logging.info.
        if level == logging.WARNING:
            root.setLevel(logging.INFO)
        try:
            yield
        finally:
            self._out.finish()
            self._err.finish()
            root.removeHandler(self._handler)
            root.setLevel(level)
            sys.stdout, sys.stderr = before
            self._out.before = self._err.before = None
            self.log = None
