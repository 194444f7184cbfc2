"""Writes `docs/reference/cli.md` from the commands themselves, so that the page can't be out of date."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from modelyard.blueprint.paths import listed
from modelyard.cli import COMMANDS, root
from modelyard.files import write_atomically

__all__ = ["render"]

HEAD = """\
# Command line

<!-- Written by `make docs` from the commands; a test compares the two. Edit the commands instead. -->

`modelyard COMMAND --help` shows the same. Every listing takes `--json`. Global options stand before the command:
`-C FOLDER` names the project, `--debug` shows tracebacks. Exit codes, and errors as JSON: [errors](errors.md).

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
        lines += ["| option | takes | default | what it does |", "|---|---|---|---|", *map(_row, options), ""]
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            lines.append(_section(f"{path} {name}", inner, context).replace("## ", "### ", 1))
    return "\n".join(lines)


def _row(option: click.Option) -> str:
    names = ", ".join(f"`{word}`" for word in sorted((*option.opts, *option.secondary_opts), key=len))
    cells = (names, _takes(option), _default(option), option.help or "")
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def _takes(option: click.Option) -> str:
    """Say what may stand behind an option; a flag takes nothing."""
    if option.is_flag:
        return ""
    kind = option.type
    if isinstance(kind, click.Choice):
        taken = listed((f"`{choice}`" for choice in kind.choices), "or")
    elif option.metavar is not None:
        taken = f"`{option.metavar}`"
    elif isinstance(kind, click.IntRange):
        taken = f"whole number, {_range(kind)}"
    elif isinstance(kind, click.Path):
        taken = "folder" if not kind.file_okay else "file" if not kind.dir_okay else "path"
    else:
        taken = {"integer": "whole number", "float": "number"}.get(kind.name, "text")
    return f"{taken}; again for more" if option.multiple else taken


def _range(kind: click.IntRange) -> str:
    if kind.max is None:
        return f"at least {kind.min}"
    return f"{kind.min} to {kind.max}" if kind.min is not None else f"at most {kind.max}"


def _default(option: click.Option) -> str:
    if option.required:
        return "required"
    # What is left out otherwise, its help says in words.
    given = isinstance(option.default, str | int | float) and option.default != "" and not option.is_flag
    return f"`{option.default}`" if given else ""


if __name__ == "__main__":
    write_atomically(Path(sys.argv[1]), render().encode())
