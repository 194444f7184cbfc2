"""`people.yaml` says who may do what; what is wrong in it is told with its line, all at once."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

from modelyard.center.people import Person, parse_people, render_people
from modelyard.errors import InputError
from modelyard.testing.tags import public_half, public_line

# The same keys in every process: tests are named by their parameters.
KEY = public_line(ed25519.Ed25519PrivateKey.from_private_bytes(bytes([1] * 32)))
OTHER = public_line(ed25519.Ed25519PrivateKey.from_private_bytes(bytes([2] * 32)))

GOOD = f"""people:
  - name: Ann Example
    email: ann@example.org
    roles: [data_scientist]
    keys: ["{KEY} ann's laptop"]
  - name: Max Example
    email: max@example.org
    roles: [manager, operator]
    keys:
      - {OTHER}
    until: 2026-01-31T12:00:00+01:00
"""


def test_people_are_found_by_email_in_any_case_and_by_key() -> None:
    people = parse_people(GOOD.encode())
    ann = people.by_email("ANN@Example.org")
    assert ann is not None
    assert ann.roles == ("data_scientist",)
    assert people.by_fingerprint()[ann.fingerprints[0]] is ann
    assert people.by_email("eve@example.org") is None


def test_allowed_signers_are_what_git_wants() -> None:
    people = parse_people(GOOD.encode())
    first, second = people.allowed_signers().splitlines()
    assert first == f'ann@example.org namespaces="git" {KEY}'
    assert second == f'max@example.org namespaces="git",valid-before="20260131110000Z" {OTHER}'


def test_people_survive_being_written_and_read() -> None:
    people = parse_people(GOOD.encode())
    assert parse_people(render_people(people.people).encode()) == people


def test_a_name_with_quotes_and_colons_survives() -> None:
    odd = Person('A "B": #c', "a@b.c", (), (KEY,), (), 0)
    assert parse_people(render_people([odd]).encode()).people[0].name == odd.name


@pytest.mark.parametrize(
    ("before", "after", "line", "what"),
    [
        ("roles: [data_scientist]", "roles: [data_scientits]", 4, "Did you mean data_scientist?"),
        ("roles: [data_scientist]", "roles: data_scientist", 4, "roles must be a list of texts"),
        ("    email: max", "    mail: max", 7, "Did you mean email?"),
        ("ann@example.org", "ann at example.org", 3, "is no email address"),
        ("ann@example.org", "'*@example.org'", 3, "is no email address"),
        ("max@example.org", "Ann@Example.org", 7, "stands twice"),
        (OTHER, KEY, 10, "also Ann Example's"),
        (OTHER, "ssh-dss AAAA", 10, "The key type 'ssh-dss'"),
        (OTHER, OTHER[:40], 10, "This is no ssh-ed25519 key"),
        (OTHER, OTHER.replace("ssh-ed25519", "ssh-rsa"), 10, "its text says another type"),
        ("until: 2026-01-31T12:00:00+01:00", "until: soon", 11, "is no date"),
        ("name: Max Example", "name: 7", 6, "name must be one line of text"),
        ("people:", "persons:", 0, "no list of people"),
    ],
)
def test_a_mistake_is_told_with_its_line(before: str, after: str, line: int, what: str) -> None:
    assert before in GOOD
    with pytest.raises(InputError) as caught:
        parse_people(GOOD.replace(before, after).encode())
    assert what in str(caught.value)
    assert f"people.yaml:{line}" in str(caught.value) if line else True


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(InputError) as caught:
        parse_people(GOOD.replace("manager", "boss").replace("data_scientist", "scientist").encode())
    assert str(caught.value).count("unknown role") == 2


@pytest.mark.parametrize(
    "text", ["", "people", "people: [", "\xff", "people: {}", "people: [1]", "- a", "people: [[]]"]
)
def test_what_is_no_list_of_people_is_one_clear_error(text: str) -> None:
    with pytest.raises(InputError):
        parse_people(text.encode("latin-1"))


def test_a_short_rsa_key_is_refused() -> None:
    weak = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    with pytest.raises(ValueError, match="1024 bits; 2048 are the least"):
        public_half(weak)
