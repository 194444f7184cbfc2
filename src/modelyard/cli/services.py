"""`up`, `down`, `serve`, `predict`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from modelyard.cli.complete import environments, models, services
from modelyard.cli.output import json_option, print_json, table, yard_of
from modelyard.cli.progress import Bar, open_bar
from modelyard.text import count, span
from modelyard.yard import rooms
from modelyard.yard.services import ServiceState

if TYPE_CHECKING:
    from modelyard.serving.batch.spec import BatchPlan
    from modelyard.serving.batch.spec import Progress as BatchProgress

__all__ = ["commands"]

explicit_option = click.option(
    "--explicit", is_flag=True, help="Follow no releases; serve what `swap` loads. Any name will do."
)


@click.command()
@click.argument("environments", nargs=-1, shell_complete=environments)
@click.option("--port", type=click.IntRange(0, 65535), help="Of one service: as for serve.")
@click.option("--grpc-port", type=click.IntRange(0, 65535), help="Of one service: as for serve.")
@click.option("--timeout", default=60.0, show_default=True, help="Seconds to wait for each.")
@explicit_option
@json_option
@click.pass_context
def up(
    ctx: click.Context, environments: tuple[str, ...], port: int | None, grpc_port: int | None, timeout: float,
    explicit: bool, as_json: bool,
) -> None:  # fmt: skip
    """Serve what is released to ENVIRONMENTS (default: all), each in the background."""
    if explicit and not environments:
        raise click.UsageError("--explicit needs a name.", ctx)
    if (port is not None or grpc_port is not None) and len(environments) != 1:
        raise click.UsageError("--port and --grpc-port need the name of one environment.", ctx)

    def started(state: ServiceState) -> None:
        if not as_json:
            places = state.url if state.grpc is None else f"{state.url}  grpc {state.grpc}"
            nothing = f"nothing {'loaded' if explicit else 'released'} yet"
            click.echo(f"{state.environment:<12} {places}  {', '.join(state.serving) or nothing}")

    states = yard_of(ctx).services.up(
        environments, port=port, grpc_port=grpc_port, timeout=timeout, explicit=explicit, started=started
    )
    if as_json:
        print_json(states)


@click.command()
@click.argument("environments", nargs=-1, shell_complete=services)
@click.option("--dry-run", is_flag=True, help="Say what would stop, and do nothing.")
@json_option
@click.pass_context
def down(ctx: click.Context, environments: tuple[str, ...], dry_run: bool, as_json: bool) -> None:
    """Stop the services of ENVIRONMENTS (default: all), letting requests in flight end."""
    found = yard_of(ctx).services
    names = found.would_stop(environments) if dry_run else found.down(environments)
    if as_json:
        print_json({"would_stop" if dry_run else "stopped": names})
    elif names:
        click.echo(f"{'Would stop' if dry_run else 'Stopped'} {', '.join(names)}.")
    else:
        click.echo("No service is running." if dry_run else "No service was running.")


@click.command()
@click.argument("environment", shell_complete=environments)
@click.option("--host", help="Address to listen on (default: the setting).")
@click.option("--port", default=0, type=click.IntRange(0, 65535), help="0: the one it had last, else a free one.")
@click.option("--grpc-port", type=click.IntRange(0, 65535), help="Speak gRPC too; 0: as for --port.")
@click.option("--workers", type=click.IntRange(min=1), help="Processes that answer (default: the setting).")
@explicit_option
@click.pass_context
def serve(
    ctx: click.Context, environment: str, host: str | None, port: int, grpc_port: int | None, workers: int | None,
    explicit: bool,
) -> None:  # fmt: skip
    """Serve what is released to ENVIRONMENT in the foreground, until Ctrl-C.

    Requests in flight end first. The exit code is 130 then, and 0 where SIGTERM or `modelyard down` asked for the stop.
    """
    yard_of(ctx).services.serve(
        environment, host=host, port=port, grpc_port=grpc_port, workers=workers, explicit=explicit
    )


@click.command()
@click.argument("model", shell_complete=models)
@click.argument("rows", required=False, type=click.Path(path_type=Path, exists=True, dir_okay=False, allow_dash=True))
@click.option(
    "--env",
    "environment",
    shell_complete=services,
    help="Whose service is asked, or whose released version predicts (production).",
)
@click.option("--input", "source", type=click.Path(path_type=Path, dir_okay=False), help="The file to predict.")
@click.option("--output", type=click.Path(path_type=Path), help="The file for the answers; replaced when all is done.")
@click.option("--version", help="Predict the file with this version, such as v1.2.0, released or not.")
@click.option("--workers", type=click.IntRange(min=1), help="Processes that predict the file (default: one a core).")
@click.option("--batch-rows", type=click.IntRange(min=1), help="Rows of a part (default: what takes some 16 MiB).")
@click.option("--columns", metavar="NAMES", help="Input columns to keep beside the answers, with commas; * for all.")
@click.option("--dry-run", is_flag=True, help="Say rows, model and parts of the file, and predict nothing.")
@click.option("-q", "--quiet", is_flag=True, help="Show no progress.")
@json_option
@click.pass_context
def predict(
    ctx: click.Context, model: str, rows: Path | None, environment: str | None, source: Path | None,
    output: Path | None, version: str | None, workers: int | None, batch_rows: int | None, columns: str | None,
    dry_run: bool, quiet: bool, as_json: bool,
) -> None:  # fmt: skip
    """Ask a running service about a few ROWS, or predict a whole file without a service.

    `predict MODEL ROWS` sends ROWS (a JSON or CSV file, `-` for standard input as JSON) to the service of an
    environment and prints what MODEL answers.

    `predict MODEL --input big.parquet --output out.parquet` predicts every row of a file on all cores. Parquet, Arrow
    IPC, CSV and JSON lines are read and written by suffix; the file may be larger than memory. Run again after a kill,
    it goes on where it was.
    """
    batch = {"--output": output, "--version": version, "--workers": workers, "--batch-rows": batch_rows,
             "--columns": columns, "--dry-run": dry_run or None}  # fmt: skip
    if (rows is None) == (source is None):
        raise click.UsageError("Give ROWS to ask a service, or --input and --output to predict a file.", ctx)
    if rows is not None:
        used = [name for name, value in batch.items() if value is not None]
        if used:
            raise click.UsageError(f"{used[0]} goes with --input, and not with ROWS.", ctx)
        _ask(ctx, model, rows, environment or "production", as_json)
        return
    if source is None or output is None:
        raise click.UsageError("--input needs --output.", ctx)
    if version is not None and environment is not None:
        raise click.UsageError("--version and --env name a version each; give one.", ctx)
    prediction = rooms.FilePrediction(
        yard_of(ctx), model, input=source, output=output, version=version, environment=environment or "production",
        workers=workers, batch_rows=batch_rows,
        columns=tuple(name for name in (columns or "").split(",") if name),
    )  # fmt: skip
    if dry_run:
        _print_plan(prediction.plan(), as_json)
        return
    with open_bar(quiet=quiet or as_json) as bar:
        done = prediction.run(lambda progress: _show(bar, progress))
    if as_json:
        print_json(done)
        return
    speed = f", {done.rows / done.seconds:,.0f} rows/s" if done.rows else ""
    click.echo(f"{count(done.rows, 'row')} by {prediction.spec.model} in {span(done.seconds)}{speed}: {done.output}")


def _show(bar: Bar, progress: BatchProgress) -> None:
    if progress.note:
        bar.note(progress.note)
    elif progress.phase == "predict":
        bar.show("predict", progress.done, progress.total, count(progress.rows, "row"))
    else:
        bar.show("write", progress.done, progress.total, "")


def _print_plan(plan: BatchPlan, as_json: bool) -> None:
    if as_json:
        print_json(plan)
        return
    click.echo(f"{count(plan.rows, 'row')} in {count(plan.parts, 'part')} of up to {plan.batch_rows:,}")
    click.echo(f"model: {plan.model}")
    click.echo(f"columns of the output: {', '.join(plan.columns)}")
    if plan.finished:
        click.echo(f"{count(plan.finished, 'part')} of an earlier attempt will be used")


def _ask(ctx: click.Context, model: str, rows: Path, environment: str, as_json: bool) -> None:
    running = yard_of(ctx).services
    body = sys.stdin.buffer.read() if str(rows) == "-" else rows.read_bytes()
    media = "text/csv" if rows.suffix.lower() == ".csv" else "application/json"
    answer = running.predict(environment, model, body, media)
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
