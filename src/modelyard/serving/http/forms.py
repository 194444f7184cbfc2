"""Forms, as multipart/form-data (RFC 7578): read piece by piece within limits; a name of a file is never looked at."""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from multipart import MultipartError, MultipartSegment, ParserLimitReached, PushMultipartParser

from modelyard.files import storage_errors
from modelyard.serving.http.body import DISCARD
from modelyard.serving.http.routing import Request
from modelyard.serving.problems import HttpProblem

__all__ = ["MAXIMUM_PARTS", "Form", "open_form"]

MAXIMUM_PARTS = 16
"""Of one form, those that nobody asked for included. No setting: the longest form that is read here has four parts."""

SLOWEST = 16 * 1024
"""Bytes in a second, on average, once the form has had `body_seconds`: who sends slower holds a place for hours.

No setting of its own: with more `body_seconds` a form of that many times this size may come as slowly as it likes.
"""

_OVERHEAD = MAXIMUM_PARTS * 4 * 1024
"""Of all boundaries and heads of parts together. No setting: a head has two short lines (RFC 7578, 4.2 and 4.4)."""

_WRITE = 1024 * 1024
_CLOSE = (("connection", "close"),)
_BOUNDARY = re.compile(r';\s*boundary=(?:"([^"\r\n\\]{1,200})"|([^\s;"]{1,200}))', re.IGNORECASE)


class Form:
    """The parts of a form that were asked for.

    Args:
        contents: Of the small parts, by name.
        files: Where the large parts lie, under names of our own; removed when the form is left, unless taken.
    """

    def __init__(self, contents: Mapping[str, bytes], files: dict[str, Path]) -> None:
        self._contents = contents
        self._files = files

    def part(self, name: str) -> bytes:
        """Return a part that must be there; raises HttpProblem 400 where it is not."""
        content = self._contents.get(name)
        if content is None:
            raise _missing(name)
        return content

    def text(self, name: str) -> str | None:
        """Return a part as text, or None where there is none; raises HttpProblem 400 where it is not UTF-8."""
        content = self._contents.get(name)
        try:
            return None if content is None else content.decode()
        except UnicodeDecodeError:
            raise HttpProblem(400, "malformed", f"The part {name!r} is not UTF-8.") from None

    def file(self, name: str) -> Path:
        """Return where a large part lies; raises HttpProblem 400 where there is no such part."""
        if name not in self._files:
            raise _missing(name)
        return self._files[name]

    def take(self, name: str) -> Path:
        """Return where a large part lies; from now on it is the caller's to remove."""
        file = self.file(name)
        del self._files[name]
        return file


@asynccontextmanager
async def open_form(
    request: Request,
    small: Mapping[str, int],
    large: Mapping[str, int] | None = None,
    folder: Path | None = None,
    *,
    patience: float,
) -> AsyncIterator[Form]:
    """Read a form.

    Args:
        request: Whose body it is.
        small: Parts that are held in memory, and how many bytes each may have.
        large: Parts that are written to files, and how many bytes each may have.
        folder: Where those files go.
        patience: Seconds before it may be too slow; the service's limit `body_seconds`.

    Raises:
        HttpProblem: 400 no form, cut off, a part twice; 408 too slow; 413 too large or too many parts;
            415 no multipart/form-data.
        StorageError: A file can't be written.
    """
    reading = _Reading(small, large or {}, folder, patience)
    try:
        await reading.read(request)
        yield Form(reading.contents, reading.files)
    finally:
        for file in reading.files.values():
            file.unlink(missing_ok=True)


