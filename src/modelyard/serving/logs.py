"""Structured logs: one JSON object on a line, written whole by one system call; never a request's body or a secret."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal

import msgspec

__all__ = ["LEVELS", "Level", "Log", "log_about", "told_about"]

Level = Literal["debug", "info", "warning", "error"]
LEVELS: dict[str, int] = {"debug": 10, "info": 20, "warning": 30, "error": 40}

_about: ContextVar[dict[str, Any] | None] = ContextVar("about", default=None)


@contextmanager
def log_about(**fields: Any) -> Iterator[None]:
    """Put fields into every line that this thread, or this task, writes meanwhile; a line's own come first."""
    token = _about.set((_about.get() or {}) | fields)
    try:
        yield
    finally:
        _about.reset(token)


def told_about() -> dict[str, Any]:
    """Return the fields that `log_about` puts into every line of this thread, or task, at this moment."""
    return dict(_about.get() or {})


class Log:
    """Writes events.

    Args:
        level: The least important level to be written.
        descriptor: File descriptor that takes the lines; the standard error by default.
        fields: Stand in every line, such as the service and the worker.
    """

    def __init__(self, level: Level = "info", descriptor: int = 2, **fields: Any) -> None:
        self._threshold = LEVELS[level]
        self._descriptor = descriptor
        self._fields = fields
        self._level = level

    def with_fields(self, **fields: Any) -> Log:
        """Return a log whose lines have these fields too."""
        return Log(self._level, self._descriptor, **{**self._fields, **fields})

    def wants(self, level: Level) -> bool:
        """Say whether lines of this level are written, so that a caller can spare the work of making one."""
        return LEVELS[level] >= self._threshold

    def debug(self, event: str, **fields: Any) -> None:
        """Write what only a developer wants to see."""
        self._write("debug", event, fields)

    def info(self, event: str, **fields: Any) -> None:
        """Write what an operator wants to see."""
        self._write("info", event, fields)

    def warning(self, event: str, **fields: Any) -> None:
        """Write what an operator should look at."""
        self._write("warning", event, fields)

    def error(self, event: str, **fields: Any) -> None:
        """Write what an operator must look at."""
        self._write("error", event, fields)

    def _write(self, level: Level, event: str, fields: dict[str, Any]) -> None:
        if LEVELS[level] < self._threshold:
            return
        line = {
            "time": round(time.time(), 6),
            "level": level,
            "event": event,
            **self._fields,
            **(_about.get() or {}),
            **fields,
        }
        data = msgspec.json.encode(line, enc_hook=str) + b"\n"
        try:
            os.write(self._descriptor, data)
        except OSError:
            # A full disk or a closed terminal must not stop the service.
            return
