"""`deploy`: files that run a service in production."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from modelyard.cli.complete import environments
from modelyard.cli.output import json_option, print_json, yard_of
from modelyard.files import storage_errors, write_atomically
from modelyard.yard import rooms

__all__ = ["commands"]

Command = Callable[..., Any]


def _common(command: Command) -> Command:
    options = (
        click.option("--env", "environment", required=True, metavar="ENVIRONMENT", shell_complete=environments,
                     help="Whose service."),
        click.option("--port", required=True, type=click.IntRange(1, 65535), help="Of its HTTP interface."),
        click.option("--grpc-port", type=click.IntRange(1, 65535), help="Of gRPC (default: it is not spoken)."),
        click.option("--explicit", is_flag=True, help="For a service that follows no releases."),
        click.option("--output", type=click.Path(path_type=Path, file_okay=False),
                     help="Folder for the file (default: print it)."),
        json_option,
    )  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


@click.group()
def deploy() -> None:
    """Write the files that run a service in production.

    They are written anew from blueprints and settings each time: change those, not the files.
    """


@deploy.command()
@_common
@click.option("--workers", type=click.IntRange(min=1), help="Processes that answer (default: the setting).")
@click.option("--user", help="Whom it runs as (default: the project's owner).")
@click.option("--memory-max", metavar="SIZE", help="Memory that it may take, such as 4G (default: no bound).")
@click.pass_context
def systemd(
    ctx: click.Context, environment: str, port: int, grpc_port: int | None, explicit: bool, output: Path | None,
    as_json: bool, workers: int | None, user: str | None, memory_max: str | None,
) -> None:  # fmt: skip
    """Write a systemd unit that runs a service, restarts it, and lets it write its own state alone."""
    deployment = rooms.Deployment(
        yard_of(ctx), environment, port=port, grpc_port=grpc_port, workers=workers, explicit=explicit
    )
    _tell(output, *deployment.systemd(user=user, memory_max=memory_max), as_json)


@deploy.command()
@_common
@click.option("--server-name", required=True, metavar="HOST", help="Name that clients ask, as models.example.org.")
@click.option("--certificate", required=True, type=click.Path(path_type=Path), help="PEM file of its certificate.")
@click.option("--key", required=True, type=click.Path(path_type=Path), help="PEM file of the private key.")
@click.option("--listen", default="443", show_default=True, help="Port, or address and port as 127.0.0.1:8443.")
@click.pass_context
def nginx(
    ctx: click.Context, environment: str, port: int, grpc_port: int | None, explicit: bool, output: Path | None,
    as_json: bool, server_name: str, certificate: Path, key: Path, listen: str,
) -> None:  # fmt: skip
    """Write an nginx site that encrypts, and leads to a service on this machine; HTTP and gRPC share its port."""
    deployment = rooms.Deployment(yard_of(ctx), environment, port=port, grpc_port=grpc_port, explicit=explicit)
    _tell(output, *deployment.nginx(server_name, certificate, key, listen=listen), as_json)


def _tell(output: Path | None, name: str, text: str, as_json: bool) -> None:
    if output is not None:
        path = output / name
        with storage_errors(path):
            output.mkdir(parents=True, exist_ok=True)
            write_atomically(path, text.encode())
    if as_json:
        print_json({"name": name, "file": output / name if output else None, "text": text})
    else:
        click.echo(output / name if output else text.rstrip("\n"))


commands: dict[str, click.Command] = {"deploy": deploy}
