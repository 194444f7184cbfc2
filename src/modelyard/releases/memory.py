"""A bus within one process: for tests, notebooks, and a service that runs beside its Model Center."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

from modelyard.releases.messages import decode, encode

__all__ = ["MemoryBus"]


class MemoryBus:
    """A Bus that keeps everything in memory; threads may share it."""

    def __init__(self) -> None:
        self._topics: defaultdict[str, list[bytes]] = defaultdict(list)
        self._acknowledged: defaultdict[tuple[str, str], int] = defaultdict(int)
        self._waited: defaultdict[str, int] = defaultdict(int)
        self._grown = threading.Condition()

    def __repr__(self) -> str:
        return "MemoryBus()"

    def publish(self, topic: str, message: Mapping[str, Any]) -> None:
        """Append a JSON message to a topic."""
        line = encode(message)
        with self._grown:
            self._topics[topic].append(line)
            self._grown.notify_all()

    def subscribe(self, topic: str, consumer: str) -> Iterator[Mapping[str, Any]]:
        """Yield the messages that this consumer has not acknowledged; going on to the next acknowledges the last."""
        position = self._acknowledged[topic, consumer]
        while position < len(self._topics[topic]):
            yield decode(self._topics[topic][position], topic)
            position += 1
            self._acknowledged[topic, consumer] = position

    def history(self, topic: str) -> Iterator[Mapping[str, Any]]:
        """Yield every message of the topic from the first on, acknowledging nothing."""
        for line in list(self._topics[topic]):
            yield decode(line, topic)

    def wait(self, topic: str, timeout: float) -> bool:
        """Block until the topic has grown since the last call, or for `timeout` seconds; say whether it has."""
        with self._grown:
            grown = self._grown.wait_for(lambda: len(self._topics[topic]) > self._waited[topic], timeout)
            self._waited[topic] = len(self._topics[topic])
        return grown

    def close(self) -> None:
        """Do nothing: what was published lives as long as this object."""
