"""`services`, `swap`, `unload`, `canary`, `shadow`, `label`: a running service, and what is done to it by hand."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from modelyard.cli.complete import models, services, versions
from modelyard.cli.output import json_option, print_json, table, yard_of
from modelyard.text import count
from modelyard.yard import rooms

if TYPE_CHECKING:
    from modelyard.serving.asking import GenerationStatus, Routed, ShareStatus, SlotStatus
    from modelyard.yard.swapping import LabelPlan, Overview, SharePlan, Swapping, SwapPlan

__all__ = ["commands", "roll_back_service"]

MILLION = 1_000_000
LOOK_SECONDS = 1.0

env_option = click.option(
    "--env", "environment", required=True, metavar="ENVIRONMENT", shell_complete=services, help="Whose service."
)
dry_option = click.option("--dry-run", is_flag=True, help="Say what would come of it, and do nothing.")
model_argument = click.argument("model", shell_complete=models)
version_argument = click.argument("version", required=False, metavar="[vX.Y.Z]", shell_complete=versions)


def _ppm(_ctx: click.Context, _parameter: click.Parameter, value: str | None) -> int | None:
    """Return the parts per million of a share such as `5%` or `0.05`."""
    if value is None:
        return None
    text = value.strip()
    try:
        share = float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        share = -1.0
    # Whether a bare 1 is one percent or all of them, nobody should have to guess.
    if not 0.0 <= share <= 1.0 or (not text.endswith("%") and "." not in text and share != 0.0):
        raise click.BadParameter(f"{value!r} is no share. Write 5% or 0.05.")
    return round(share * MILLION)


@click.command("services")
@click.argument("environment", required=False, shell_complete=services)
@click.option("--watch", is_flag=True, help="Show it again each second, until Ctrl-C; with --json a line each time.")
@json_option
@click.pass_context
def services_command(ctx: click.Context, environment: str | None, watch: bool, as_json: bool) -> None:
    """Show what runs: each service's models, canaries, shadows and labels, and what stands in the way."""
    swapping = _swapping(ctx)
    while True:
        found = swapping.overview(environment)
        if watch and not as_json and sys.stdout.isatty():
            click.clear()
        if as_json:
            print_json(found, lines=watch)
        else:
            _print_overviews(found)
        if not watch:
            return
        sys.stdout.flush()
        time.sleep(LOOK_SECONDS)


@click.command()
@model_argument
@version_argument
@env_option
@dry_option
@json_option
@click.pass_context
def swap(ctx: click.Context, model: str, version: str | None, environment: str, dry_run: bool, as_json: bool) -> None:
    """Serve an approved version of MODEL (default: the newest) in a service that follows no releases.

    It is loaded beside the one that answers, which goes on answering where anything is wrong with it.
    """
    swapping = _swapping(ctx)
    if dry_run:
        _print_plan(swapping.plan_swap(environment, model, version), as_json)
        return
    swapped = swapping.client(environment).load(model, version)
    if as_json:
        print_json(swapped)
        return
    what = f"{model} {swapped.version}, generation {swapped.generation}, answers in {environment}"
    click.echo(what if swapped.changed else f"{what} already")


@click.command()
@model_argument
@env_option
@dry_option
@json_option
@click.pass_context
def unload(ctx: click.Context, model: str, environment: str, dry_run: bool, as_json: bool) -> None:
    """Serve MODEL no more in a service that follows no releases."""
    swapping = _swapping(ctx)
    if dry_run:
        _print_plan(swapping.plan_unload(environment, model), as_json)
        return
    swapping.client(environment).unload(model)
    if as_json:
        print_json({"environment": environment, "model": model, "unloaded": True})
    else:
        click.echo(f"{model} is served no more in {environment}")


