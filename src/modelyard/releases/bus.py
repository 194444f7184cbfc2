"""The embedded bus: a folder of append-only files. No server, no daemon; every process of the machine may take part."""

from __future__ import annotations

import contextlib
import fcntl
import importlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, unquote, urlsplit

import msgspec

from modelyard.contracts import Bus
from modelyard.errors import BusyError, InputError, SettingsError, StorageError
from modelyard.files import blake3_bytes, storage_errors, sync_folder, write_atomically
from modelyard.releases.messages import decode, encode

__all__ = ["FileBus", "open_bus"]

_POLL_SECONDS = 0.02
_BUSY_SECONDS = 30.0
_LONGEST_NAME = 200


class _Acknowledged(msgspec.Struct, frozen=True):
    """The last message that a consumer is done with: its bytes in the file, and their digest.

    The digest tells whether the file is still the one that was read: after a restored backup, or a power cut that took
    back a message, the consumer starts over rather than miss something.
    """

    start: int
    end: int
    digest: str


class _Line(NamedTuple):
    start: int
    end: int
    text: bytes


class FileBus:
    """A Bus in a folder: one JSON-lines file for each topic, one small file for each consumer's position.

    A message is there once `publish` has returned, whatever is killed afterwards: it is written and synced under a
    lock. A writer that is killed in the middle leaves a torn line; readers stop before it, and the next writer removes
    it. Readers that are killed see the message again that they had not gone on from.

    Args:
        folder: Made when it is first written to.
        poll: How often `wait` looks, in seconds. A look is one stat call.
    """

    def __init__(self, folder: Path, poll: float = _POLL_SECONDS) -> None:
        self.folder = folder.absolute()
        self._poll = poll
        self._waited: dict[str, tuple[int, int]] = {}

    def __repr__(self) -> str:
        return f"FileBus({str(self.folder)!r})"

    def publish(self, topic: str, message: Mapping[str, Any]) -> None:
        """Append a JSON message to a topic, durably.

        Raises:
            InputError: The message is not JSON, or the topic has no usable name.
            StorageError: A full disk, a read-only folder; the topic is as it was.
            BusyError: Another process holds the topic for longer than half a minute.
        """
        line = encode(message) + b"\n"
        path = self._messages(topic)
        with storage_errors(path):
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                sync_folder(self.folder.parent)
                sync_folder(self.folder)
            with _open_locked(path, os.O_RDWR | os.O_CREAT, fcntl.LOCK_EX) as file:
                end = _repair(file)
                try:
                    _write_at(file, line, end)
                    os.fsync(file)
                except OSError:
                    # A full disk takes part of a line; without it the topic is as it was.
                    os.ftruncate(file, end)
                    raise
                # Each time: whoever made the file may have been killed before its name was safe.
                sync_folder(path.parent)

    def subscribe(self, topic: str, consumer: str) -> Iterator[Mapping[str, Any]]:
        """Yield the messages that this consumer has not acknowledged; going on to the next acknowledges the last.

        Two processes that subscribe under one name at the same time both get the messages.

        Raises:
            InputError: Topic or consumer has no usable name.
            IntegrityError: A message is damaged.
            StorageError: The position can't be written; the message will come again.
        """
        path = self._messages(topic)
        position_file = path.parent / "consumers" / f"{_file_name(consumer)}.json"
        position = self._position(path, position_file)
        while lines := list(_lines(path, position)):
            for line in lines:
                yield decode(line.text, f"{path}, byte {line.start}")
                acknowledged = _Acknowledged(line.start, line.end, blake3_bytes(line.text))
                write_atomically(position_file, msgspec.json.encode(acknowledged))
                position = line.end

    def history(self, topic: str) -> Iterator[Mapping[str, Any]]:
        """Yield every message of the topic from the first on, acknowledging nothing."""
        path = self._messages(topic)
        for line in list(_lines(path, 0)):
            yield decode(line.text, f"{path}, byte {line.start}")

    def wait(self, topic: str, timeout: float) -> bool:
        """Block until the topic has grown since the last call, or for `timeout` seconds; say whether it has.

        The first call returns at once where the topic holds anything.
        """
        path = self._messages(topic)
        deadline = time.monotonic() + timeout
        before = self._waited.get(topic, (0, 0))
        while True:
            now = _extent(path)
            if now != before and now[1]:
                self._waited[topic] = now
                return True
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            time.sleep(min(self._poll, left))

    def close(self) -> None:
        """Do nothing: no file stays open between calls."""

    def _messages(self, topic: str) -> Path:
        return self.folder / _file_name(topic) / "messages.jsonl"

    def _position(self, path: Path, position_file: Path) -> int:
        try:
            with storage_errors(position_file):
                done = msgspec.json.decode(position_file.read_bytes(), type=_Acknowledged)
            with storage_errors(path), path.open("rb") as file:
                file.seek(done.start)
                read = file.read(done.end - done.start)
        except StorageError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                return 0
            raise
        except (msgspec.DecodeError, UnicodeDecodeError):
            return 0
        return done.end if blake3_bytes(read.removesuffix(b"\n")) == done.digest else 0


