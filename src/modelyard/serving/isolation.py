"""Answers requests that bring their own model, in processes beside the worker: neither memory nor a crash touches it.

A process that has loaded an upload stays a moment for the next request with the same one.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Any

from modelyard.files import sha256_file
from modelyard.serving.sandbox import Bounds, Sandbox, SandboxLostError

__all__ = ["Isolation"]


class Isolation:
    """The processes of one worker. It belongs to the event loop's thread; the work is done in threads.

    Args:
        folder: Where the processes work.
        bounds: What each may take, how many there are, and how long one stays.
    """

    def __init__(self, folder: Path, bounds: Bounds) -> None:
        self._folder = folder
        self._bounds = bounds
        self._threads = ThreadPoolExecutor(bounds.processes, thread_name_prefix="isolated")
        self._idle: OrderedDict[str, tuple[float, Sandbox]] = OrderedDict()
        self._running = 0
        self._lock = Lock()

    async def answer(
        self, upload: Path, proto: bytes, ask: dict[str, Any], body: bytes
    ) -> tuple[list[tuple[str, str]], bytes]:
        """Return the headers and the body of an answer.

        Args:
            upload: A package or an ONNX file.
            proto: Text of its proto file, which was parsed before.
            ask: What `Guest` is asked: kind, operation and so on.
            body: The rows.

        Raises:
            SandboxRefusedError: The upload or the rows are not right, or the model failed.
            SandboxLostError: The process died, or took too long.
        """
        loop = asyncio.get_running_loop()
        clock: Callable[[], float] = loop.time
        try:
            return await loop.run_in_executor(self._threads, self._answer, upload, proto, ask, body, clock)
        finally:
            loop.call_later(self._bounds.idle_seconds + 0.1, self._reap, loop)

    def _answer(
        self, upload: Path, proto: bytes, ask: dict[str, Any], body: bytes, clock: Callable[[], float]
    ) -> tuple[list[tuple[str, str]], bytes]:
        operation = ask["operation"] or ""
        key = f"{sha256_file(upload)}/{hashlib.sha256(proto).hexdigest()}/{operation}"
        sandbox = self._taken(key)
        if sandbox is not None:
            try:
                return self._asked(key, sandbox, ask, body, clock)
            except SandboxLostError as error:
                if error.late:
                    raise
            # It had answered before, and may have used up its time: this request gets one of its own.
            sandbox = self._taken("")
        try:
            if sandbox is None:
                sandbox = Sandbox(self._folder / secrets.token_hex(16), self._bounds)
                # The upload is removed with the request, and the process may stay.
                copy = sandbox.folder / "upload"
                copy.hardlink_to(upload)
                wishes = {"operation": operation}
                load = {"do": "load", "upload": str(copy), "name": "model", "own_proto": False, "wishes": wishes}
                sandbox.ask(load, proto)
        except BaseException:
            if sandbox is not None:
                sandbox.end()
            with self._lock:
                self._running -= 1
            raise
        return self._asked(key, sandbox, ask, body, clock)

    def _asked(
        self, key: str, sandbox: Sandbox, ask: dict[str, Any], body: bytes, clock: Callable[[], float]
    ) -> tuple[list[tuple[str, str]], bytes]:
        lost = True
        try:
            head, answer = sandbox.ask({"do": "answer", **ask}, body)
            lost = False
        except SandboxLostError:
            raise
        except Exception:
            lost = False
            raise
        finally:
            with self._lock:
                self._running -= 1
                other = None if lost else self._idle.pop(key, None)
                if not lost:
                    self._idle[key] = (clock(), sandbox)
            if lost:
                sandbox.end()
            if other is not None:
                other[1].end()
        return [(name, value) for name, value in head["headers"]], answer

    def _taken(self, key: str) -> Sandbox | None:
        """Return an idle process that has loaded an upload, or None once there is room for a new one."""
        old: Sandbox | None = None
        with self._lock:
            self._running += 1
            found = self._idle.pop(key, None)
            if found is None and self._idle and self._running + len(self._idle) > self._bounds.processes:
                old = self._idle.popitem(last=False)[1][1]
        if old is not None:
            old.end()
        if found is not None and not found[1].alive:
            found[1].end()
            return None
        return found[1] if found is not None else None

    def _reap(self, loop: asyncio.AbstractEventLoop) -> None:
        """End the processes that nobody asked for a while."""
        latest = loop.time() - self._bounds.idle_seconds
        with self._lock:
            old = [key for key, (since, _) in self._idle.items() if since <= latest]
            ended = [self._idle.pop(key)[1] for key in old]
        for sandbox in ended:
            self._threads.submit(sandbox.end)