@click.command()
@model_argument
@version_argument
@env_option
@click.option(
    "--share",
    metavar="SHARE",
    callback=_ppm,
    help="Of the requests: 5% or 0.05. Alone, it changes the canary that runs.",
)
@click.option("--promote", is_flag=True, help="Let it answer everything.")
@click.option("--end", is_flag=True, help="Let the stable version answer everything again.")
@dry_option
@json_option
@click.pass_context
def canary(
    ctx: click.Context, model: str, version: str | None, environment: str, share: int | None, promote: bool, end: bool,
    dry_run: bool, as_json: bool,
) -> None:  # fmt: skip
    """Let a version of MODEL answer a share of the requests; then change the share, promote it or end it.

    A client that is known by a key or by `x-routing-key` always gets the same of both versions. A canary that passes
    the service's limits is ended by the service itself, and `modelyard services` says why.
    """
    if sum((share is not None, promote, end)) != 1 or (version is not None and share is None):
        raise click.UsageError("Give one of --share, --promote and --end; a version goes with --share.", ctx)
    swapping = _swapping(ctx)
    if dry_run:
        if promote:
            _print_plan(swapping.plan_promotion(environment, model), as_json)
        elif end:
            _print_share(swapping.plan_end(environment, model, "canary"), as_json)
        else:
            _print_share(swapping.plan_share(environment, model, "canary", version, share or 0), as_json)
        return
    client = swapping.client(environment)
    if promote:
        swapped = client.promote(model)
        if as_json:
            print_json(swapped)
        else:
            click.echo(f"{model} {swapped.version}, generation {swapped.generation}, answers in {environment}")
        return
    if end:
        routed = client.end_canary(model)
    elif version is None:
        routed = client.share(model, share or 0)
    else:
        routed = client.canary(model, version, ppm=share or 0)
    _print_slot(swapping, routed, environment, model, as_json)


@click.command()
@model_argument
@version_argument
@env_option
@click.option("--share", metavar="SHARE", callback=_ppm, help="Of the requests that it sees: 5% or 0.05.")
@click.option("--end", is_flag=True, help="Show it nothing more.")
@dry_option
@json_option
@click.pass_context
def shadow(
    ctx: click.Context, model: str, version: str | None, environment: str, share: int | None, end: bool,
    dry_run: bool, as_json: bool,
) -> None:  # fmt: skip
    """Show a version of MODEL a share of the requests after they were answered, and count where it would differ."""
    if (share is None) == (not end) or (version is None) == (not end):
        raise click.UsageError("Give a version and --share, or --end.", ctx)
    swapping = _swapping(ctx)
    if dry_run:
        plan = (
            swapping.plan_end(environment, model, "shadow")
            if version is None
            else swapping.plan_share(environment, model, "shadow", version, share or 0)
        )
        _print_share(plan, as_json)
        return
    client = swapping.client(environment)
    routed = client.end_shadow(model) if version is None else client.shadow(model, version, ppm=share or 0)
    _print_slot(swapping, routed, environment, model, as_json)


@click.command()
@model_argument
@click.argument("label", metavar="LABEL")
@version_argument
@env_option
@click.option("--remove", is_flag=True, help="Take the label away.")
@dry_option
@json_option
@click.pass_context
def label(
    ctx: click.Context, model: str, label: str, version: str | None, environment: str, remove: bool, dry_run: bool,
    as_json: bool,
) -> None:  # fmt: skip
    """Give LABEL to a version of MODEL that is loaded; `/v1/models/MODEL/labels/LABEL/predict` asks it from then on."""
    if (version is None) != remove:
        raise click.UsageError("Give a version, or --remove.", ctx)
    swapping = _swapping(ctx)
    if dry_run:
        _print_label(swapping.plan_label(environment, model, label, version), as_json)
        return
    _print_slot(swapping, swapping.client(environment).label(model, label, version), environment, model, as_json)


def roll_back_service(ctx: click.Context, model: str, environment: str, *, dry_run: bool, as_json: bool) -> None:
    """Have a running service serve the version before again, and record nothing in Git."""
    swapping = _swapping(ctx)
    if dry_run:
        _print_plan(swapping.plan_rollback(environment, model), as_json)
        return
    swapped = swapping.client(environment).rollback(model)
    if as_json:
        print_json(swapped)
        return
    click.echo(f"{model} {swapped.version}, generation {swapped.generation}, answers in {environment}")
    click.echo("What is released stays as it was; the service leaves this model alone until something else is.")


def _swapping(ctx: click.Context) -> Swapping:
    return rooms.Swapping(yard_of(ctx))


def _print_plan(plan: SwapPlan, as_json: bool) -> None:
    if as_json:
        print_json(plan)
        return
    now = plan.now or "nothing"
    if plan.then is None:
        click.echo(f"{plan.model} would be served no more in {plan.environment}; now: {now}")
    else:
        click.echo(f"{plan.model} {plan.then} would answer in {plan.environment}, {_load(plan.load)}; now: {now}")


