"""`init`, `check`, `blueprint`, `settings`, `doctor`."""

from __future__ import annotations

import json
from pathlib import Path

import click

import modelyard
from modelyard.blueprint.schema import json_schema
from modelyard.center.people import PEOPLE_FILE, parse_people
from modelyard.cli.output import json_option, print_json, table, yard_of
from modelyard.config import list_settings
from modelyard.yard.doctor import examine
from modelyard.yard.identity import PEOPLE_CHOICES
from modelyard.yard.project import find_project
from modelyard.yard.templates import TEMPLATES

__all__ = ["commands"]


@click.command()
@click.argument("folder", default=".", type=click.Path(path_type=Path, file_okay=False))
@click.option("--template", default="digits", type=click.Choice(list(TEMPLATES)), help="What to start from.")
@click.option(
    "--people",
    default="you",
    type=click.Choice(list(PEOPLE_CHOICES)),
    help="`you`: people.yaml names you; `demo`: a data scientist (dana) and a manager (morgan), with new SSH keys.",
)
def init(folder: Path, template: str, people: str) -> None:
    """Start a project in FOLDER (default: here), make it a Git repository, and commit it."""
    done = modelyard.init(folder, template=template, people=people)
    click.echo(f"Started a project in {done.project}")
    for name, path in done.blueprints().items():
        click.echo(f"  {path.relative_to(done.project)}: pipeline {name}")
    if not parse_people((done.project / PEOPLE_FILE).read_bytes()).people:
        click.echo(
            "people.yaml names nobody yet. To submit and review, let Git know your name, email and SSH key (git config "
            "user.name, user.email, user.signingkey), enter yourself there, and commit."
        )
    click.echo("Next: modelyard check, modelyard plan, modelyard run")


@click.command()
@click.argument("blueprints", nargs=-1)
@json_option
@click.pass_context
def check(ctx: click.Context, blueprints: tuple[str, ...], as_json: bool) -> None:
    """Say everything that is wrong in BLUEPRINTS (default: all of the project).

    A file that a blueprint names and that is not there is wrong too, unless a step before may make it. What a URL names
    is not looked for.
    """
    yard = yard_of(ctx)
    found = yard.check(blueprints)
    if as_json:
        print_json({file: {"pipeline": b.pipeline.name, "steps": len(b.pipeline.steps)} for file, b in found.items()})
        return
    for file, good in found.items():
        click.echo(f"{file}: pipeline {good.pipeline.name}, {len(good.pipeline.steps)} steps: all right")


@click.group()
def blueprint() -> None:
    """Schema and description of blueprints."""


@blueprint.command()
def schema() -> None:
    """Print the JSON Schema; editors complete and check from it."""
    click.echo(json.dumps(json_schema(), indent=2))


@click.command()
@json_option
@click.pass_context
def doctor(ctx: click.Context, as_json: bool) -> None:
    """Look for what is missing on this machine or broken in this project; exit code 2 where something is."""
    findings = examine(Path(ctx.find_root().obj["project"]))
    if as_json:
        print_json(findings)
    else:
        marks = {"ok": "ok", "note": "note", "wrong": "WRONG"}
        table(
            ("", "what", "found", "remedy"), [(marks[f.level], f.what, f.found, f.remedy) for f in findings], empty=""
        )
    if any(finding.level == "wrong" for finding in findings):
        ctx.exit(2)


@click.command()
@json_option
@click.pass_context
def settings(ctx: click.Context, as_json: bool) -> None:
    """List all settings: the value of each, where it comes from, and what it is for."""
    found = list_settings(find_project(Path(ctx.find_root().obj["project"])))
    if as_json:
        print_json(found)
        return
    rows = [(one.name, "-" if one.value is None else one.value, one.source, one.description) for one in found]
    table(("setting", "value", "from", "what it is for"), rows, empty="")


commands: dict[str, click.Command] = {
    "init": init, "check": check, "blueprint": blueprint, "settings": settings, "doctor": doctor,
}  # fmt: skip
