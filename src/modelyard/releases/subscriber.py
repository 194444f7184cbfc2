"""Hearing of releases."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

from modelyard.contracts import Bus
from modelyard.errors import InputError
from modelyard.releases.events import RELEASE_TYPE, ReleaseEvent, topic_of

__all__ = ["Subscriber"]

_log = logging.getLogger(__name__)


class Subscriber:
    """An application that hears of the releases to one environment, each at least once.

    An event is news and no proof: whoever acts on it asks the Model Center which version is live and whether the
    signatures behind it hold. So acting twice on the same event, or on an old one that comes late, does no harm::

        for event in subscriber.follow(stopping):
            live = center.live(event.model, event.environment)      # Git decides
            if live.package != service.package:                     # doing it again does nothing
                service.swap(live)

    Args:
        bus: Where releases are announced.
        environment: The one to hear of.
        application: The subscriber's name; its position is kept under it.
    """

    def __init__(self, bus: Bus, environment: str, application: str) -> None:
        self._bus = bus
        self._topic = topic_of(environment)
        self._application = application

    def pending(self) -> Iterator[ReleaseEvent]:
        """Yield the events that were not dealt with; going on to the next says that the last one was.

        Messages that are no release events are let pass, damaged ones with a warning in the log: what they would have
        announced is in Git.
        """
        for message in self._bus.subscribe(self._topic, self._application):
            try:
                event = ReleaseEvent.from_cloudevent(message)
            except InputError as error:
                if message.get("type") == RELEASE_TYPE:
                    _log.warning("A release event was let pass: %s", error)
                continue
            yield event

    def wait(self, timeout: float) -> bool:
        """Block until something was announced since the last call, or for `timeout` seconds; say whether it was."""
        return self._bus.wait(self._topic, timeout)

    def follow(self, stopping: Callable[[], bool], interval: float = 0.5) -> Iterator[ReleaseEvent]:
        """Yield events as they come, until told to stop.

        Args:
            stopping: Asked whenever all that was announced is dealt with.
            interval: Seconds between two questions while nothing happens.
        """
        while not stopping():
            yield from self.pending()
            self.wait(interval)
