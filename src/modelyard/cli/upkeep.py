"""`verify`, `gc`, `catalog`."""

from __future__ import annotations

import click

from modelyard.cli.output import json_option, print_json, table, yard_of
from modelyard.text import count

__all__ = ["commands"]


@click.command()
@json_option
@click.pass_context
def verify(ctx: click.Context, as_json: bool) -> None:
    """Check every stored byte against its digest; exit code 4 where something is damaged."""
    found = yard_of(ctx).verify()
    if as_json:
        print_json(found)
    else:
        rows = [(d.digest[:12], d.kind, d.where, ", ".join(d.names) or "nothing") for d in found]
        table(("object", "damage", "where", "needed by"), rows, empty="Every object matches its digest.")
        if found:
            click.echo(
                "Delete the changed files. What steps made is made again by `modelyard run`; packages (names "
                "under private/ and staging/) have to come from a copy of the store."
            )
    if found:
        ctx.exit(4)


@click.command()
@click.option("--dry-run", is_flag=True, help="Say what would be removed, and remove nothing.")
@json_option
@click.pass_context
def gc(ctx: click.Context, dry_run: bool, as_json: bool) -> None:
    """Remove stored objects that nothing refers to."""
    found = yard_of(ctx).gc(dry_run=dry_run)
    if as_json:
        print_json(found)
        return
    verb = "Would remove" if dry_run else "Removed"
    click.echo(
        f"{verb} {count(len(found.objects), 'object')}, {found.bytes / 1e6:.1f} MB; {found.kept + found.young:,} stay"
    )


@click.group()
def catalog() -> None:
    """Rebuild the catalog from Git and the store."""


@catalog.command()
@click.pass_context
def rebuild(ctx: click.Context) -> None:
    """Make the catalog anew from the run manifests in the store; versions and releases are read from Git anyway."""
    click.echo(f"Rebuilt the catalog: {count(yard_of(ctx).rebuild_catalog(), 'run')}")


commands: dict[str, click.Command] = {"verify": verify, "gc": gc, "catalog": catalog}
