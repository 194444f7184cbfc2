"""The order of steps: who needs whom, cycles, and an order in which all can run."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from heapq import heapify, heappop, heappush

__all__ = ["find_cycle", "in_order"]


def find_cycle(needs: Mapping[str, Sequence[str]]) -> list[str]:
    """Return one cycle as `[a, b, a]`, or an empty list; names that are no keys are ignored."""
    left = {name: {need for need in found if need in needs} for name, found in needs.items()}
    ready = deque(name for name, found in left.items() if not found)
    users = _users(left)
    while ready:
        done = ready.popleft()
        del left[done]
        for user in users.get(done, ()):
            left[user].discard(done)
            if not left[user]:
                ready.append(user)
    if not left:
        return []
    # Everything left over needs something left over, so walking along needs must come back to a name seen before.
    walked: list[str] = []
    name = next(iter(left))
    while name not in walked:
        walked.append(name)
        name = next(need for need in needs[name] if need in left)
    cycle = walked[walked.index(name) :]
    start = min(range(len(cycle)), key=lambda index: list(needs).index(cycle[index]))
    return [*cycle[start:], *cycle[:start], cycle[start]]


def in_order(needs: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the names so that each follows all it needs, and else as they were given; the graph has no cycle."""
    position = {name: index for index, name in enumerate(needs)}
    names = list(needs)
    missing = {name: len(set(found)) for name, found in needs.items()}
    users = _users({name: set(found) for name, found in needs.items()})
    ready = [position[name] for name, count in missing.items() if count == 0]
    heapify(ready)
    ordered: list[str] = []
    while ready:
        name = names[heappop(ready)]
        ordered.append(name)
        for user in users.get(name, ()):
            missing[user] -= 1
            if missing[user] == 0:
                heappush(ready, position[user])
    return ordered


def _users(needs: Mapping[str, set[str]]) -> dict[str, list[str]]:
    users: dict[str, list[str]] = {}
    for name, found in needs.items():
        for need in found:
            users.setdefault(need, []).append(name)
    return users
