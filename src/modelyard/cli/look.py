"""`why`, `logs`, `ls`, `diff`: what there is and what happened. Nothing is imported here that only runs need."""

from __future__ import annotations

import sys
import time
from typing import Any

import click

from modelyard.cli.output import json_option, print_json, table, yard_of
from modelyard.text import ago, clock, short, span

__all__ = ["commands"]


@click.command()
@click.argument("step")
@click.option("--run", "run_id", default="latest", help="Of which run (default: the latest).")
@json_option
@click.pass_context
def why(ctx: click.Context, step: str, run_id: str, as_json: bool) -> None:
    """Say why STEP ran, or why it was answered from the cache."""
    answer = yard_of(ctx).why(step, run_id)
    if as_json:
        print_json(answer)
        return
    click.echo(f"{answer.step} in run {answer.run}: {answer.state}")
    for reason in answer.reasons:
        click.echo(f"  {reason}")


@click.command()
@click.argument("run_id", metavar="RUN")
@click.argument("step")
@click.option("-f", "--follow", is_flag=True, help="Keep printing until the step ends.")
@click.pass_context
def logs(ctx: click.Context, run_id: str, step: str, follow: bool) -> None:
    """Show what STEP printed in RUN (an id, its beginning, or `latest`)."""
    yard = yard_of(ctx)
    found = yard.get(run_id)
    record = found.task(step)
    if not follow or record.state.final:
        click.echo(found.log(step), nl=False)
        return
    file, shown = found.log_file(step), 0
    while True:
        # The state is read before the log, so that nothing written before the end is missed.
        ended = yard.get(found.id).task(step).state.final
        text = file.read_bytes() if file.exists() else b""
        if len(text) > shown:
            sys.stdout.buffer.write(text[shown:])
            sys.stdout.buffer.flush()
            shown = len(text)
        if ended:
            if not shown:
                click.echo(yard.get(found.id).log(step), nl=False)
            return
        time.sleep(0.2)


@click.command()
@click.argument(
    "what", default="runs", type=click.Choice(["runs", "models", "services", "packages", "blueprints", "steps"])
)
@click.option("-n", "--limit", default=20, show_default=True, type=click.IntRange(min=1), help="Runs at most.")
@json_option
@click.pass_context
def ls(ctx: click.Context, what: str, limit: int, as_json: bool) -> None:
    """List runs (default), models, services, packages, blueprints, or the steps of the latest run."""
    headings, rows, values, empty = LISTINGS[what](ctx, limit)
    if as_json:
        print_json(values)
    else:
        table(headings, rows, empty=empty)


Listing = tuple[tuple[str, ...], list[tuple[Any, ...]], Any, str]


def _list_runs(ctx: click.Context, limit: int) -> Listing:
    found = yard_of(ctx).runs(limit=limit)
    now = time.time()
    rows = [
        (r.id, r.record.blueprint, r.state, ago(r.record.started, now),
         span(r.record.finished - r.record.started) if r.record.finished else "-",
         "  ".join(f"{name} {value:.4g}" for name, value in list(r.metrics.items())[:3]))
        for r in found
    ]  # fmt: skip
    return (
        ("run", "pipeline", "state", "started", "took", "metrics"),
        rows,
        [r.to_json() for r in found],
        ("There are no runs yet: modelyard run"),
    )


def _list_models(ctx: click.Context, _limit: int) -> Listing:
    registry = yard_of(ctx).center.state()
    rows = []
    for name, model in registry.models.items():
        live: dict[str, list[str]] = {place.version: [] for place in model.live.values()}
        for environment, place in model.live.items():
            live[place.version].append(environment)
        rows += [
            (
                name,
                f"v{v.version}",
                v.state,
                ", ".join(live.get(v.version, [])) or "-",
                clock(v.time),
                v.submitter,
                short(v.package),
            )
            for v in model.versions.values()
        ]
    headings = ("model", "version", "state", "live in", "submitted", "by", "package")
    values = [dict(zip(headings, map(str, row), strict=True)) for row in rows]
    return headings, rows, values, "No model was submitted yet: modelyard submit"


def _list_services(ctx: click.Context, _limit: int) -> Listing:
    found = yard_of(ctx).services.all()
    rows = [
        (s.environment, s.state, s.url or "-", s.grpc or "", s.pid or "-", ", ".join(s.serving) or "-",
         s.obstacle.what if s.obstacle else "")
        for s in found
    ]  # fmt: skip
    headings = (
        "environment", "state", "url", "grpc" if any(row[3] for row in rows) else "", "pid", "serving",
        "trouble" if any(row[-1] for row in rows) else "",
    )  # fmt: skip
    return headings, rows, found, "No service was started yet: modelyard up"


def _list_packages(ctx: click.Context, _limit: int) -> Listing:
    found = yard_of(ctx).packages()
    rows = [(p.model, short(p.digest), p.space) for p in found]
    return ("model", "package", "space"), rows, found, "No package was built yet: modelyard submit"


def _list_blueprints(ctx: click.Context, _limit: int) -> Listing:
    yard = yard_of(ctx)
    rows: list[tuple[Any, ...]] = [(name, path.relative_to(yard.project)) for name, path in yard.blueprints().items()]
    values = [{"pipeline": name, "file": str(path)} for name, path in rows]
    return ("pipeline", "file"), rows, values, "There is no blueprint here: modelyard init"


def _list_steps(ctx: click.Context, _limit: int) -> Listing:
    found = yard_of(ctx).get()
    rows = [
        (t.task, t.kind, t.state, span(t.finished - t.started) if t.finished else "-", t.attempts,
         ", ".join(f"{name}={short(artifact.digest)}" for name, artifact in t.outputs.items()))
        for t in found.tasks.values()
    ]  # fmt: skip
    return ("step", "kind", "state", "took", "attempts", "outputs"), rows, list(found.tasks.values()), ""


LISTINGS = {
    "runs": _list_runs,
    "models": _list_models,
    "services": _list_services,
    "packages": _list_packages,
    "blueprints": _list_blueprints,
    "steps": _list_steps,
}


@click.command()
@click.argument("first", metavar="RUN")
@click.argument("second", metavar="RUN")
@json_option
@click.pass_context
def diff(ctx: click.Context, first: str, second: str, as_json: bool) -> None:
    """Compare two runs: parameters, code, data, libraries, metrics, outputs."""
    found = yard_of(ctx).diff(first, second)
    if as_json:
        print_json(found)
        return
    rows = [(d.step, d.what, d.first, d.second) for d in found.differences]
    table(("step", "what", found.first, found.second), rows, empty=f"{found.first} and {found.second} are equal.")


commands: dict[str, click.Command] = {"why": why, "logs": logs, "ls": ls, "diff": diff}
