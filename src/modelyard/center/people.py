"""Who may do what: `people.yaml`, and the allowed signers that Git itself can check with."""

from __future__ import annotations

import datetime
import difflib
import re
from collections.abc import Iterable
from typing import Any, Literal, get_args

import msgspec

from modelyard.blueprint.yaml import Document, read_yaml
from modelyard.center.signatures import parse_public_key
from modelyard.errors import BlueprintError, InputError, Problem

__all__ = ["PEOPLE_FILE", "People", "Person", "ROLES", "Role", "parse_people", "render_people"]

PEOPLE_FILE = "people.yaml"

Role = Literal["data_scientist", "manager", "developer", "operator"]
ROLES: tuple[str, ...] = get_args(Role)

# In an allowed-signers file `*`, `?`, `!` and `,` would make a pattern of it.
_EMAIL = re.compile(r"[^\s@<>,*?!\"'#]+@[^\s@<>,*?!\"'#]+")
_KEYS = ("name", "email", "roles", "keys", "until")


class Person(msgspec.Struct, frozen=True):
    """One person of `people.yaml`.

    Args:
        name: For people to read.
        email: Identifies the person; compared without regard to case.
        roles: Any of `ROLES`.
        keys: Public SSH keys, as lines of a `.pub` file.
        fingerprints: Of those keys, in their order.
        until: Seconds since 1970 from which on this person's tags do not count any more; 0 where they do.
    """

    name: str
    email: str
    roles: tuple[str, ...]
    keys: tuple[str, ...]
    fingerprints: tuple[str, ...]
    until: int = 0


class People(msgspec.Struct, frozen=True):
    """Everybody of `people.yaml`; no two share an email or a key.

    Args:
        people: In the order of the file.
    """

    people: tuple[Person, ...] = ()

    def by_email(self, email: str) -> Person | None:
        """Return who has an email, or None."""
        wanted = email.casefold()
        return next((person for person in self.people if person.email.casefold() == wanted), None)

    def by_fingerprint(self) -> dict[str, Person]:
        """Return who signs with which key."""
        return {fingerprint: person for person in self.people for fingerprint in person.fingerprints}

    def allowed_signers(self) -> str:
        """Return the text for Git's `gpg.ssh.allowedSignersFile`, so that `git verify-tag` checks the same keys."""
        lines = []
        for person in self.people:
            moment = datetime.datetime.fromtimestamp(person.until, datetime.UTC)
            before = f',valid-before="{moment:%Y%m%d%H%M%S}Z"' if person.until else ""
            lines += [f'{person.email} namespaces="git"{before} {" ".join(key.split()[:2])}' for key in person.keys]
        return "".join(f"{line}\n" for line in lines)


