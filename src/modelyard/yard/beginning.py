"""How a project begins: template, people, keys, Git."""

from __future__ import annotations

import subprocess
from pathlib import Path

from modelyard.center.keys import Newcomer, init_people
from modelyard.center.people import PEOPLE_FILE, Person, render_people
from modelyard.errors import InputError, MissingExtraError, StorageError
from modelyard.files import storage_errors, write_atomically
from modelyard.yard.identity import DEMO_PEOPLE, PEOPLE_CHOICES, git_person, key_folder
from modelyard.yard.templates import write_template

__all__ = ["begin"]

_NOBODY = """\
# Who may do what. Only the committed file counts.
# Roles: data_scientist (submits), manager (approves, rejects, releases), developer, operator.
#
# people:
#   - name: Ada
#     email: ada@example.org
#     roles: [data_scientist]
#     keys: ["ssh-ed25519 AAAA... ada"]
people: []
"""


def begin(folder: Path, *, template: str, people: str) -> Path:
    """Start a project: write the template, name people, make it a Git repository, commit.

    A folder inside a repository joins that one, unless it is ignored there.

    Args:
        folder: Created where it is missing.
        template: One of `TEMPLATES`.
        people: `you` takes Git's identity and key; `demo` makes two people with keys of their own.

    Returns:
        The project folder.

    Raises:
        InputError: A choice is unknown, or a file exists with other content; nothing was written.
        MissingExtraError: Git or ssh-keygen is not on this machine.
    """
    if people not in PEOPLE_CHOICES:
        raise InputError(f"There are no people {people!r}.", remedy=f"Choose {' or '.join(PEOPLE_CHOICES)}.")
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    written = write_template(folder, template)
    if not _in_repository(folder):
        _git(folder, "init", "-q", "-b", "main")
    file = folder / PEOPLE_FILE
    if not file.exists():
        if people == "demo":
            newcomers = [Newcomer(name, email, (role,)) for name, email, role in DEMO_PEOPLE]
            init_people(folder, newcomers, key_folder(folder))
        else:
            write_atomically(file, _you(folder).encode())
        written.append(file)
    if people == "demo":
        _introduce(folder)
    if written:
        paths = [str(path.relative_to(folder)) for path in written]
        _git(folder, "add", "--", *paths)
        # Whatever else is staged in a repository around the project is not ours to commit.
        message = f"Start from the template {template}"
        _git(folder, *_author(folder), "commit", "-q", "-m", message, "--", *paths)
    return folder


def _in_repository(folder: Path) -> bool:
    """Whether a repository holds the folder: its own, or one around it that does not ignore it."""
    if not _git(folder, "rev-parse", "--git-dir", check=False):
        return False
    return not _git(folder, "check-ignore", str(folder.resolve()), check=False)


def _you(folder: Path) -> str:
    name, email, key = git_person(folder)
    if not email or key is None:
        return _NOBODY
    return render_people([Person(name or email, email, ("data_scientist", "manager"), (key,), ())])


def _introduce(folder: Path) -> None:
    """Let Git know the demonstration's data scientist where it knows nobody, so that commits can be made."""
    name, email, _ = DEMO_PEOPLE[0]
    if not _git(folder, "config", "user.email", check=False):
        _git(folder, "config", "user.name", name)
        _git(folder, "config", "user.email", email)


def _author(folder: Path) -> tuple[str, ...]:
    if _git(folder, "config", "user.email", check=False):
        return ()
    return ("-c", "user.name=modelyard", "-c", "user.email=modelyard@localhost")


def _git(folder: Path, *arguments: str, check: bool = True) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise MissingExtraError("git is not on the PATH.", remedy="Install it: apt install git") from error
    if check and done.returncode != 0:
        raise StorageError(f"git {arguments[0]} failed: {done.stderr.strip()}", where=str(folder))
    return done.stdout.strip()
