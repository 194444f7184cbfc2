"""Errors as people read them, and as programs do where a command line has `--json`: one form for every command.

What a command found goes to standard output; what went wrong goes to standard error, so that neither spoils the other.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import click

from modelyard.errors import BlueprintError, InputError, ModelyardError, StorageError
from modelyard.text import count

__all__ = ["Reporter", "drop_output"]

INTERRUPTED = 130
"""128 and the number of SIGINT, as shells count."""


class Reporter:
    """Prints what ended a command.

    Args:
        words: The command line, without the program's name.
    """

    def __init__(self, words: Sequence[str]) -> None:
        # Not click's own parse: the words may be what is wrong.
        options = words[: words.index("--")] if "--" in words else words
        self._as_json = "--json" in options

    def known(self, error: ModelyardError) -> int:
        """Print an error of ours: what, where, and the remedy; return its exit code."""
        problems = error.problems if isinstance(error, BlueprintError) else ()
        if self._as_json:
            what = f"{count(len(problems), 'problem')} in the blueprint." if problems else error.what
            more = {"problems": [asdict(problem) for problem in problems]} if problems else {}
            self._json(error.code, what, error.exit_code, error.where, error.remedy, more)
        elif problems:
            for problem in problems:
                _line(str(problem))
        else:
            _line(f"{error.where}: {error.what}" if error.where else error.what)
            if error.remedy:
                click.echo(f"  {error.remedy}", err=True)
        return error.exit_code

    def usage(self, error: click.ClickException) -> int:
        """Print what is wrong with the words of a command line; return the exit code."""
        context = error.ctx if isinstance(error, click.UsageError) else None
        if self._as_json:
            remedy = f"Look: {context.command_path} --help" if context is not None else ""
            self._json("usage", error.format_message(), InputError.exit_code, None, remedy)
        else:
            error.show()
        return InputError.exit_code

    def interrupted(self) -> int:
        """Say that somebody pressed Ctrl-C; return the exit code."""
        if self._as_json:
            self._json("interrupted", "It was interrupted.", INTERRUPTED)
        else:
            click.echo("interrupted", err=True)
        return INTERRUPTED

    def unforeseen(self, error: Exception) -> int:
        """Print an error that nobody translated, and return its exit code; a disk that fails is no defect of ours."""
        disk = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO)
        if isinstance(error, OSError) and error.errno in disk:
            place = str(error.filename) if error.filename else "standard output"
            what = f"{os.strerror(error.errno)}."
            self.known(StorageError(what, where=place, remedy="Choose another place, or make room."))
            drop_output()
            return StorageError.exit_code
        what = f"{type(error).__name__}: {error}"
        remedy = (
            "This is a defect in Modelyard; run `modelyard --debug …` with the same words and report what it prints."
        )
        if self._as_json:
            self._json("internal", what, ModelyardError.exit_code, None, remedy)
        else:
            click.echo(f"internal error: {what}\n  {remedy}", err=True)
        return ModelyardError.exit_code

    @staticmethod
    def _json(
        code: str, what: str, exit_code: int, where: str | None = None, remedy: str | None = None,
        more: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        # On one line, so that the last line of standard error is the error whatever a library has warned of before.
        error = {"code": code, "exit_code": exit_code, "what": what, "where": where or "", "remedy": remedy or ""}
        click.echo(json.dumps({"error": error | dict(more or {})}, ensure_ascii=False), err=True)


def drop_output() -> None:
    """Send what is still to be flushed to nowhere; a second error at the end of the process would only be noise."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _line(text: str) -> None:
    click.echo(f"{click.style('error:', fg='red')} {text}", err=True)
