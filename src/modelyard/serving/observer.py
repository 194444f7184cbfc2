"""A worker's thread that tells the supervisor what was counted of canaries and shadows."""

from __future__ import annotations

import time
from collections.abc import Callable

from modelyard.serving.slots import Slot, Slots
from modelyard.serving.wire import Observed, Role

__all__ = ["Observer"]

SECONDS = 0.25


class Observer:
    """Sends while there is anything to say.

    It has a thread of its own: a supervisor that stands still must not stop the event loop.

    Args:
        slots: The worker's.
        send: To the supervisor; says whether there still is one.
    """

    def __init__(self, slots: Slots, send: Callable[[Observed], bool]) -> None:
        self._slots = slots
        self._send = send
        self._roles: dict[tuple[str, int], Role] = {}

    def run(self) -> None:
        """Look every quarter of a second until the supervisor is gone."""
        while self.look():
            time.sleep(SECONDS)

    def look(self) -> bool:
        """Send what was counted since the last look; say whether there still is a supervisor."""
        for name, slot in list(self._slots.items()):
            for number, generation in list(slot.generations.items()):
                stats, role = generation.stats, _role(slot, number)
                if stats is None:
                    continue
                if role is None:
                    generation.stats = None
                    continue
                observation = stats.collect()
                before = self._roles.setdefault((name, number), role)
                if before != role:
                    # What was counted in the other role must not count in this one.
                    self._roles[name, number] = role
                elif observation is not None and not self._send(Observed(name, number, role, observation)):
                    return False
        return True


def _role(slot: Slot, number: int) -> Role | None:
    if number == slot.route.canary:
        return "canary"
    return "shadow" if number == slot.sampling.generation else None
