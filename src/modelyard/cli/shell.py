"""`completion`: the script that teaches a shell our commands."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from modelyard.cli import root

__all__ = ["commands"]


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script of a shell.

    For bash: `modelyard completion bash > ~/.local/share/bash-completion/completions/modelyard`
    """
    kind = get_completion_class(shell)
    if kind is None:  # pragma: no cover  (click knows all three)
        raise click.UsageError(f"There is no completion for {shell}.")
    click.echo(kind(root, {}, "modelyard", "_MODELYARD_COMPLETE").source())


commands = {"completion": completion}
