"""Tags turn into events and back, and a message can't claim what Git or the signature does not say."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from gto.constants import Action
from gto.tag import parse_name
from hypothesis import given
from hypothesis import strategies as st

from modelyard.center.events import (
    Approved,
    Event,
    HoldLifted,
    Registered,
    Rejected,
    Released,
    RolledBack,
    TagHeader,
    Unreadable,
    message_of,
    parse_event,
    parse_tag_name,
    tag_name_of,
)

COMMON: dict[str, Any] = {"model": "digits", "version": "1.2.0", "package": "p" * 64, "actor": "ann@example.org"}
HEADER = TagHeader("", "o" * 40, "c" * 40, 1_800_000_000, "ann@example.org", "SHA256:key")


def read(tag: str, message: bytes | str) -> Event | Unreadable:
    name = parse_tag_name(tag)
    assert name is not None
    data = message.encode() if isinstance(message, str) else message
    return parse_event(name, msgspec.structs.replace(HEADER, tag=tag), data)


alphabet = st.text("aZ9-_/.=:#@v!10", max_size=18)
pieces = [
    "digits",
    "a/b=",
    "#dev",
    "#approved",
    "@v1.2.0",
    "@v1.0.0-rc.1",
    "#4",
    "#07",
    "!",
    "@deprecated",
    "-",
    " ",
    "é",
]
near_tags = st.builds("".join, st.lists(st.sampled_from(pieces), max_size=5))


@given(st.one_of(alphabet, near_tags))
def test_the_grammar_is_exactly_that_of_gto(tag: str) -> None:
    theirs = parse_name(tag, raise_on_fail=False) if not tag.endswith("\n") else {}
    ours = parse_tag_name(tag)
    assert (ours is not None) == bool(theirs)
    if ours is not None:
        assert ours.model == theirs["name"]
        assert ours.stage == theirs.get("stage", "")
        assert f"v{ours.version}" == theirs.get("version", "v")
        assert ours.number == theirs.get("counter", 0)
        if ours.used:
            assert theirs["action"] in (Action.REGISTER, Action.ASSIGN)


texts = st.text(max_size=20)
names = st.sampled_from(["digits", "digits-2", "a/b:digits"])
common = {
    "model": names,
    "version": st.sampled_from(["1.2.0", "10.0.3-rc.1+b5"]),
    "package": texts,
    "actor": texts,
    "reason": texts,
    "number": st.integers(1, 10**6),
}
environments = st.sampled_from(["dev", "staging", "pro-1"])
floats = st.floats(allow_nan=False, allow_infinity=False)
events = st.one_of(
    st.builds(
        Registered,
        **{**common, "number": st.just(0)},
        metrics=st.dictionaries(texts, floats, max_size=3),
        data=st.dictionaries(texts, texts, max_size=3),
        environment=st.dictionaries(texts, texts, max_size=3),
        run=texts,
    ),
    st.builds(Approved, **common),
    st.builds(Rejected, **common),
    st.builds(Released, **common, environment=environments),
    st.builds(RolledBack, **common, environment=environments, replaces=texts),
    st.builds(HoldLifted, **common, environment=environments),
)


@given(events)
def test_an_event_survives_its_tag(event: Event) -> None:
    tag = tag_name_of(event)
    expected = msgspec.structs.replace(
        event, **{field: getattr(HEADER, field) for field in ("id", "commit", "time", "tagger", "signer")}, tag=tag
    )
    assert read(tag, message_of(event)) == expected


@given(
    st.sampled_from(["digits@v1.2.0", "digits#dev#1", "digits#approved#2", "digits@v1.2.0!#3"]), st.binary(max_size=60)
)
def test_no_message_makes_the_parser_raise(tag: str, message: bytes) -> None:
    assert isinstance(read(tag, message), Unreadable)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | floats | texts,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(texts, inner, max_size=2),
)


@given(st.sampled_from(["package", "actor", "metrics", "version", "action", "format", "environment", "model"]), JSON)
def test_no_value_in_a_message_makes_the_parser_raise(key: str, value: Any) -> None:
    body = json.loads(message_of(Released(**COMMON, environment="dev", number=1))) | {key: value}
    assert isinstance(read("digits#dev#1", json.dumps(body)), Released | Unreadable)


def test_a_message_can_not_replace_what_git_and_the_signature_say() -> None:
    forged = {"signer": "SHA256:manager", "tagger": "max@example.org", "commit": "f" * 40, "id": "0", "time": 1}
    body = json.loads(message_of(Approved(**COMMON, number=3))) | forged | {"number": 99, "tag": "x", "fault": ""}
    event = read("digits#approved#3", json.dumps(body))
    assert isinstance(event, Approved)
    assert (event.signer, event.tagger, event.commit, event.number) == (HEADER.signer, HEADER.tagger, HEADER.commit, 3)


@pytest.mark.parametrize(
    ("tag", "event", "what"),
    [
        ("letters#approved#1", Approved(**COMMON, number=1), "about letters"),
        ("digits@v1.3.0", Registered(**COMMON), "registers 1.3.0"),
        ("digits#dev#1", Approved(**COMMON, number=1), "'dev'"),
        ("digits#approved#1", Rejected(**COMMON, number=1), "'approved'"),
        ("digits#staging#1", Released(**COMMON, environment="dev", number=1), "'staging'"),
        ("digits#approved#1", Released(**COMMON, environment="approved", number=1), "can't be an environment"),
        ("digits@v1.2.0", Released(**COMMON, environment="", number=0), "can't be an environment"),
        ("digits#dev!#1", Released(**COMMON, environment="dev", number=1), "does not use"),
        ("digits#dev", Released(**COMMON, environment="dev", number=1), "does not use"),
    ],
)
def test_a_name_and_a_message_that_disagree_are_no_event(tag: str, event: Event, what: str) -> None:
    result = read(tag, message_of(event))
    assert isinstance(result, Unreadable)
    assert what in result.what


def test_a_message_of_a_later_format_is_told_from_a_damaged_one() -> None:
    result = read("digits#approved#1", '{"format": 2, "action": "approve"}')
    assert isinstance(result, Unreadable)
    assert "format 2" in result.what


def test_an_absurd_number_is_not_used() -> None:
    name = parse_tag_name(f"digits#dev#{'9' * 200}")
    assert name is not None
    assert (name.used, name.number) == (False, 0)
