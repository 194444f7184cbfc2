"""Runs the program as a user would: one command line after the other, each shown before it is run."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import click

from modelyard.errors import RunError

__all__ = ["Stage"]


class Stage:
    """A project folder in which commands are shown and run.

    Args:
        folder: The project folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.started = time.perf_counter()

    def title(self, text: str) -> None:
        """Begin a chapter."""
        click.echo(f"\n{click.style(text, bold=True)}")

    def run(self, *arguments: str, code: int = 0, show: bool = True) -> str:
        """Run a command of Modelyard and let it print; return what it printed where it is not shown.

        Args:
            arguments: Without the program's name.
            code: The exit code that is expected.
            show: Let the reader see what it prints.

        Raises:
            RunError: It ended with another code.
        """
        words = " ".join(f"'{word}'" if " " in word else word for word in arguments)
        click.echo(click.style(f"$ modelyard {words}", fg="cyan"))
        done = subprocess.run(
            [sys.executable, "-m", "modelyard", *arguments],
            cwd=self.folder,
            check=False,
            text=True,
            stdout=None if show else subprocess.PIPE,
            # The reason of a refusal belongs beside the command that met it.
            stderr=None if show else subprocess.STDOUT,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
        )
        if done.returncode != code:
            raise RunError(
                f"modelyard {words} ended with exit code {done.returncode}, not {code}.",
                where=str(self.folder),
                remedy=(done.stdout or "").strip()[-400:] or None,
            )
        return done.stdout or ""

    @property
    def seconds(self) -> float:
        """Since the stage was set."""
        return time.perf_counter() - self.started
