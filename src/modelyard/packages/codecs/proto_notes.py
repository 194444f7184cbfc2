"""What protoc prints, as texts: it writes warnings to the standard error of the process that it is called in."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["notes_of", "printed"]

MOST = 50
"""Warnings that are kept of one text; the compiler may have one for each of its lines."""

LONGEST = 300
"""Characters of one."""

_STDERR = 2
_WARNING = re.compile(rb"^(?:[^\n]*/)?[\w.]+\.proto:(\d+):(\d+): warning: ([^\n]*)\n?$")
_LOGGED = re.compile(rb"^[IWEF]\d{4} [^\n]*?\.cc:\d+\] ([^\n]*)\n?$")
_PREFACE = b"WARNING: All log messages before absl::InitializeLog()"


@contextmanager
def printed(file: Path) -> Iterator[list[str]]:
    """Catch what protoc prints meanwhile; the list is filled at the end. One thread at a time may do so.

    Lines that are not protoc's, such as those of a log that another thread writes, go on to where they were to go.

    Args:
        file: Takes what is printed; it must not be there yet.
    """
    notes: list[str] = []
    try:
        kept = os.dup(_STDERR)
    except OSError:
        # There is no standard error: what protoc prints goes nowhere.
        yield notes
        return
    caught = os.open(file, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        os.dup2(caught, _STDERR)
        try:
            yield notes
        finally:
            os.dup2(kept, _STDERR)
            found, others = notes_of(file.read_bytes())
            notes += found
            if others:
                os.write(kept, others)
    finally:
        os.close(kept)
        os.close(caught)


def notes_of(text: bytes) -> tuple[list[str], bytes]:
    """Return the warnings in what was printed, each with line and column where it has them, and all other lines."""
    notes: dict[str, None] = {}
    others = []
    for line in text.splitlines(keepends=True):
        if match := _WARNING.match(line):
            place = f"line {int(match[1])}, column {int(match[2])}: "
            notes[place + _text(match[3])] = None
        elif match := _LOGGED.match(line):
            notes[_text(match[1])] = None
        elif not line.startswith(_PREFACE):
            others.append(line)
    return list(notes)[:MOST], b"".join(others)


def _text(said: bytes) -> str:
    return said.decode("utf-8", "replace")[:LONGEST]
