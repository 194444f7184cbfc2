"""`submit`, `review`, `approve`, `reject`, `release`, `rollback`, `lift`, `show`."""

from __future__ import annotations

from typing import Any, Literal

import click
import msgspec

from modelyard.center.registry import Live, VersionState
from modelyard.cli.complete import environments, models, services, versions
from modelyard.cli.output import json_option, print_json, table, yard_of
from modelyard.cli.swapping import roll_back_service
from modelyard.text import clock, count, short
from modelyard.yard import Yard

__all__ = ["commands"]

as_option = click.option("--as", "identity", metavar="PERSON", help="Who acts: a name or email in people.yaml.")
reason_option = click.option("-m", "--reason", default="", help="Why, for the record.")
version_option = click.option(
    "--version", "version", metavar="vX.Y.Z", shell_complete=versions, help="Default: the newest."
)
dry_option = click.option("--dry-run", is_flag=True, help="Say what would go live or why it may not, and do nothing.")


@click.command()
@click.argument("run", default="latest")
@as_option
@reason_option
@json_option
@click.pass_context
def submit(ctx: click.Context, run: str, identity: str | None, reason: str, as_json: bool) -> None:
    """Pack the model of RUN (an id, `latest`, or a pipeline's name) and submit it for review."""
    version = yard_of(ctx).submit(run, reason=reason, identity=identity)
    if as_json:
        print_json(_named(version))
        return
    click.echo(f"Submitted {version.model} v{version.version} by {version.submitter}; package {short(version.package)}")
    click.echo(f"Next: modelyard review {version.model}")


@click.command()
@click.argument("model", required=False, shell_complete=models)
@version_option
@json_option
@click.pass_context
def review(ctx: click.Context, model: str | None, version: str | None, as_json: bool) -> None:
    """Show the evidence of a version of MODEL: metrics beside the live version's, contract, plots, decisions."""
    found = yard_of(ctx).review(model, version)
    if as_json:
        print_json(found)
        return
    v = found.version
    click.echo(f"{v.model} v{v.version}: {v.state}, submitted by {v.submitter} at {clock(v.time)}")
    click.echo(f"  run {v.run}, package {short(v.package)}, blueprint {short(v.registration.blueprint)}")
    for decision in (*v.approvals, *v.rejections):
        click.echo(
            f"  {decision.tag.split('#')[1]} by {decision.by} at {clock(decision.time)}: {decision.reason or '-'}"
        )
    click.echo("")
    live = f"live v{found.live_version}" if found.live_version else "live: none"
    rows = [
        (name, f"{value:.6g}", f"{found.live[name]:.6g}" if name in found.live else "-")
        for name, value in found.metrics.items()
    ]
    table(("metric", f"v{v.version}", live), rows, empty="no metrics")
    click.echo("")
    changed = " (changed)" if found.changed else ""
    for side, fields in found.contract.items():
        click.echo(f"{side}{changed}: " + ", ".join(f"{name} {kind}" for name, kind in fields.items()))
    click.echo(f"evidence in {found.folder / 'evidence'}:")
    for path in found.files:
        click.echo(f"  {path.relative_to(found.folder / 'evidence')}")


def _named(version: VersionState) -> dict[str, Any]:
    """Return a version as JSON values that begin with its name, for scripts."""
    values: dict[str, Any] = msgspec.to_builtins(version)
    return {"model": version.model, "version": f"v{version.version}", **values}


def _print_version(version: VersionState, as_json: bool) -> None:
    if as_json:
        print_json(_named(version))
    else:
        approvals = count(len(version.approvals), "approval")
        click.echo(f"{version.model} v{version.version} is {version.state} ({approvals})")


def _decision(name: Literal["approve", "reject"], told: str) -> click.Command:
    """Return the command that takes a decision on a version; `told` is its help."""

    @click.command(name, help=told)
    @click.argument("model", shell_complete=models)
    @version_option
    @as_option
    @reason_option
    @json_option
    @click.pass_context
    def decide(
        ctx: click.Context, model: str, version: str | None, identity: str | None, reason: str, as_json: bool
    ) -> None:
        yard = yard_of(ctx)
        take = yard.approve if name == "approve" else yard.reject
        _print_version(take(model, version, reason=reason, identity=identity), as_json)

    return decide


def _print_live(live: Live, model: str, as_json: bool, verb: str) -> None:
    if as_json:
        print_json({"model": model, **msgspec.to_builtins(live), "version": f"v{live.version}"})
    else:
        click.echo(f"{verb} {model} v{live.version} in {live.environment} (tag {live.tag})")


def _print_would(yard: Yard, model: str, environment: str, version: str, verb: str, as_json: bool) -> None:
    here = yard.center.state().model(model).live.get(environment)
    now = f"v{here.version}" if here else None
    if as_json:
        print_json({"model": model, "environment": environment, "live": now, "would_be_live": f"v{version}"})
    else:
        click.echo(f"{model} v{version} {verb} {environment}; live now: {now or 'nothing'}")


