"""`key`: who may ask the services of this project."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import click

from modelyard.cli.output import json_option, print_json, table, yard_of
from modelyard.errors import InputError
from modelyard.serving.auth.keys import KeyFile, KeyRecord
from modelyard.yard.access import key_file, scopes_of

__all__ = ["commands"]

_SPAN = re.compile(r"(\d{1,6})([smhdw])")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


@click.group()
def key() -> None:
    """Make, list and revoke the API keys of this project's services.

    The file is the setting `serve_keys`; running services see every change within a second.
    """


@key.command()
@click.option("--scopes", default="infer", show_default=True, help="Among infer, read, load and promote.")
@click.option("--models", default="*", show_default=True, help="Names or globs of models, between commas.")
@click.option("--expires", metavar="WHEN", help="Such as 90d, 12h or 2030-01-31 (UTC); left out: never.")
@click.option("--note", default="", help="For people: who has it, what for.")
@json_option
@click.pass_context
def add(ctx: click.Context, scopes: str, models: str, expires: str | None, note: str, as_json: bool) -> None:
    """Make a key and print it: for the only time, as no more than its digest is kept."""
    made, record = _file(ctx).add(
        scopes_of(scopes, "--scopes"),
        models=models.replace(",", " ").split(),
        expires=None if expires is None else _moment(expires),
        note=note,
    )
    if as_json:
        print_json({"key": made, **_shown(record)})
        return
    click.echo(made)
    # To the other stream, so that KEY=$(modelyard key add) holds the key alone.
    click.echo(f"Keep it: it is not shown again. `modelyard key revoke {record.id}` ends it.", err=True)


@key.command()
@json_option
@click.pass_context
def ls(ctx: click.Context, as_json: bool) -> None:
    """List the keys, without their secrets."""
    found = [_shown(record) for record in _file(ctx).all()]
    if as_json:
        print_json(found)
        return
    columns = ("id", "state", "scopes", "models", "expires", "note")
    rows = [tuple(_cell(record[column]) for column in columns) for record in found]
    table(columns, rows, empty="There are no keys. Make one with `modelyard key add`.")


@key.command()
@click.argument("identity", metavar="ID")
@json_option
@click.pass_context
def revoke(ctx: click.Context, identity: str, as_json: bool) -> None:
    """End the key of that ID; running services refuse it within a second."""
    record = _file(ctx).revoke(identity)
    if as_json:
        print_json(_shown(record))
    else:
        click.echo(f"Revoked {record.id}.")


def _file(ctx: click.Context) -> KeyFile:
    yard = yard_of(ctx)
    return key_file(yard.settings, yard.project)


def _shown(record: KeyRecord) -> dict[str, object]:
    """Return what may be shown of a key; its digest need not be."""
    return {
        "id": record.id,
        "state": record.state(datetime.now(UTC)),
        "scopes": record.scopes,
        "models": record.models,
        "created": record.created,
        "expires": record.expires,
        "revoked": record.revoked,
        "note": record.note,
    }


def _cell(value: object) -> str:
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M}"
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value or "")


def _moment(text: str) -> datetime:
    """Return the moment that a span from now or a date names."""
    span = _SPAN.fullmatch(text)
    try:
        if span is not None:
            return datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=int(span[1]) * _UNITS[span[2]])
        found = datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        raise InputError(
            f"{text!r} is no time.", where="--expires", remedy="Give a span such as 90d, or a date such as 2030-01-31."
        ) from None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


commands: dict[str, click.Command] = {"key": key}
