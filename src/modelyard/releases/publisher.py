"""Announcing a release."""

from __future__ import annotations

from modelyard.contracts import Bus
from modelyard.releases.events import ReleaseEvent, topic_of

__all__ = ["publish"]


def publish(bus: Bus, event: ReleaseEvent) -> None:
    """Announce a release to the subscribers of its environment.

    A release is recorded in Git before it is announced; `Outbox.flush` announces what this call could not, in order.

    Raises:
        StorageError: The bus can't take it.
        BusyError: Another process holds the topic.
    """
    bus.publish(topic_of(event.environment), event.to_cloudevent())
