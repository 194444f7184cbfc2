"""Releases: announced to whoever subscribes. Git is the record of what is released; the bus only spreads the news."""

from __future__ import annotations

from modelyard.releases.bus import FileBus, open_bus
from modelyard.releases.events import ReleaseEvent, topic_of
from modelyard.releases.memory import MemoryBus
from modelyard.releases.outbox import Delivery, Outbox, missing
from modelyard.releases.publisher import publish
from modelyard.releases.subscriber import Subscriber

__all__ = [
    "Delivery",
    "FileBus",
    "MemoryBus",
    "Outbox",
    "ReleaseEvent",
    "Subscriber",
    "missing",
    "open_bus",
    "publish",
    "topic_of",
]
