"""What every Bus promises, as tests. Subclass `BusConformance`, and give the two hooks."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from modelyard.contracts import Bus
from modelyard.errors import InputError
from modelyard.releases.memory import MemoryBus

__all__ = ["BusConformance", "MemoryBus"]

_NAMES = ("releases.production", "a/b", "../outside", ".", "..", ".hidden", "with space", "größe", "a%2Fb", "a" * 200)


class BusConformance:
    """Tests over one implementation; a class of yours derives from it, with `new_bus` and perhaps `reopened`."""

    def new_bus(self) -> Bus:
        """Return an empty bus; called once in each test."""
        raise NotImplementedError

    def reopened(self, bus: Bus) -> Bus:
        """Return a bus over the same messages, as another process would open it; the same one where that can't be."""
        return bus

    @pytest.fixture
    def bus(self) -> Iterator[Bus]:
        """An empty bus, closed afterwards."""
        bus = self.new_bus()
        yield bus
        bus.close()
        bus.close()  # closing twice is no error

    def test_it_is_a_bus(self, bus: Bus) -> None:
        assert isinstance(bus, Bus)

    def test_messages_arrive_unchanged_and_in_order(self, bus: Bus) -> None:
        sent: list[dict[str, Any]] = [
            {"n": 1},
            {},
            {"text": 'line\nbreak \r \u2028 \x00 ü 🎉 \\ "'},
            {"nested": {"list": [1, -2.5, 1e300, True, None, {"": ""}]}},
            {"long": "x" * 300_000},
        ]
        for message in sent:
            bus.publish("t", message)
        assert list(bus.subscribe("t", "c")) == sent
        assert list(bus.history("t")) == sent

    def test_a_topic_that_nobody_published_to_is_empty(self, bus: Bus) -> None:
        assert list(bus.subscribe("t", "c")) == []
        assert list(bus.history("t")) == []
        assert bus.wait("t", 0.0) is False

    def test_a_message_comes_again_until_the_consumer_goes_on(self, bus: Bus) -> None:
        publish(bus, 2)
        for _ in range(3):
            assert next(iter(bus.subscribe("t", "c"))) == {"n": 0}
        messages = iter(bus.subscribe("t", "c"))
        assert [next(messages), next(messages)] == [{"n": 0}, {"n": 1}]
        assert list(bus.subscribe("t", "c")) == [{"n": 1}]

    def test_reading_to_the_end_acknowledges_everything(self, bus: Bus) -> None:
        publish(bus, 3)
        assert len(list(bus.subscribe("t", "c"))) == 3
        assert list(bus.subscribe("t", "c")) == []
        bus.publish("t", {"n": "new"})
        assert list(bus.subscribe("t", "c")) == [{"n": "new"}]

    def test_an_acknowledgement_is_known_to_who_opens_the_bus_later(self, bus: Bus) -> None:
        publish(bus, 3)
        list(itertools.islice(bus.subscribe("t", "c"), 3))
        again = self.reopened(bus)
        assert list(again.subscribe("t", "c")) == [{"n": 2}]
        assert list(self.reopened(bus).subscribe("t", "c")) == []

    def test_consumers_do_not_disturb_each_other(self, bus: Bus) -> None:
        publish(bus, 2)
        assert len(list(bus.subscribe("t", "one"))) == 2
        assert len(list(bus.subscribe("t", "two"))) == 2

    def test_history_acknowledges_nothing(self, bus: Bus) -> None:
        publish(bus, 2)
        assert len(list(bus.history("t"))) == 2
        assert len(list(bus.subscribe("t", "c"))) == 2
        assert len(list(bus.history("t"))) == 2

    def test_what_is_published_while_reading_is_read_too(self, bus: Bus) -> None:
        publish(bus, 1)
        seen: list[Mapping[str, Any]] = []
        for message in bus.subscribe("t", "c"):
            seen.append(message)
            if len(seen) == 1:
                bus.publish("t", {"n": "late"})
        assert seen == [{"n": 0}, {"n": "late"}]

    def test_topics_and_consumers_of_any_name_are_kept_apart(self, bus: Bus) -> None:
        for name in _NAMES:
            bus.publish(name, {"topic": name})
        for name in _NAMES:
            assert list(bus.subscribe(name, name)) == [{"topic": name}]
            assert list(bus.subscribe(name, "other")) == [{"topic": name}]

    def test_a_message_that_is_not_json_is_refused_and_leaves_nothing(self, bus: Bus) -> None:
        with pytest.raises(InputError):
            bus.publish("t", {"what": object()})
        assert list(bus.history("t")) == []

    def test_waiting_ends_when_somebody_publishes(self, bus: Bus) -> None:
        other = self.reopened(bus)
        timer = threading.Timer(0.1, other.publish, ("t", {"n": 0}))
        timer.start()
        started = time.monotonic()
        assert bus.wait("t", 20.0) is True
        assert time.monotonic() - started < 10.0
        timer.join()
        assert list(bus.subscribe("t", "c")) == [{"n": 0}]

    def test_waiting_ends_after_the_timeout(self, bus: Bus) -> None:
        publish(bus, 1)
        bus.wait("t", 0.0)
        started = time.monotonic()
        assert bus.wait("t", 0.1) is False
        assert time.monotonic() - started >= 0.09

    def test_what_is_published_between_reading_and_waiting_is_not_missed(self, bus: Bus) -> None:
        bus.wait("t", 0.0)
        list(bus.subscribe("t", "c"))
        publish(bus, 1)
        assert bus.wait("t", 0.0) is True

    def test_many_threads_publish_at_once_and_nothing_is_lost(self, bus: Bus) -> None:
        together = threading.Barrier(4)

        def send(sender: int) -> None:
            mine = self.reopened(bus)
            together.wait()
            for number in range(20):
                mine.publish("t", {"sender": sender, "number": number})

        threads = [threading.Thread(target=send, args=(sender,)) for sender in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seen = list(bus.history("t"))
        for sender in range(4):
            assert [message["number"] for message in seen if message["sender"] == sender] == list(range(20))
        assert len(seen) == 80


def publish(bus: Bus, count: int) -> None:
    """Publish `{"n": 0}`, `{"n": 1}` … to the topic `t`."""
    for number in range(count):
        bus.publish("t", {"n": number})
