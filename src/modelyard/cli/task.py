"""`task`: what executors start."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from modelyard.engines.task import execute
from modelyard.errors import InputError
from modelyard.records import Event, TaskCall
from modelyard.store.store import Store

__all__ = ["commands"]


@click.group()
def task() -> None:
    """Execute one task from its JSON call (what executors start)."""


@task.command("run")
@click.argument("call", type=click.Path(path_type=Path, exists=True, dir_okay=False))
def task_run(call: Path) -> None:
    """Execute the task whose call is in the JSON file CALL; print its events and result as JSON lines."""
    try:
        wanted = msgspec.json.decode(call.read_bytes(), type=TaskCall)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InputError(f"This is no task call: {error}.", where=str(call)) from error

    def emit(event: Event) -> None:
        click.echo(msgspec.json.encode({"event": event}).decode())

    result = execute(wanted, Store.open(wanted.store), emit)
    click.echo(msgspec.json.encode({"result": result}).decode())
    if result.failure is not None:
        raise click.exceptions.Exit(7)


commands: dict[str, click.Command] = {"task": task}
