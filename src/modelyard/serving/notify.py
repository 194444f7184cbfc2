"""Tells a service manager how the service stands, by the protocol of sd_notify(3); without one it does nothing."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Mapping

__all__ = ["Notifier"]


class Notifier:
    """Sends `READY=1` once, `WATCHDOG=1` in time, and `STOPPING=1`. No failure of the manager reaches the service.

    Args:
        environment: Its `NOTIFY_SOCKET` names the manager's socket, and `WATCHDOG_USEC` what it waits for a sign of
            life, where `WATCHDOG_PID` is this process or missing.
        pid: Of this process.
    """

    def __init__(self, environment: Mapping[str, str] = os.environ, pid: int | None = None) -> None:
        name = environment.get("NOTIFY_SOCKET", "")
        # A leading @ stands for the null byte of Linux's abstract names.
        self._address = "\0" + name[1:] if name.startswith("@") else name if name.startswith("/") else ""
        self._beat_seconds = self._seconds(environment, os.getpid() if pid is None else pid)
        self._next_beat = 0.0
        self._ready = False

    @staticmethod
    def _seconds(environment: Mapping[str, str], pid: int) -> float | None:
        """Return half of what the manager waits, as sd_watchdog_enabled(3) advises."""
        given = environment.get("WATCHDOG_USEC", "")
        mine = environment.get("WATCHDOG_PID", str(pid)) == str(pid)
        return int(given) / 2e6 if mine and given.isdigit() and int(given) > 0 else None

    def look(self, accepting: int, workers: int) -> None:
        """Tell what there is to tell now; called again and again.

        Args:
            accepting: How many workers accept connections.
            workers: How many should. Once all have, the service is ready.
        """
        if not self._address:
            return
        lines = []
        if not self._ready and accepting >= workers:
            self._ready = True
            lines.append("READY=1")
        now = time.monotonic()
        if self._beat_seconds is not None and now >= self._next_beat:
            self._next_beat = now + self._beat_seconds
            lines.append("WATCHDOG=1")
        if lines:
            self._send(f"STATUS={accepting} of {workers} workers accept", *lines)

    def stopping(self) -> None:
        """Tell that requests in flight are finished, and nothing new is begun."""
        if self._address:
            self._send("STOPPING=1", "STATUS=Draining")

    def _send(self, *lines: str) -> None:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as connection:
            connection.setblocking(False)
            connection.sendto("\n".join(lines).encode(), self._address)
