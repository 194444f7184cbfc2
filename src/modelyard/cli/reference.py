"""Writes `docs/reference/cli.md` from the commands themselves, so that the page can't be out of date."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from modelyard.cli import COMMANDS, root
from modelyard.files import write_atomically

__all__ = ["render"]

HEAD = """\
# Command line

`modelyard COMMAND --help` shows the same. Every listing takes `--json`. Global options stand before the command:
`-C FOLDER` names the project, `--debug` shows tracebacks. Exit codes: [errors](errors.md).

Completion: `modelyard completion bash` (or `zsh`, `fish`) prints the script for your shell.
"""


def render() -> str:
    """Return the page as Markdown."""
    parts = [HEAD]
    context = click.Context(root, info_name="modelyard")
    for name in COMMANDS:
        command = root.get_command(context, name)
        if command is not None:
            parts.append(_section(f"modelyard {name}", command, context))
    return "\n".join(parts)


def _section(path: str, command: click.Command, parent: click.Context) -> str:
    context = click.Context(command, info_name=path.rpartition(" ")[2], parent=parent)
    usage = " ".join(command.collect_usage_pieces(context))
    lines = [f"## {path}", "", (command.help or "").strip(), "", f"`{path} {usage}`", ""]
    options = [option for option in command.params if isinstance(option, click.Option)]
    if options:
        lines += ["| option | what it does |", "|---|---|"]
        for option in options:
            names = ", ".join(f"`{word}`" for word in sorted(option.opts, key=len))
            lines.append(f"| {names} | {(option.help or '').replace('|', '/')} |")
        lines.append("")
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            lines.append(_section(f"{path} {name}", inner, context).replace("## ", "### ", 1))
    return "\n".join(lines)


if __name__ == "__main__":
    write_atomically(Path(sys.argv[1]), render().encode())
