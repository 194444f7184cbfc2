"""A project folder: where it is, which blueprints it holds, and how a new one begins."""

from __future__ import annotations

import getpass
import platform
import re
import secrets
import socket
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata, resources
from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from modelyard.config import SETTINGS_FILE, Settings
from modelyard.errors import InputError, NotFoundError
from modelyard.files import storage_errors, write_atomically

__all__ = [
    "as_named",
    "INTERNAL",
    "TEMPLATES",
    "Commit",
    "commit_of",
    "environment_lock",
    "find_project",
    "named_blueprints",
    "new_run_id",
    "owner_of",
    "user_name",
    "write_template",
]

INTERNAL = ".modelyard"
"""The folder in a project that holds what Modelyard keeps: store, catalog, logs, service state."""

TEMPLATES = {
    "digits": "MNIST from IDX files: a multi-layer perceptron, and a convolutional network beside it.",
    "digits-small": "scikit-learn's 1,797 digits from one NPZ file: a small perceptron; no download.",
}

_PIPELINE = re.compile(r"^pipeline\s*:", re.MULTILINE)


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
    if not here.is_dir():
        raise NotFoundError("This folder does not exist.", where=str(start))
    for folder in (here, *here.parents):
        if any((folder / name).exists() for name in (SETTINGS_FILE, INTERNAL, "blueprint.yaml")):
            return folder
    raise NotFoundError(
        "This is no Modelyard project: it has no blueprint.yaml.", where=str(here), remedy="Start one: modelyard init"
    )


def named_blueprints(project: Path) -> dict[str, Path]:
    """Return the blueprints of a project by name: YAML files in it or in `blueprints/` that have a pipeline.

    The name is the pipeline's. A file whose name can't be read is listed under its own, so that it can be named and
    its problems be told.
    """
    found: dict[str, Path] = {}
    for folder in (project, project / "blueprints"):
        for path in sorted((*folder.glob("*.yaml"), *folder.glob("*.yml"))):
            try:
                text = path.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError):
                # An unreadable file is reported when somebody names it, not when all are listed.
                continue
            if _PIPELINE.search(text):
                found.setdefault(_pipeline_name(text) or path.stem, path)
    return found


def _pipeline_name(text: str) -> str | None:
    try:
        document = YAML(typ="safe").load(text)
        name = document["pipeline"]["name"]
    except (YAMLError, KeyError, TypeError):
        return None
    return name if isinstance(name, str) else None


def as_named(path: Path) -> Path:
    """Return a file as a user would name it: from the current folder where it lies below it."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def new_run_id() -> str:
    """Return an id that sorts by time: `20260131-142501-3f9c`, in UTC."""
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


def environment_lock() -> dict[str, str]:
    """Return Python's version, the platform, and the version of every installed distribution."""
    lock = {"python": platform.python_version(), "platform": platform.platform()}
    lock.update(
        sorted((f"pip:{d.metadata['Name'].lower()}", d.version) for d in metadata.distributions() if d.metadata["Name"])
    )
    return lock


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


def write_template(folder: Path, template: str) -> list[Path]:
    """Write a template's files into a folder; a file that is there already is never overwritten.

    Returns:
        The files that were written.

    Raises:
        InputError: No template has that name, or one of its files exists with other content.
    """
    if template not in TEMPLATES:
        raise InputError(f"There is no template {template!r}.", remedy=f"The templates are {', '.join(TEMPLATES)}.")
    source = resources.files("modelyard") / "templates" / template
    content = {
        entry.name: entry.read_bytes()
        for entry in sorted(source.iterdir(), key=lambda entry: entry.name)
        if entry.is_file()
    }
    with storage_errors(folder):
        clash = [
            name for name, data in content.items() if (folder / name).exists() and (folder / name).read_bytes() != data
        ]
    if clash:
        raise InputError(
            f"{', '.join(clash)} exists already; nothing was written.",
            where=str(folder),
            remedy="Choose an empty folder, or move the file away.",
        )
    written = []
    for name, data in content.items():
        # A wheel cannot carry a file called .gitignore through every tool, so templates call it `gitignore`.
        target = folder / (".gitignore" if name == "gitignore" else name)
        if not target.exists():
            write_atomically(target, data)
            written.append(target)
    return written
