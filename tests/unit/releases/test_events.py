"""A release event as a CloudEvent, and back."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.errors import InputError
from modelyard.releases import ReleaseEvent, topic_of

EVENT = ReleaseEvent(
    source="file:///srv/digits", model="digits", version="v1.2.0", environment="production", package="a" * 64,
    actor="ada@example.org", tag="digits#production#7", time=1_700_000_000.25,
)  # fmt: skip

NAME = st.text(min_size=1)
EVENTS = st.builds(
    ReleaseEvent, source=NAME, model=NAME, version=NAME, environment=NAME, package=NAME, actor=NAME, tag=NAME,
    time=st.floats(0, 4e9),
)  # fmt: skip


def test_an_event_is_a_cloudevent_with_every_required_attribute() -> None:
    assert EVENT.to_cloudevent() == {
        "specversion": "1.0",
        "id": "digits#production#7",
        "source": "file:///srv/digits",
        "type": "modelyard.release.v1",
        "subject": "digits",
        "time": "2023-11-14T22:13:20.250000Z",
        "datacontenttype": "application/json",
        "data": {
            "model": "digits",
            "version": "v1.2.0",
            "environment": "production",
            "package": "a" * 64,
            "actor": "ada@example.org",
            "tag": "digits#production#7",
            "time": 1_700_000_000.25,
        },
    }


@given(event=EVENTS)
def test_every_event_comes_back_from_json_as_it_was(event: ReleaseEvent) -> None:
    assert ReleaseEvent.from_cloudevent(json.loads(json.dumps(event.to_cloudevent()))) == event


def test_the_same_release_has_the_same_id_whoever_announces_it() -> None:
    assert EVENT.id == ReleaseEvent.from_cloudevent(EVENT.to_cloudevent()).id == "digits#production#7"


def test_extensions_of_other_publishers_are_let_pass() -> None:
    message = {**EVENT.to_cloudevent(), "traceparent": "00-x", "sequence": 3}
    message["data"]["added_later"] = True
    assert ReleaseEvent.from_cloudevent(message) == EVENT


@pytest.mark.parametrize("change", [{"type": "other.v1"}, {"specversion": "0.3"}, {"type": None}])
def test_another_kind_of_message_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"is no modelyard\.release\.v1"):
        ReleaseEvent.from_cloudevent({**EVENT.to_cloudevent(), **change})


@pytest.mark.parametrize("lost", ["model", "version", "environment", "package", "actor", "tag", "time"])
def test_a_message_that_lacks_something_is_refused_and_says_what(lost: str) -> None:
    message = EVENT.to_cloudevent()
    del message["data"][lost]
    with pytest.raises(InputError, match=lost) as caught:
        ReleaseEvent.from_cloudevent(message)
    assert caught.value.where == EVENT.id


@pytest.mark.parametrize(
    "change", [{"data": None}, {"data": []}, {"source": ""}, {"source": 5}, {"data": {"model": 1}}]
)
def test_a_message_with_a_wrong_type_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="damaged"):
        ReleaseEvent.from_cloudevent({**EVENT.to_cloudevent(), **change})


@given(message=st.dictionaries(st.text(), st.none() | st.integers() | st.text()))
def test_no_message_does_anything_but_come_back_or_be_refused(message: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        ReleaseEvent.from_cloudevent({**message, "type": "modelyard.release.v1"})


def test_each_environment_has_a_topic_of_its_own() -> None:
    assert topic_of("staging") != topic_of("production")
