"""Makes the slots equal to what is live, again and again: whatever was missed before is made good at the next turn."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping

import msgspec

from modelyard.errors import ModelyardError
from modelyard.records import Failure
from modelyard.serving.board import Board
from modelyard.serving.logs import Log
from modelyard.serving.roles import Roles
from modelyard.serving.spec import Live
from modelyard.serving.swap import Swapper
from modelyard.serving.wire import failure_of

__all__ = ["Follower", "LiveSource", "Rollout", "Wake"]

LiveSource = Callable[[], Mapping[str, Live]]
"""Returns what should be served, by slot."""

Wake = Callable[[float], bool]
"""Blocks until something may have changed, or for so many seconds; says whether something has."""

TURN_SECONDS = 1.0
FIRST_PAUSE = 1.0
LONGEST_PAUSE = 60.0


class _Trouble(msgspec.Struct):
    """A slot that could not be made what it should be."""

    wanted: Live | None
    failure: Failure
    attempts: int
    again: float


class Rollout(msgspec.Struct, frozen=True):
    """How a newly released version takes over.

    Args:
        ppm: The share of the requests that it answers at first, in parts per million; 0: it takes over at once.
        seconds: For how long.
    """

    ppm: int = 0
    seconds: float = 60.0


class Follower:
    """The loop. A slot that fails is tried again after 1, 2, 4 ... 60 s, or at once when something else becomes live.

    Args:
        live: What should be served.
        wake: Waits for a change.
        swapper: Changes the slots.
        roles: Begins canaries.
        rollout: How a newly released version takes over.
        board: Knows the slots.
        log: The supervisor's.
    """

    def __init__(
        self, live: LiveSource, wake: Wake, swapper: Swapper, roles: Roles, rollout: Rollout, board: Board, log: Log
    ) -> None:
        self._live = live
        self._wake = wake
        self._swapper = swapper
        self._roles = roles
        self._rollout = rollout
        self._wanted: dict[str, Live] = {}
        self._board = board
        self._log = log
        self._stopping = threading.Event()
        self._troubles: dict[str, _Trouble] = {}
        self.failure: Failure | None = None
        """Why what is live could not be learned at the last turn."""

    def start(self) -> None:
        """Begin, in a thread of its own."""
        threading.Thread(target=self._run, name="follower", daemon=True).start()

    def stop(self) -> None:
        """Begin no further turn."""
        self._stopping.set()

    def trouble(self, name: str) -> Failure | None:
        """Return why a slot could not be made what it should be, or None."""
        trouble = self._troubles.get(name)
        return trouble.failure if trouble else None

    def troubled(self) -> tuple[str, ...]:
        """Return the slots that could not be made what they should be."""
        return tuple(self._troubles)

    def released(self, name: str) -> tuple[str, str] | None:
        """Return version and package of what was live of a model at the last turn, or None."""
        live = self._wanted.get(name)
        return (live.version, live.package) if live else None

    def _run(self) -> None:
        while not self._stopping.is_set():
            self.turn()
            try:
                self._wake(TURN_SECONDS)
            except Exception as error:
                # Whatever the caller's code does, the service goes on; without a wake-up it looks every second.
                self._log.error("wake-failed", reason=repr(error)[:500])
                self._stopping.wait(TURN_SECONDS)

    def turn(self) -> None:
        """Make the slots equal to what is live now. It never raises."""
        try:
            wanted = dict(self._live())
        except Exception as error:
            if self.failure is None:
                self._log.error("live-unknown", reason=str(error)[:500])
            self.failure = failure_of(error)
            return
        self.failure = None
        self._wanted = wanted
        self._board.expect(wanted)
        for name, live in wanted.items():
            self._try(name, live)
        for name in [name for name in self._board.committed.slots if name not in wanted]:
            self._try(name, None)
        for name in [name for name in self._troubles if name not in wanted and name not in self._board.committed.slots]:
            del self._troubles[name]

    def _try(self, name: str, live: Live | None) -> None:
        trouble = self._troubles.get(name)
        if self._stopping.is_set() or (trouble and trouble.wanted == live and time.monotonic() < trouble.again):
            return
        try:
            if live is None:
                self._swapper.retire(name)
            else:
                self._follow(name, live)
        except Exception as error:
            attempts = trouble.attempts + 1 if trouble and trouble.wanted == live else 1
            pause = min(FIRST_PAUSE * 2 ** (attempts - 1), LONGEST_PAUSE)
            self._troubles[name] = _Trouble(live, failure_of(error), attempts, time.monotonic() + pause)
            reason = str(error) if isinstance(error, ModelyardError) else repr(error)
            self._log.warning("follow-failed", model=name, attempts=attempts, pause=pause, reason=reason[:500])
        else:
            self._troubles.pop(name, None)

    def _follow(self, name: str, live: Live) -> None:
        """Serve what is live: at once, or where the rollout says so as a canary first."""
        record = self._board.committed.slots.get(name)
        if record is not None and record.held_off == (live.version, live.package):
            # It was rolled back, or stopped as a canary: only something else that becomes live changes this slot.
            return
        found = record.find(live.version, live.package) if record is not None else None
        known = record is not None and found is not None and found in (record.current, record.previous)
        if record is None or known or self._rollout.ppm == 0 or name in self._board.broken:
            self._swapper.swap(name, live.version, live.package)
            return
        canary = record.canary
        if canary is None or not canary.generation.same_package(live.version, live.package):
            self._roles.canary(name, live.version, live.package, self._rollout.ppm)
        elif time.time() >= canary.since + self._rollout.seconds:
            self._swapper.promote(name)