def open_bus(url: str) -> Bus:
    """Open a bus.

    Args:
        url: `file:///folder`, `memory://` (a new one of this process's own), or a scheme for which an entry point of
            the group `modelyard.buses` names a callable that takes the URL.

    Raises:
        SettingsError: Nothing opens URLs of that scheme.
    """
    scheme = urlsplit(url).scheme
    if scheme in _BUILT_IN:
        return _BUILT_IN[scheme](url)
    installed = {entry.name: entry for entry in entry_points(group="modelyard.buses")}
    if scheme in installed:
        opened: Bus = installed[scheme].load()(url)
        return opened
    raise SettingsError(
        f"No bus opens {url!r}.",
        where="bus",
        remedy=f"Write one of {', '.join(f'{name}://' for name in sorted({*_BUILT_IN, *installed}))}.",
    )


def _open_file_bus(url: str) -> Bus:
    parts = urlsplit(url)
    if not parts.netloc + parts.path:
        raise SettingsError(f"{url!r} names no folder.", where="bus", remedy="Write `file:///path/to/folder`.")
    return FileBus(Path(unquote(parts.netloc + parts.path)))


def _open_memory_bus(_url: str) -> Bus:
    bus: Bus = importlib.import_module("modelyard.releases.memory").MemoryBus()
    return bus


_BUILT_IN: Mapping[str, Callable[[str], Bus]] = {"file": _open_file_bus, "memory": _open_memory_bus}


def _file_name(name: str) -> str:
    """Return a name fit for one file, the same for the same name, and another for another."""
    quoted = quote(name, safe="")
    quoted = "%2E" + quoted[1:] if quoted.startswith(".") else quoted
    if not quoted or len(quoted) > _LONGEST_NAME:
        raise InputError(
            f"{name[:40]!r} can't name a topic or a consumer.", remedy=f"Use 1 to {_LONGEST_NAME} letters and digits."
        )
    return quoted


@contextlib.contextmanager
def _open_locked(path: Path, flags: int, lock: int) -> Iterator[int]:
    """Open a file and hold its lock, surely that of the file which has the name now."""
    deadline = time.monotonic() + _BUSY_SECONDS
    while True:
        file = os.open(path, flags | os.O_CLOEXEC, 0o666)
        try:
            if _try_lock(file, lock) and _is_still(path, file):
                yield file
                return
        finally:
            os.close(file)
        if time.monotonic() > deadline:
            raise BusyError(
                f"Another process has held this topic for {_BUSY_SECONDS:.0f} seconds.",
                where=str(path),
                remedy="See what it is (`fuser` tells), and try again.",
            )
        time.sleep(0.002)


def _try_lock(file: int, lock: int) -> bool:
    try:
        fcntl.flock(file, lock | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_still(path: Path, file: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file))
    except FileNotFoundError:
        return False


def _repair(file: int) -> int:
    """Cut off the line that a killed writer left unfinished; return where the next message begins."""
    size = os.fstat(file).st_size
    if size == 0 or os.pread(file, 1, size - 1) == b"\n":
        return size
    end, block = size, 65_536
    while end:
        start = max(0, end - block)
        newline = os.pread(file, end - start, start).rfind(b"\n")
        if newline >= 0:
            end = start + newline + 1
            break
        end = start
    os.ftruncate(file, end)
    return end


def _write_at(file: int, data: bytes, position: int) -> None:
    while data:
        written = os.pwrite(file, data, position)
        position += written
        data = data[written:]


def _lines(path: Path, position: int) -> Iterator[_Line]:
    """Yield the whole lines from a byte on; a writer that is in the middle of one is waited for."""
    try:
        with storage_errors(path), _open_locked(path, os.O_RDONLY, fcntl.LOCK_SH) as file:
            size = os.fstat(file).st_size
            data = os.pread(file, max(0, size - position), position) if size > position else b""
    except StorageError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return
        raise
    start = position
    *whole, _torn = data.split(b"\n")
    for text in whole:
        end = start + len(text) + 1
        yield _Line(start, end, text)
        start = end


def _extent(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError:
        return (0, 0)
    return (status.st_ino, status.st_size)
