"""`up`, `down`, `serve`, `predict`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from modelyard.cli.output import json_option, print_json, table, yard_of
from modelyard.yard.services import ServiceState

__all__ = ["commands"]


@click.command()
@click.argument("environments", nargs=-1)
@click.option("--timeout", default=60.0, show_default=True, help="Seconds to wait for each.")
@json_option
@click.pass_context
def up(ctx: click.Context, environments: tuple[str, ...], timeout: float, as_json: bool) -> None:
    """Serve what is released to ENVIRONMENTS (default: all), each in the background."""

    def started(state: ServiceState) -> None:
        if not as_json:
            click.echo(f"{state.environment:<12} {state.url}  {', '.join(state.serving) or 'nothing released yet'}")

    states = yard_of(ctx).services.up(environments, timeout=timeout, started=started)
    if as_json:
        print_json(states)


@click.command()
@click.argument("environments", nargs=-1)
@click.pass_context
def down(ctx: click.Context, environments: tuple[str, ...]) -> None:
    """Stop the services of ENVIRONMENTS (default: all), letting requests in flight end."""
    stopped = yard_of(ctx).services.down(environments)
    click.echo(f"Stopped {', '.join(stopped)}." if stopped else "No service was running.")


@click.command()
@click.argument("environment")
@click.option("--port", default=0, type=click.IntRange(0, 65535), help="Default: the one it had last, else a free one.")
@click.option("--workers", type=click.IntRange(min=1), help="Processes that answer (default: the setting).")
@click.pass_context
def serve(ctx: click.Context, environment: str, port: int, workers: int | None) -> None:
    """Serve what is released to ENVIRONMENT in the foreground, until Ctrl-C."""
    yard_of(ctx).services.serve(environment, port=port, workers=workers)


@click.command()
@click.argument("model")
@click.argument("rows", type=click.Path(path_type=Path, exists=True, dir_okay=False, allow_dash=True))
@click.option("--env", "environment", default="production", show_default=True, help="Which service to ask.")
@json_option
@click.pass_context
def predict(ctx: click.Context, model: str, rows: Path, environment: str, as_json: bool) -> None:
    """Send ROWS (a JSON or CSV file, `-` for standard input as JSON) to the service and print what MODEL answers."""
    services = yard_of(ctx).services
    body = sys.stdin.buffer.read() if str(rows) == "-" else rows.read_bytes()
    media = "text/csv" if rows.suffix.lower() == ".csv" else "application/json"
    answer = services.predict(environment, model, body, media)
    if as_json:
        print_json(answer)
        return
    click.echo(f"{answer['model']} {answer['version']}, generation {answer['generation']}")
    headings, found = _answered(answer)
    table(headings, [tuple(map(_cell, row)) for row in found], empty="no rows")


def _answered(answer: Mapping[str, Any]) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
    """Return the headings and rows of an answer, which has rows or columns as the request had."""
    if "columns" in answer:
        return tuple(answer["columns"]), list(zip(*answer["columns"].values(), strict=True))
    return tuple(answer["rows"][0]) if answer["rows"] else (), [tuple(row.values()) for row in answer["rows"]]


def _cell(value: Any) -> str:
    """A list would drown the table; its largest element and where that is says most of a row of probabilities."""
    if isinstance(value, list) and value and isinstance(value[0], float):
        top = max(range(len(value)), key=value.__getitem__)
        return f"[{top}] {value[top]:.4f}"
    return str(value)


commands: dict[str, click.Command] = {"up": up, "down": down, "serve": serve, "predict": predict}
