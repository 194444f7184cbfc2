"""A project folder: where it is, in which Git state, and whose."""

from __future__ import annotations

import getpass
import re
import secrets
import socket
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from modelyard.config import SETTINGS_FILE, Settings
from modelyard.errors import NotFoundError

__all__ = [
    "as_named",
    "INTERNAL",
    "Commit",
    "commit_of",
    "find_project",
    "new_run_id",
    "owner_of",
    "user_name",
]

INTERNAL = ".modelyard"
"""The folder in a project that holds what Modelyard keeps: store, catalog, logs, service state."""


@dataclass(frozen=True, slots=True)
class Commit:
    """The Git state a run starts from.

    Args:
        digest: Commit id, or an empty text where there is no commit or no repository.
        dirty: Whether a tracked file differs from the commit, or an untracked one is not ignored.
    """

    digest: str = ""
    dirty: bool = False


def find_project(start: Path) -> Path:
    """Return the project folder that `start` lies in.

    A project is a folder with `modelyard.toml`, `.modelyard/` or `blueprint.yaml`; parents are searched upwards.

    Raises:
        NotFoundError: There is no project here; the remedy is `modelyard init`.
    """
    here = start.resolve()
    if here.exists() and not here.is_dir():
        raise NotFoundError(
            "This is a file, and a project is a folder.", where=str(start), remedy=f"Name its folder: {start.parent}"
        )
    if not here.is_dir():
        raise NotFoundError("This folder does not exist.", where=str(start))
    for folder in (here, *here.parents):
        if any((folder / name).exists() for name in (SETTINGS_FILE, INTERNAL, "blueprint.yaml")):
            return folder
    raise NotFoundError(
        "This is no Modelyard project: it has no blueprint.yaml.", where=str(here), remedy="Start one: modelyard init"
    )


def as_named(path: Path) -> Path:
    """Return a file as a user would name it: from the current folder where it lies below it."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def new_run_id() -> str:
    """Return an id that sorts by time: `20260131-142501-3f9c`, in UTC."""
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


def commit_of(project: Path) -> Commit:
    """Return the Git state of a folder; a folder outside Git has an empty commit."""

    def git(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["git", *arguments], cwd=project, capture_output=True, text=True, check=False)

    try:
        head = git("rev-parse", "--verify", "-q", "HEAD")
        if head.returncode != 0:
            return Commit()
        return Commit(head.stdout.strip(), bool(git("status", "--porcelain").stdout.strip()))
    except FileNotFoundError:
        # Runs need no Git; the Model Center says so when it is asked for.
        return Commit()


def user_name() -> str:
    """Return who the operating system says the user is, as `name@host`."""
    try:
        return f"{getpass.getuser()}@{socket.gethostname()}"
    except (KeyError, OSError):
        return f"unknown@{socket.gethostname()}"


def owner_of(settings: Settings) -> str:
    """Return whose private space yours is: the identity setting, or the operating system's user."""
    return re.sub(r"[^\w.@-]", "-", settings.identity or user_name().partition("@")[0])