def _print_share(plan: SharePlan, as_json: bool) -> None:
    if as_json:
        print_json(plan)
        return
    now = f"{plan.now} {_percent(plan.now_ppm)}" if plan.now else f"no {plan.role}"
    if plan.then is None:
        click.echo(f"{plan.model} would have no {plan.role} in {plan.environment}; now: {now}")
        return
    does = "answer" if plan.role == "canary" else "be shown"
    what = f"{plan.model} {plan.then} would {does} {_percent(plan.then_ppm)} of the requests in {plan.environment}"
    click.echo(f"{what}, {_load(plan.load)}; now: {now}")


def _print_label(plan: LabelPlan, as_json: bool) -> None:
    if as_json:
        print_json(plan)
        return
    now, then = plan.now or "nothing", plan.then or "nothing"
    click.echo(f"The label {plan.label} of {plan.model} would name {then} in {plan.environment}; now: {now}")


def _load(load: bool) -> str:
    return "after a load" if load else "without a load"


def _print_slot(swapping: Swapping, routed: Routed, environment: str, model: str, as_json: bool) -> None:
    if as_json:
        print_json(routed)
        return
    (found,) = swapping.overview(environment)
    _print_overviews([found], model)


def _print_overviews(found: Sequence[Overview], model: str | None = None) -> None:
    headings = ("environment", "state", "url", "grpc", "workers", "model", "version", "generation", "canary", "shadow",
                "labels", "note")  # fmt: skip
    rows = [row for one in found for row in _rows(one) if model is None or row[5] == model]
    # A column in which nothing ever stands would only push the others off the terminal.
    kept = [column for column in range(len(headings)) if any(row[column] != "-" for row in rows)]
    table(
        [headings[column] for column in kept], [[row[column] for column in kept] for row in rows],
        empty="No service was started yet: modelyard up",
    )  # fmt: skip


def _rows(one: Overview) -> list[tuple[str, ...]]:
    status = one.status
    workers = str(len(status.workers)) if status else "-"
    head = (one.environment, one.state, one.url or "-", one.grpc or "-", workers)
    if status is None or not status.slots:
        failure = status.failure.what if status and status.failure else "-"
        return [(*head, *["-"] * 6, failure)]
    return [(*head, name, *_slot_cells(slot)) for name, slot in status.slots.items()]


def _slot_cells(slot: SlotStatus) -> tuple[str, ...]:
    names = {generation.number: generation.version for generation in _generations(slot)}
    labels = ", ".join(
        f"{label}={names.get(number, f'generation {number}')}"
        for label, number in slot.labels.items()
        if label not in ("stable", "canary")
    )
    current = slot.current
    return (
        current.version if current else "-", str(current.number) if current else "-", _canary(slot.canary),
        _shadow(slot.shadow), labels or "-", _note(slot),
    )  # fmt: skip


def _generations(slot: SlotStatus) -> list[GenerationStatus]:
    shares = [share.generation for share in (slot.canary, slot.shadow) if share is not None]
    return [one for one in (slot.current, slot.previous, *shares) if one is not None]


def _canary(share: ShareStatus | None) -> str:
    if share is None:
        return "-"
    seen = share.observation
    return f"{share.generation.version} {_percent(share.ppm)}: {count(seen.requests, 'request')}, {seen.errors} failed"


def _shadow(share: ShareStatus | None) -> str:
    if share is None:
        return "-"
    seen = share.observation
    return f"{share.generation.version} {_percent(share.ppm)}: {seen.differing} of {seen.compared} differ"


def _percent(ppm: int) -> str:
    return f"{ppm / 10_000:g}%"


def _note(slot: SlotStatus) -> str:
    notes = [failure.what for failure in (slot.failure, slot.following) if failure is not None]
    if slot.stopped is not None:
        notes.append(f"{slot.stopped.role} {slot.stopped.version} was stopped: {slot.stopped.reason}")
    if slot.held_off is not None:
        notes.append(f"{slot.held_off[0]} is released, and held off")
    return "; ".join(notes) or "-"


commands: dict[str, click.Command] = {
    "services": services_command, "swap": swap, "unload": unload, "canary": canary, "shadow": shadow, "label": label,
}  # fmt: skip