@click.command()
@click.argument("model", shell_complete=models)
@click.option(
    "--to", "environment", required=True, metavar="ENVIRONMENT", shell_complete=environments, help="Where to."
)
@click.option(
    "--version",
    "version",
    metavar="vX.Y.Z",
    shell_complete=versions,
    help="Default: what the environment before it has.",
)
@as_option
@reason_option
@dry_option
@json_option
@click.pass_context
def release(
    ctx: click.Context, model: str, environment: str, version: str | None, identity: str | None, reason: str,
    dry_run: bool, as_json: bool,
) -> None:  # fmt: skip
    """Release an approved version of MODEL to an environment."""
    yard = yard_of(ctx)
    if dry_run:
        next_version = yard.may_release(model, environment, version, identity=identity)
        _print_would(yard, model, environment, next_version, "would go live in", as_json)
        return
    _print_live(yard.release(model, environment, version, reason=reason, identity=identity), model, as_json, "Released")


@click.command()
@click.argument("model", shell_complete=models)
@click.option("--env", "environment", required=True, metavar="ENVIRONMENT", shell_complete=services, help="Where.")
@click.option(
    "--to", "version", metavar="vX.Y.Z", shell_complete=versions, help="Default: the version that was live before."
)
@as_option
@click.option("-m", "--reason", help="Why, for the record; required but with --service-only or --dry-run.")
@click.option("--service-only", is_flag=True, help="Change the running service alone, and nothing in Git.")
@dry_option
@json_option
@click.pass_context
def rollback(
    ctx: click.Context, model: str, environment: str, version: str | None, identity: str | None, reason: str | None,
    service_only: bool, dry_run: bool, as_json: bool,
) -> None:  # fmt: skip
    """Bring an earlier version of MODEL back at once, and hold the environment until `lift`.

    The rollback is recorded and signed, and services follow it. With --service-only the running service goes back to
    the version it served before, in milliseconds and without Git: for whoever may not roll back, or has no time to. It
    leaves that model alone then, until something else is released.
    """
    if service_only:
        if version is not None or identity is not None or reason is not None:
            raise click.UsageError("--service-only takes none of --to, --as and --reason: it records nothing.", ctx)
        roll_back_service(ctx, model, environment, dry_run=dry_run, as_json=as_json)
        return
    yard = yard_of(ctx)
    if dry_run:
        earlier = yard.may_roll_back(model, environment, version, identity=identity)
        _print_would(yard, model, environment, earlier, "would go live again in", as_json)
        return
    if not reason:
        raise click.UsageError("Missing option '-m' / '--reason'.", ctx)
    live = yard.rollback(model, environment, version, reason=reason, identity=identity)
    _print_live(live, model, as_json, "Rolled back to")
    if not as_json:
        click.echo(f"{environment} is held: modelyard lift {model} --env {environment}")


@click.command()
@click.argument("model", shell_complete=models)
@click.option("--env", "environment", required=True, metavar="ENVIRONMENT", shell_complete=environments, help="Where.")
@as_option
@click.option("-m", "--reason", required=True, help="Why, for the record.")
@json_option
@click.pass_context
def lift(ctx: click.Context, model: str, environment: str, identity: str | None, reason: str, as_json: bool) -> None:
    """Let an environment of MODEL take releases again."""
    _print_live(
        yard_of(ctx).lift(model, environment, reason=reason, identity=identity), model, as_json, "Hold lifted; serving"
    )


@click.command()
@click.argument("model", required=False, shell_complete=models)
@json_option
@click.pass_context
def show(ctx: click.Context, model: str | None, as_json: bool) -> None:
    """Tell the story of MODEL: who did what, when, on which data, code and package."""
    yard = yard_of(ctx)
    story = yard.show(model)
    name = model or yard.default_model()
    registry = yard.center.state()
    if as_json:
        print_json({"model": name, "story": story, "versions": registry.model(name).versions,
                    "live": registry.model(name).live, "ignored": registry.problems})  # fmt: skip
        return
    click.echo(f"{name}\n")
    for version in registry.model(name).versions.values():
        facts = version.registration
        click.echo(f"v{version.version} {version.state}: run {version.run}, package {short(version.package)}")
        click.echo(f"  blueprint {short(facts.blueprint)}, code {short(facts.code)}, commit {short(version.commit)}")
        for source, digest in facts.data.items():
            click.echo(f"  data {source.removeprefix('file:')} {digest.removeprefix('sha256:')[:12]}")
        click.echo("  " + ", ".join(f"{metric} {value:.5g}" for metric, value in version.metrics.items()))
    click.echo("")
    rows = [(clock(s.time), s.who, s.what, s.event.tag, s.event.reason or "") for s in story]
    table(("when (UTC)", "who", "what", "tag", "why"), rows, empty="Nothing happened yet.")
    for problem in registry.problems:
        if problem.model == name:
            click.echo(f"ignored: {problem}", err=True)


commands: dict[str, click.Command] = {
    "submit": submit,
    "review": review,
    "approve": _decision("approve", "Approve a version of MODEL."),
    "reject": _decision("reject", "Reject a version of MODEL for good."),
    "release": release,
    "rollback": rollback,
    "lift": lift,
    "show": show,
}
