"""The command line: parsing and printing, with no logic of its own.

Each command lives in a module that is imported only when the command is used, so that `modelyard --help` answers
before a heavy library is touched.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import os
import select
import sys
import traceback
from collections.abc import Sequence
from typing import Any

import click
from click.shell_completion import CompletionItem

from modelyard import __version__
from modelyard.cli.errors import Reporter, drop_output
from modelyard.errors import ModelyardError

__all__ = ["COMMANDS", "main", "root"]

COMMANDS: dict[str, tuple[str, str]] = {
    "init": ("project", "Start a project in a folder."),
    "check": ("project", "Say everything that is wrong in a blueprint."),
    "blueprint": ("project", "Schema and description of blueprints."),
    "settings": ("project", "List all settings: value, where it comes from, what it is for."),
    "doctor": ("project", "Look for what is missing on this machine or broken in this project."),
    "plan": ("runs", "Show the task graph: what would run, and what is cached."),
    "run": ("runs", "Run a blueprint."),
    "why": ("look", "Say why a step ran, or why it was answered from the cache."),
    "logs": ("look", "Show what a step printed."),
    "ls": ("look", "List runs, models, services, packages or blueprints."),
    "diff": ("look", "Compare two runs."),
    "submit": ("review", "Pack a run's model and submit it for review."),
    "review": ("review", "Show the evidence of a version."),
    "approve": ("review", "Approve a version (managers)."),
    "reject": ("review", "Reject a version (managers)."),
    "release": ("review", "Release an approved version to an environment (managers)."),
    "rollback": ("review", "Bring the version before back, and hold the environment (managers)."),
    "lift": ("review", "Lift the hold that a rollback left (managers)."),
    "show": ("review", "Tell the story of a model: who did what, when, on what."),
    "up": ("services", "Serve what is released to each environment."),
    "down": ("services", "Stop the services."),
    "serve": ("services", "Serve one environment in the foreground."),
    "services": ("swapping", "Show what runs: models, canaries, shadows, labels, and what stands in the way."),
    "swap": ("swapping", "Serve a version in a service that follows no releases."),
    "unload": ("swapping", "Serve a model no more in such a service."),
    "canary": ("swapping", "Let a version answer a share of a service's requests."),
    "shadow": ("swapping", "Show a version a share of the requests, and count where it would differ."),
    "label": ("swapping", "Give a label to a version that a service holds."),
    "predict": ("services", "Ask a running service, or predict a whole file."),
    "deploy": ("deploy", "Write a systemd unit or an nginx site for a service."),
    "key": ("keys", "Make, list and revoke API keys of services."),
    "verify": ("upkeep", "Check every stored byte against its digest."),
    "gc": ("upkeep", "Remove stored objects that nothing refers to."),
    "catalog": ("upkeep", "Rebuild the catalog from Git and the store."),
    "completion": ("shell", "Print the shell completion script."),
    "demo": ("demo", "Run the whole loop on MNIST, from a blueprint to a hot-swapped service."),
    "task": ("task", "Execute one task from its JSON call (what executors start)."),
}
"""Command to the module that holds it and its one-line help."""

HIDDEN = {"task"}


class LazyGroup(click.Group):
    """A group that knows its commands' names and one-line helps, and imports a command's module when it is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  (the signature is click's)
        """Return the commands in the order of the work, not of the alphabet."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002  (as above)
        """Import the module that holds a command, and return the command."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"modelyard.cli.{COMMANDS[cmd_name][0]}")
        command: click.Command = module.commands[cmd_name]
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002  (as above)
        """Write the list of commands without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items() if name not in HIDDEN])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete a command's name without importing any."""
        if incomplete.startswith("-"):
            return super().shell_complete(ctx, incomplete)
        return [
            CompletionItem(name, help=text)
            for name, (_, text) in COMMANDS.items()
            if name.startswith(incomplete) and name not in HIDDEN
        ]

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; a reader of our output who has gone is no failure."""
        try:
            value = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError as error:
            if not _reader_left():
                raise ConnectionError(str(error)) from error  # click would leave with 1 and say nothing
            drop_output()
            raise click.exceptions.Exit(0) from error
        return value

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; a misspelt one is answered with the nearest."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            import difflib  # noqa: PLC0415  (only a misspelt command pays for it)

            near = difflib.get_close_matches(args[0], COMMANDS, n=1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise click.UsageError(f"There is no command {args[0]!r}.{hint}", ctx)
        return super().resolve_command(ctx, args)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="modelyard")
@click.option("-C", "--project", default=".", metavar="FOLDER", help="Project folder (default: here).")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.pass_context
def root(ctx: click.Context, project: str, debug: bool) -> None:
    """From one declarative blueprint to a reviewed, released, hot-swappable machine-learning service.

    Exit codes: 0 done, 1 internal error, 2 wrong input, 3 refused by a rule or a role, 4 damaged bytes, 5 busy,
    6 storage, 7 a run failed, 130 interrupted.
    """
    ctx.obj = {"project": project, "debug": debug}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code.

    Args:
        arguments: Without the program's name; left out: those of this process.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words or bool(os.environ.get("MODELYARD_DEBUG"))
    report = Reporter(words)
    _open_missing_streams()
    # At its end the interpreter would look through every object for cycles, a third of a second once PyTorch is loaded.
    atexit.register(gc.freeze)
    try:
        # Outside its standalone mode click returns the code that a command left with.
        code = root.main(args=words, prog_name="modelyard", standalone_mode=False) or 0
    except click.exceptions.Exit as leave:
        code = leave.exit_code
    except click.ClickException as error:
        code = report.usage(error)
    except (KeyboardInterrupt, click.Abort):
        code = report.interrupted()
    except ModelyardError as error:
        if debug:
            traceback.print_exc()
        code = report.known(error)
    except Exception as error:
        if debug:
            traceback.print_exc()
        code = report.unforeseen(error)
    sys.exit(code)


def _open_missing_streams() -> None:
    """Put the null device where a stream was closed (`>&-`), so that what is printed has somewhere to go."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            mode = "r" if name == "stdin" else "w"
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115, PTH123  (it stays open)


def _reader_left() -> bool:
    """Whether nobody reads standard output any more (`| head`)."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
