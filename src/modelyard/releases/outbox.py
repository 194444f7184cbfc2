"""The outbox: what Git says was released, and the bus has not carried yet, is published.

There is no second list to keep in step with Git: the list of what waits is the difference of two things that exist
anyway, the tags and the topics, so a process killed between the tag and the message loses nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import NamedTuple

from modelyard.contracts import Bus
from modelyard.errors import InputError, ModelyardError
from modelyard.releases.events import ReleaseEvent, topic_of
from modelyard.releases.publisher import publish

__all__ = ["Delivery", "Outbox", "missing"]

Key = tuple[str, str]
"""Source and id: what makes an event itself (CloudEvents 1.0, 3.1.1)."""


class Delivery(NamedTuple):
    """How a flush went.

    Args:
        published: The events that went out, in order.
        waiting: Those that did not, in order; the next flush tries them again.
        failure: Why not; None where none waits.
    """

    published: tuple[ReleaseEvent, ...]
    waiting: tuple[ReleaseEvent, ...]
    failure: ModelyardError | None


def missing(released: Iterable[ReleaseEvent], seen: Collection[Key]) -> list[ReleaseEvent]:
    """Return the released events that were not seen, each once, in the order of their release."""
    first: dict[Key, ReleaseEvent] = {}
    for event in released:
        key = (event.source, event.id)
        if key not in seen:
            first.setdefault(key, event)
    return sorted(first.values(), key=lambda event: event.time)


class Outbox:
    """Brings a bus level with Git.

    Args:
        bus: Where releases are announced.
    """

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    def flush(self, released: Iterable[ReleaseEvent]) -> Delivery:
        """Publish what the bus has not carried; do it after each release, and whenever a service starts.

        A bus that fails does not raise: the release stands, because Git has it. Nothing is published after the first
        failure, so that subscribers see releases in the order of their making. Two flushes at the same time may
        publish an event twice; subscribers know it by its id.

        Args:
            released: Every release that Git records, or at least those that may be missing.
        """
        events = list(released)
        published: list[ReleaseEvent] = []
        try:
            waiting = missing(events, self._seen({event.environment for event in events}))
        except ModelyardError as failure:
            return Delivery((), tuple(missing(events, ())), failure)
        for event in waiting:
            try:
                publish(self._bus, event)
            except ModelyardError as failure:
                return Delivery(tuple(published), tuple(waiting[len(published) :]), failure)
            published.append(event)
        return Delivery(tuple(published), (), None)

    def _seen(self, environments: Collection[str]) -> set[Key]:
        seen: set[Key] = set()
        for environment in sorted(environments):
            for message in self._bus.history(topic_of(environment)):
                try:
                    event = ReleaseEvent.from_cloudevent(message)
                except InputError:
                    continue
                seen.add((event.source, event.id))
        return seen
