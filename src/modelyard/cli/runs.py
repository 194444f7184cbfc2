"""`plan`, `run`."""

from __future__ import annotations

from typing import Any

import click
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from modelyard.cli.output import json_option, print_json, table, yard_of
from modelyard.cli.progress import open_progress
from modelyard.errors import InputError
from modelyard.records import RunState
from modelyard.text import short, span
from modelyard.yard.run import Run

__all__ = ["commands", "parameter_option", "parse_parameters"]

parameter_option = click.option(
    "-p", "--param", "params", multiple=True, metavar="STEP.KEY=VALUE", help="Change a parameter: -p train.alpha=0.01"
)


def parse_parameters(words: tuple[str, ...]) -> dict[str, Any]:
    """Return `train.alpha=0.01` and the like as a mapping; values are read as YAML.

    Raises:
        InputError: A word has no `=`, or its value is no YAML.
    """
    found: dict[str, Any] = {}
    for word in words:
        key, sign, text = word.partition("=")
        if not sign or not key:
            raise InputError(f"{word!r} sets nothing.", where="-p", remedy="Write it as -p train.alpha=0.01")
        try:
            found[key] = YAML(typ="safe").load(text) if text else None
        except YAMLError as error:
            raise InputError(f"{text!r} is no YAML value.", where=f"-p {key}") from error
    return found


@click.command()
@click.argument("blueprint", required=False)
@parameter_option
@json_option
@click.pass_context
def plan(ctx: click.Context, blueprint: str | None, params: tuple[str, ...], as_json: bool) -> None:
    """Show the task graph of BLUEPRINT: what would run, and what is cached. Runs nothing."""
    yard = yard_of(ctx)
    overrides = parse_parameters(params)
    graph = yard.plan(blueprint, overrides)
    previews = yard.preview(blueprint, overrides)
    if as_json:
        print_json({"blueprint": graph.blueprint, "digest": graph.digest, "tasks": [
            {"id": task.id, "kind": task.kind, "call": task.call, "needs": task.needs, "outputs": task.types,
             "inputs": {port: f"{source.task}.{source.output}" for port, source in task.inputs.items()},
             "parameters": task.parameters, "target_label": task.placement.target_label,
             "state": view.state, "reasons": view.reasons,
             "fingerprint": view.fingerprint.digest if view.fingerprint else None}
            for task, view in zip(graph.tasks, previews, strict=True)
        ]})  # fmt: skip
        return
    click.echo(f"{graph.blueprint} ({short(graph.digest)}), {len(graph.tasks)} steps")
    rows = [
        (task.id, task.kind, ", ".join(task.needs) or "-", view.state, "; ".join(view.reasons))
        for task, view in zip(graph.tasks, previews, strict=True)
    ]
    table(("step", "kind", "needs", "would", "because"), rows, empty="")


@click.command()
@click.argument("blueprint", required=False)
@parameter_option
@click.option("--executor", help="inline, processes, or an installed one (default: the setting).")
@click.option("--workers", type=click.IntRange(min=1), help="Tasks side by side.")
@click.option("--resume", metavar="RUN", help="Go on from a run that was interrupted or failed.")
@click.option("--dry-run", is_flag=True, help="Show the plan and run nothing.")
@click.option("-q", "--quiet", is_flag=True, help="Print the run's id alone.")
@json_option
@click.pass_context
def run(
    ctx: click.Context, blueprint: str | None, params: tuple[str, ...], executor: str | None, workers: int | None,
    resume: str | None, dry_run: bool, quiet: bool, as_json: bool,
) -> None:  # fmt: skip
    """Run BLUEPRINT (a pipeline's name or a file; default: blueprint.yaml)."""
    if dry_run:
        ctx.invoke(plan, blueprint=blueprint, params=params, as_json=as_json)
        return
    yard = yard_of(ctx)
    overrides = parse_parameters(params)
    steps = [task.id for task in yard.plan(blueprint, overrides).tasks] if resume is None or blueprint else []
    with open_progress(steps, quiet=quiet or as_json) as progress:
        done = yard.run(
            blueprint, params=overrides or None, executor=executor, workers=workers, resume=resume,
            listeners=(progress,), check=False,
        )  # fmt: skip
    if as_json:
        print_json(done.to_json())
    elif quiet:
        click.echo(done.id)
    else:
        _print_outcome(done)
    if done.state is RunState.CANCELLED:
        ctx.exit(130)
    done.raise_for_state()


def _print_outcome(done: Run) -> None:
    took = span(done.record.finished - done.record.started)
    cached = sum(task.state == "cached" for task in done.tasks.values())
    click.echo(f"Run {done.id} {done.state} in {took}; {cached} of {len(done.tasks)} steps from the cache")
    for name, value in done.metrics.items():
        click.echo(f"  {name:<22} {value:.6g}")


commands: dict[str, click.Command] = {"plan": plan, "run": run}
