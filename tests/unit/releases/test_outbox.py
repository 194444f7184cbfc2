"""The outbox publishes exactly what Git has and the bus has not, in order, whatever fails in between."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from modelyard.errors import StorageError
from modelyard.releases import MemoryBus, Outbox, ReleaseEvent, Subscriber, missing, publish, topic_of


def event(number: int, environment: str = "production") -> ReleaseEvent:
    return ReleaseEvent(
        source="file:///srv", model="digits", version=f"v1.{number}.0", environment=environment, package="p",
        actor="ada", tag=f"digits#{environment}#{number}", time=float(number),
    )  # fmt: skip


class FailingBus(MemoryBus):
    """A bus that takes so many messages and then fails."""

    def __init__(self, takes: int) -> None:
        super().__init__()
        self.takes = takes

    def publish(self, topic: str, message: Mapping[str, Any]) -> None:
        if not self.takes:
            raise StorageError("The disk is full.")
        self.takes -= 1
        super().publish(topic, message)


def heard(bus: MemoryBus, environment: str = "production") -> list[ReleaseEvent]:
    return [ReleaseEvent.from_cloudevent(message) for message in bus.history(topic_of(environment))]


def test_what_git_has_and_the_bus_has_not_is_published_once() -> None:
    bus = MemoryBus()
    publish(bus, event(1))
    released = [event(3), event(1), event(2), event(2)]
    delivery = Outbox(bus).flush(released)
    assert delivery == ((event(2), event(3)), (), None)
    assert heard(bus) == [event(1), event(2), event(3)]
    assert Outbox(bus).flush(released) == ((), (), None)


def test_environments_are_told_apart() -> None:
    bus = MemoryBus()
    Outbox(bus).flush([event(1, "staging"), event(2)])
    assert heard(bus, "staging") == [event(1, "staging")]
    assert heard(bus) == [event(2)]


def test_the_same_tag_of_another_repository_is_another_event() -> None:
    bus = MemoryBus()
    publish(bus, event(1))
    other = msgspec.structs.replace(event(1), source="file:///other")
    assert Outbox(bus).flush([event(1), other]).published == (other,)


@given(takes=st.integers(0, 8), count=st.integers(0, 6))
def test_a_bus_that_fails_delays_events_and_never_loses_or_reorders_them(takes: int, count: int) -> None:
    bus = FailingBus(takes)
    released = [event(number) for number in range(count)]
    delivery = Outbox(bus).flush(released)
    assert [*delivery.published, *delivery.waiting] == released
    assert (delivery.failure is None) == (takes >= count)
    assert heard(bus) == list(delivery.published)
    bus.takes = 100
    assert Outbox(bus).flush(released).waiting == ()
    assert heard(bus) == released


def test_a_bus_that_can_not_even_be_read_leaves_everything_waiting() -> None:
    class Unreadable(MemoryBus):
        def history(self, topic: str) -> Any:
            raise StorageError("does not answer")

    delivery = Outbox(Unreadable()).flush([event(2), event(1)])
    assert delivery.waiting == (event(1), event(2))
    assert isinstance(delivery.failure, StorageError)


def test_strange_messages_on_the_topic_do_not_disturb_the_outbox() -> None:
    bus = MemoryBus()
    bus.publish(topic_of("production"), {"what": "ever"})
    bus.publish(topic_of("production"), {**event(1).to_cloudevent(), "data": None})
    assert Outbox(bus).flush([event(1)]).published == (event(1),)


@given(seen=st.sets(st.integers(0, 9)), released=st.lists(st.integers(0, 9)))
def test_the_difference_is_ordered_without_repetition_and_complete(seen: set[int], released: list[int]) -> None:
    found = missing([event(number) for number in released], {("file:///srv", event(number).id) for number in seen})
    assert [e.time for e in found] == sorted(set(released) - seen)


def test_a_subscriber_hears_its_environment_and_lets_other_messages_pass(caplog: Any) -> None:
    bus = MemoryBus()
    publish(bus, event(1, "staging"))
    bus.publish(topic_of("production"), {"type": "other.v1"})
    bus.publish(topic_of("production"), {**event(7).to_cloudevent(), "data": None})
    publish(bus, event(1))
    subscriber = Subscriber(bus, "production", "app")
    assert list(subscriber.pending()) == [event(1)]
    assert list(subscriber.pending()) == []
    assert "digits#production#7" in caplog.text
    assert "other.v1" not in caplog.text


def test_an_event_that_was_not_dealt_with_comes_again() -> None:
    bus = MemoryBus()
    publish(bus, event(1))
    publish(bus, event(2))
    subscriber = Subscriber(bus, "production", "app")
    assert next(subscriber.pending()) == event(1)
    for heard_event in subscriber.pending():
        if heard_event == event(2):
            break
    assert list(subscriber.pending()) == [event(2)]


def test_applications_hear_each_for_itself() -> None:
    bus = MemoryBus()
    publish(bus, event(1))
    assert list(Subscriber(bus, "production", "one").pending()) == [event(1)]
    assert list(Subscriber(bus, "production", "two").pending()) == [event(1)]


def test_following_yields_what_comes_until_told_to_stop() -> None:
    bus = MemoryBus()
    publish(bus, event(1))
    seen: list[ReleaseEvent] = []
    for heard_event in Subscriber(bus, "production", "app").follow(lambda: len(seen) >= 2, interval=0.01):
        seen.append(heard_event)
        if len(seen) == 1:
            publish(bus, event(2))
    assert seen == [event(1), event(2)]


def test_an_application_that_asks_which_version_is_live_may_hear_everything_twice() -> None:
    """The example in the subscriber's docstring, with Git played by a dictionary."""
    bus = MemoryBus()
    live = {}
    swaps = []
    service = ""
    for number in (1, 2, 2, 1):
        live["digits"] = f"v1.{max(number, 2)}.0"
        publish(bus, event(number))
    for _ in Subscriber(bus, "production", "app").pending():
        if live["digits"] != service:
            service = live["digits"]
            swaps.append(service)
    assert swaps == ["v1.2.0"]
