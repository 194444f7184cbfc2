"""Who acts: from the settings, Git's configuration, or a name in `people.yaml`."""

from __future__ import annotations

import subprocess
from pathlib import Path

from modelyard.center.center import Actor
from modelyard.center.center import actor_of as actor_from_git
from modelyard.center.people import PEOPLE_FILE, parse_people
from modelyard.config import Settings
from modelyard.yard.project import INTERNAL

__all__ = ["DEMO_PEOPLE", "PEOPLE_CHOICES", "actor_of", "git_person", "key_folder"]

PEOPLE_CHOICES = ("you", "demo")

DEMO_PEOPLE = (("dana", "dana@example.org", "data_scientist"), ("morgan", "morgan@example.org", "manager"))
"""Name, email and role of the demonstration's people."""


def key_folder(project: Path) -> Path:
    """Return where the keys of the demonstration's people lie; Git ignores it."""
    return project / INTERNAL / "keys"


def actor_of(project: Path, settings: Settings, identity: str | None) -> Actor | None:
    """Return who acts.

    Args:
        project: The project folder.
        settings: Their `identity` and `signing_key` come before Git's `user.email` and `user.signingkey`.
        identity: Name or email in `people.yaml`; None takes the setting.

    Returns:
        The actor, or None where nobody is named. The Model Center checks what he or she may do.
    """
    wanted = identity or settings.identity
    if wanted is None:
        return _with_usual_key(actor_from_git(project, signing_key=settings.signing_key))
    file = project / PEOPLE_FILE
    people = parse_people(file.read_bytes(), str(file)).people if file.exists() else ()
    person = next((p for p in people if wanted.casefold() in (p.name.casefold(), p.email.casefold())), None)
    email = person.email if person else wanted
    key = settings.signing_key if wanted == settings.identity else None
    own = key_folder(project) / (person.name if person else wanted)
    if key is None and own.exists():
        key = str(own)
    found = actor_from_git(project, identity=email, signing_key=key)
    return Actor(person.name, email, found.signing_key) if person and found else found


def _with_usual_key(actor: Actor | None) -> Actor | None:
    """Let who names no key sign with the one that ssh would take, which `git_person` puts into people.yaml."""
    if actor is None or actor.signing_key is not None:
        return actor
    return Actor(actor.name, actor.email, next((path for path in _usual_keys() if path.exists()), None))


def _usual_keys() -> list[Path]:
    return [Path.home() / ".ssh" / name for name in ("id_ed25519", "id_ecdsa")]


def git_person(project: Path) -> tuple[str, str, str | None]:
    """Return Git's `user.name` and `user.email`, each empty where not set, and the public line of your key, or None.

    The key is `user.signingkey`; where that is not set, the one in `~/.ssh`.
    """

    def setting(name: str) -> str:
        done = subprocess.run(["git", "config", name], cwd=project, capture_output=True, text=True, check=False)
        return done.stdout.strip()

    key = setting("user.signingkey")
    if key.startswith(("ssh-", "ecdsa-", "sk-")):
        return setting("user.name"), setting("user.email"), key
    for path in [Path(key).expanduser()] if key else _usual_keys():
        public = path if path.suffix == ".pub" else path.with_name(f"{path.name}.pub")
        if public.exists():
            return setting("user.name"), setting("user.email"), public.read_text(encoding="utf-8").strip()
    return setting("user.name"), setting("user.email"), None
