"""Printing: text for people, JSON for programs, the same facts in both."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

import click
import msgspec
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

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

LAST_COLUMN = 24
"""Characters that a table's last column has at least, before its text is broken."""

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


def print_json(value: Any, *, lines: bool = False) -> None:
    """Print a value as JSON; records, dataclasses and paths included.

    Args:
        value: What to print.
        lines: On one line, for what is printed again and again.
    """
    click.echo(json.dumps(msgspec.to_builtins(value, enc_hook=str), indent=None if lines else 2, ensure_ascii=False))


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
    out = console()
    # On a terminal only the last column may break; where the others leave it no room, the terminal breaks whole lines,
    # because half an id names nothing. A file gets lines as long as they are.
    if not sys.stdout.isatty() or _least_width(headings, rows) > out.width:
        out.width = 10_000
    with out.capture() as text:
        out.print(_grid(headings, rows))
    # Padding at a line's end is noise in a file, and an empty line on a narrow terminal.
    click.echo("\n".join(line.rstrip() for line in text.get().splitlines()))


def _grid(headings: Sequence[str], rows: Sequence[Sequence[Any]]) -> Table:
    grid = Table(box=None, pad_edge=False, header_style="bold", show_edge=False)
    for number, heading in enumerate(headings, 1):
        last = number == len(headings)
        grid.add_column(heading, no_wrap=not last, overflow="fold")
    for row in rows:
        # A Text, not markup: brackets in a cell are the user's own.
        grid.add_row(*(Text(cell, style=STATE_STYLE.get(cell, "")) for cell in map(str, row)))
    return grid


def _least_width(headings: Sequence[str], rows: Sequence[Sequence[Any]]) -> int:
    widths = [max(cell_len(str(cell)) for cell in column) for column in zip(headings, *rows, strict=True)]
    return sum(width + 2 for width in widths[:-1]) + min(widths[-1], LAST_COLUMN)
