"""People for a new project: SSH keys made by ssh-keygen, and the `people.yaml` that names them."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from modelyard.center.people import PEOPLE_FILE, Person, parse_people, render_people
from modelyard.center.signatures import parse_public_key
from modelyard.center.tags import Actor
from modelyard.errors import InputError, MissingExtraError
from modelyard.files import storage_errors, write_atomically

__all__ = ["Newcomer", "init_people", "make_key"]


@dataclass(frozen=True, slots=True)
class Newcomer:
    """Somebody who gets a key and a place in `people.yaml`."""

    name: str
    email: str
    roles: tuple[str, ...]


def make_key(path: Path, comment: str) -> str:
    """Make an ed25519 key pair without a passphrase, for demos and tests, and return the public line.

    Args:
        path: Of the private key; the public one lies beside it with `.pub`. An existing pair is kept.
        comment: What the public line ends with.

    Raises:
        MissingExtraError: ssh-keygen is not installed.
        InputError: ssh-keygen could not make it.
    """
    public = path.with_name(f"{path.name}.pub")
    if not (path.exists() and public.exists()):
        with storage_errors(path.parent):
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        command = ("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(path))
        try:
            done = subprocess.run(command, capture_output=True, check=False, stdin=subprocess.DEVNULL)
        except FileNotFoundError as error:
            remedy = "Install OpenSSH's client, such as with: apt install openssh-client"
            raise MissingExtraError("ssh-keygen is not on the PATH.", remedy=remedy) from error
        if done.returncode != 0:
            said = done.stderr.decode(errors="replace").strip()
            raise InputError(f"ssh-keygen made no key: {said}", where=str(path), remedy="Name another place.")
    return public.read_text(encoding="utf-8").strip()


def init_people(folder: Path, newcomers: Sequence[Newcomer], keys: Path) -> dict[str, Actor]:
    """Give each newcomer a key, and write `people.yaml`; it counts once it is committed.

    Args:
        folder: The project folder.
        newcomers: Who is to be in it.
        keys: Folder for the private keys, each named as its owner; keep it out of Git. Existing keys are used again.

    Returns:
        Whom to act as, by email.

    Raises:
        InputError: A newcomer's name, email or role is wrong, or `people.yaml` exists.
        StorageError: A folder can't be written.
    """
    target = folder / PEOPLE_FILE
    if target.exists():
        raise InputError(f"There is a {PEOPLE_FILE} already.", where=str(target), remedy="Add people to it by hand.")
    people, actors = [], {}
    for newcomer in newcomers:
        path = keys / newcomer.name.replace("/", "_")
        line = make_key(path, newcomer.email)
        fingerprint = parse_public_key(line).fingerprint
        people.append(Person(newcomer.name, newcomer.email, newcomer.roles, (line,), (fingerprint,)))
        actors[newcomer.email] = Actor(newcomer.name, newcomer.email, path.absolute())
    text = render_people(people).encode()
    parse_people(text, str(target))
    write_atomically(target, text)
    return actors