class _Reading:
    """A form while it arrives."""

    def __init__(
        self, small: Mapping[str, int], large: Mapping[str, int], folder: Path | None, patience: float
    ) -> None:
        self.contents: dict[str, bytes] = {}
        self.files: dict[str, Path] = {}
        self._limits = {**small, **large}
        self._large = large
        self._folder = folder
        self._patience = patience
        self._name: str | None = None
        self._size = 0
        self._held = bytearray()
        self._descriptor = -1

    async def read(self, request: Request) -> None:
        parser = PushMultipartParser(_boundary(request), max_segment_count=MAXIMUM_PARTS)
        most = sum(self._limits.values()) + _OVERHEAD
        problem: HttpProblem | None = None
        received, started = 0, time.monotonic()
        # The last boundary says where a form ends, so one of unknown length may come in chunks.
        pieces = request.bodies.stream(request.exchange, body_bytes=most + DISCARD)
        try:
            async for piece in pieces:
                received += len(piece)
                if received < SLOWEST * (time.monotonic() - started - self._patience):
                    raise HttpProblem(
                        408, "timeout", f"The form arrives at less than {SLOWEST} bytes in a second.",
                        remedy="Send it at once.", headers=_CLOSE,
                    )  # fmt: skip
                if problem is not None:
                    # Most clients read no answer before they have written all: the rest is read and dropped.
                    continue
                try:
                    await self._feed(parser, piece)
                except HttpProblem as error:
                    problem = error
                    self._held = bytearray()
            if problem is None:
                _complete(parser)
        finally:
            if self._descriptor >= 0:
                os.close(self._descriptor)
        if problem is not None:
            raise problem

    async def _feed(self, parser: PushMultipartParser, piece: bytes) -> None:
        if parser.closed or not piece:
            return
        for event in _events(parser, piece):
            if isinstance(event, MultipartSegment):
                self._begin(event.name or "")
            elif event is None:
                await self._end()
            else:
                await self._add(event)

    def _begin(self, name: str) -> None:
        self._name, self._size = (name if name in self._limits else None), 0
        if self._name is None:
            return
        if name in self.contents or name in self.files:
            raise HttpProblem(400, "malformed", f"The form has the part {name!r} twice.")
        if name in self._large:
            if self._folder is None:
                raise RuntimeError("there is no folder for large parts")
            file = self._folder / secrets.token_hex(16)
            with storage_errors(self._folder):
                self._descriptor = os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
            self.files[name] = file

    async def _add(self, content: bytes) -> None:
        if self._name is None:
            return
        self._size += len(content)
        limit = self._limits[self._name]
        if self._size > limit:
            raise HttpProblem(
                413, "too-large", f"The part {self._name!r} is larger than {limit} bytes.", remedy="Send less.",
                headers=_CLOSE,
            )  # fmt: skip
        self._held += content
        if self._descriptor >= 0 and len(self._held) >= _WRITE:
            await self._write()

    async def _end(self) -> None:
        if self._name is None:
            return
        if self._descriptor >= 0:
            await self._write()
            descriptor, self._descriptor = self._descriptor, -1
            try:
                with storage_errors("the upload"):
                    await asyncio.to_thread(os.fsync, descriptor)
            finally:
                os.close(descriptor)
        else:
            self.contents[self._name] = bytes(self._held)
            self._held = bytearray()
        self._name = None

    async def _write(self) -> None:
        data, self._held = self._held, bytearray()
        with storage_errors("the upload"):
            await asyncio.to_thread(_write_all, self._descriptor, data)


def _write_all(descriptor: int, data: bytearray) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _boundary(request: Request) -> str:
    given = request.header("content-type") or ""
    kind = given.partition(";")[0].strip().lower()
    if kind != "multipart/form-data":
        raise HttpProblem(
            415, "media-type", "The body is no form.", remedy="Send multipart/form-data with the parts of this path."
        )
    found = _BOUNDARY.search(given)
    if found is None:
        raise HttpProblem(400, "malformed", "The Content-Type of the form has no boundary.")
    return found[1] or found[2]


def _events(parser: PushMultipartParser, piece: bytes) -> Iterator[MultipartSegment | bytes | None]:
    try:
        yield from parser.parse(piece)
    except ParserLimitReached:
        raise HttpProblem(
            413, "too-large", "The form has too many parts, or one with too long a head.",
            remedy=f"Send at most {MAXIMUM_PARTS} parts.", headers=_CLOSE,
        ) from None  # fmt: skip
    except MultipartError as error:
        raise HttpProblem(400, "malformed", f"The form can't be read: {error}.") from None


def _complete(parser: PushMultipartParser) -> None:
    try:
        parser.close()
    except MultipartError:
        raise HttpProblem(400, "incomplete", "The form ended before its last boundary.") from None


def _missing(name: str) -> HttpProblem:
    return HttpProblem(400, "malformed", f"The form has no part {name!r}.", remedy=f"Send {name} as a part.")