class _Reading:
    """Turns the document into people, and collects all problems on the way."""

    def __init__(self, document: Document, file: str) -> None:
        self.document = document
        self.file = file
        self.problems = list(document.problems)

    def problem(self, path: tuple[Any, ...], what: str, remedy: str = "") -> None:
        place = self.document.places.get(path)
        line, column = place.value if place else (0, 0)
        self.problems.append(Problem(what, self.file, line, column, remedy=remedy))

    def unknown(self, path: tuple[Any, ...], found: Iterable[str], known: tuple[str, ...]) -> None:
        for key in found:
            if key not in known:
                near = difflib.get_close_matches(key, known, n=1)
                remedy = f"Did you mean {near[0]}?" if near else f"The keys are {', '.join(known)}."
                place = self.document.places.get((*path, key))
                line, column = place.key if place else (0, 0)
                self.problems.append(Problem(f"unknown key {key!r}.", self.file, line, column, remedy=remedy))

    def people(self) -> tuple[Person, ...]:
        data = self.document.data
        if not isinstance(data, dict) or not isinstance(data.get("people"), list):
            self.problem((), "there is no list of people.", "Start with `people:` and a `- name: …` for each.")
            return ()
        self.unknown((), data, ("people",))
        people = [self.person(("people", index), entry) for index, entry in enumerate(data["people"])]
        found = [person for person in people if person is not None]
        self.unique(people)
        return tuple(found)

    def person(self, path: tuple[Any, ...], entry: Any) -> Person | None:
        if not isinstance(entry, dict):
            self.problem(path, "a person is a mapping.", "Write `- name: …`, then email, roles and keys.")
            return None
        before = len(self.problems)
        self.unknown(path, entry, _KEYS)
        name, email = self.text(path, entry, "name"), self.text(path, entry, "email")
        if email and _EMAIL.fullmatch(email) is None:
            self.problem((*path, "email"), f"{email!r} is no email address.", "Write it as ann@example.org.")
        roles = self.texts(path, entry, "roles")
        for index, role in enumerate(roles):
            if role not in ROLES:
                near = difflib.get_close_matches(role, ROLES, n=1)
                remedy = f"Did you mean {near[0]}?" if near else f"The roles are {', '.join(ROLES)}."
                self.problem((*path, "roles", index), f"unknown role {role!r}.", remedy)
        keys = self.texts(path, entry, "keys")
        fingerprints = tuple(self.fingerprint((*path, "keys", index), key) for index, key in enumerate(keys))
        until = self.until((*path, "until"), entry["until"]) if "until" in entry else 0
        return Person(name, email, roles, keys, fingerprints, until) if len(self.problems) == before else None

    def text(self, path: tuple[Any, ...], entry: dict[str, Any], key: str) -> str:
        value = entry.get(key)
        if isinstance(value, str) and value.strip() and value.isprintable():
            return value.strip()
        what = f"{key} must be one line of text." if key in entry else f"this person has no {key}."
        self.problem((*path, key) if key in entry else path, what, f"Write `{key}: …`.")
        return ""

    def texts(self, path: tuple[Any, ...], entry: dict[str, Any], key: str) -> tuple[str, ...]:
        value = entry.get(key)
        if isinstance(value, list) and all(isinstance(item, str) and item.isprintable() for item in value):
            return tuple(value)
        what = f"{key} must be a list of texts." if key in entry else f"this person has no {key}."
        self.problem((*path, key) if key in entry else path, what, f"Write `{key}: [ … ]`.")
        return ()

    def fingerprint(self, path: tuple[Any, ...], key: str) -> str:
        try:
            return parse_public_key(key).fingerprint
        except ValueError as error:
            self.problem(path, str(error), "Paste the line of the `.pub` file.")
            return ""

    def until(self, path: tuple[Any, ...], value: Any) -> int:
        try:
            moment = datetime.datetime.fromisoformat(value)
        except (TypeError, ValueError):
            self.problem(path, f"{value!r} is no date.", "Write it as 2026-01-31 or 2026-01-31T18:00:00+01:00.")
            return 0
        return int((moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)).timestamp())

    def unique(self, people: list[Person | None]) -> None:
        emails: dict[str, str] = {}
        owners: dict[str, str] = {}
        for index, person in enumerate(people):
            if person is None:
                continue
            path = ("people", index)
            if person.email.casefold() in emails:
                self.problem((*path, "email"), f"{person.email} stands twice.", "Make one entry of the two.")
            emails[person.email.casefold()] = person.name
            for place, fingerprint in enumerate(person.fingerprints):
                if fingerprint in owners:
                    what = f"this key is also {owners[fingerprint]}'s; a signature must tell one person."
                    self.problem((*path, "keys", place), what, "Remove it from one of the two.")
                owners[fingerprint] = person.name


def parse_people(text: bytes, file: str = PEOPLE_FILE) -> People:
    """Read `people.yaml`.

    Args:
        text: The file's content.
        file: Its name, for errors.

    Raises:
        InputError: All that is wrong with it at once, each with line and column.
    """
    try:
        reading = _Reading(read_yaml(text, file), file)
    except BlueprintError as error:
        raise _error(error.problems) from error
    people = reading.people()
    if reading.problems:
        raise _error(tuple(sorted(reading.problems, key=lambda problem: (problem.line, problem.column))))
    return People(people)


def _error(problems: tuple[Problem, ...]) -> InputError:
    return InputError("\n".join(str(problem) for problem in problems), remedy="Nobody has a role until it is mended.")


def render_people(people: Iterable[Person]) -> str:
    """Return the text of a `people.yaml`."""
    lines = ["# Who may do what in the Model Center. It counts once it is committed.\n", "people:\n"]
    for person in people:
        lines += [f"  - name: {_quoted(person.name)}\n", f"    email: {_quoted(person.email)}\n"]
        lines += [f"    roles: [{', '.join(person.roles)}]\n", "    keys:\n"]
        lines += [f"      - {_quoted(key)}\n" for key in person.keys]
        if person.until:
            lines.append(f"    until: {datetime.datetime.fromtimestamp(person.until, datetime.UTC).isoformat()}\n")
    return "".join(lines)


def _quoted(text: str) -> str:
    return msgspec.json.encode(text).decode()  # a JSON text is a YAML text
