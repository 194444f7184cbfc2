"""Printing: text for people, JSON for programs, the same facts in both."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.table import Table

from modelyard.yard import Yard

__all__ = ["console", "json_option", "print_json", "table", "yard_of"]

STATE_STYLE = {
    "succeeded": "green",
    "cached": "cyan",
    "approved": "green",
    "live": "green",
    "ready": "green",
    "running": "yellow",
    "new": "yellow",
    "run": "yellow",
    "failed": "red",
    "rejected": "red",
    "interrupted": "red",
    "cancelled": "red",
    "skipped": "bright_black",
    "unknown": "bright_black",
    "stopped": "bright_black",
}

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def console(*, stderr: bool = False) -> Console:
    """Return a console that colours only a terminal, and does not wrap what is piped."""
    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, highlight=False, soft_wrap=not stream.isatty())


def yard_of(ctx: click.Context) -> Yard:
    """Open the project that the command line names, until the command ends."""
    yard = Yard.open(ctx.find_root().obj["project"])
    ctx.find_root().call_on_close(yard.close)
    return yard


def print_json(value: Any) -> None:
    """Print a value as indented JSON; records, dataclasses and paths included."""
    click.echo(json.dumps(msgspec.to_builtins(value, enc_hook=str), indent=2, ensure_ascii=False))


def table(headings: Sequence[str], rows: Sequence[Sequence[Any]], *, empty: str) -> None:
    """Print rows under headings; words that are states get their colour.

    Args:
        headings: One for each column.
        rows: Cells, printed by `str`.
        empty: What to say where there are no rows.
    """
    if not rows:
        click.echo(empty)
        return
    grid = Table(box=None, pad_edge=False, header_style="bold", show_edge=False)
    for heading in headings:
        grid.add_column(heading, no_wrap=True)
    for row in rows:
        cells = [str(cell) for cell in row]
        grid.add_row(*(f"[{STATE_STYLE[cell]}]{cell}[/]" if cell in STATE_STYLE else cell for cell in cells))
    out = console()
    if sys.stdout.isatty():
        out.print(grid)
        return
    # A table cut to 80 columns would lose digests, and padding at a line's end is noise in a file.
    out.width = 10_000
    with out.capture() as text:
        out.print(grid)
    click.echo("\n".join(line.rstrip() for line in text.get().splitlines()))
