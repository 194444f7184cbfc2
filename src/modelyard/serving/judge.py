"""Compares what workers observe of canaries and shadows with the service's limits, and ends what passes them."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable

import msgspec

from modelyard.serving.board import Board
from modelyard.serving.logs import Log
from modelyard.serving.state import Page
from modelyard.serving.stats import Observation, quantile
from modelyard.serving.wire import Observed, Role

__all__ = ["Judge", "JudgeLimits", "verdict"]

WINDOW_SECONDS = 60.0


class JudgeLimits(msgspec.Struct, frozen=True):
    """What a canary or shadow must not pass.

    Args:
        error_rate: Share of its answers that are 5xx; None for no limit.
        p99_seconds: What 99 of 100 answers must not pass; None for no limit.
        minimum_requests: It is not judged by fewer.
    """

    error_rate: float | None = 0.02
    p99_seconds: float | None = None
    minimum_requests: int = 50


def verdict(limits: JudgeLimits, latest: Observation) -> str | None:
    """Return why a canary or shadow must end, or None.

    Args:
        limits: Of the service.
        latest: What was observed of its latest answers.
    """
    if latest.requests < max(limits.minimum_requests, 1):
        return None
    rate = latest.errors / latest.requests
    if limits.error_rate is not None and rate > limits.error_rate:
        return f"{latest.errors} of {latest.requests} answers were errors: {rate:.2%} is over {limits.error_rate:.2%}."
    p99 = quantile(latest.seconds, 0.99)
    if limits.p99_seconds is not None and p99 > limits.p99_seconds:
        return f"The p99 of {latest.requests} answers was {p99:.4f} s, over {limits.p99_seconds:g} s."
    return None


class _Account:
    """What was observed of one generation in one role."""

    def __init__(self) -> None:
        self.total = Observation()
        self.window: deque[tuple[float, Observation]] = deque()
        self.condemned = False

    def add(self, now: float, observation: Observation, minimum: int) -> None:
        """Add an observation, and let go what is over 60 s old and not needed to have the least number of requests."""
        self.total += observation
        self.window.append((now, observation))
        requests = sum(one.requests for _, one in self.window)
        while self.window[0][0] < now - WINDOW_SECONDS and requests - self.window[0][1].requests >= minimum:
            requests -= self.window.popleft()[1].requests

    @property
    def latest(self) -> Observation:
        found = Observation()
        for _, observation in self.window:
            found += observation
        return found


class Judge:
    """Hears all observations, and judges.

    Each canary and shadow is judged by its answers of the last 60 s, or by the last `minimum_requests` where some of
    these are older.

    Args:
        limits: Of the service.
        stop: Ends a role: role, model, number and reason; it may raise.
        board: Counts comparisons, for the metrics.
        log: The supervisor's.
    """

    def __init__(
        self, limits: JudgeLimits, stop: Callable[[Role, str, int, str], None], board: Board, log: Log
    ) -> None:
        self._limits = limits
        self._board = board
        self._stop = stop
        self._log = log
        self._lock = threading.Lock()
        self._accounts: dict[tuple[str, Role, int], _Account] = {}
        # A worker's own thread must not wait for a commit, as it hears what the worker says of a prepare.
        self._condemned: queue.SimpleQueue[tuple[Role, str, int, str] | None] = queue.SimpleQueue()

    def start(self) -> None:
        """Begin to act, in a thread of its own."""
        threading.Thread(target=self._run, name="judge", daemon=True).start()

    def observed(self, frame: Observed) -> None:
        """Take down what a worker observed, and condemn what passes the limits."""
        key = (frame.slot, frame.role, frame.number)
        seen = frame.observation
        for word, count in (
            (Page.COMPARED, seen.compared), (Page.DIFFERING, seen.differing), (Page.DROPPED, seen.dropped)
        ):  # fmt: skip
            if count:
                self._board.count(frame.slot, word, add=count)
        with self._lock:
            account = self._accounts.get(key)
            if account is None:
                # Only one canary and one shadow of a model are alive at a time.
                for old in [old for old in self._accounts if old[:2] == key[:2] and old[2] < frame.number]:
                    del self._accounts[old]
                account = self._accounts[key] = _Account()
            account.add(time.monotonic(), seen, self._limits.minimum_requests)
            reason = None if account.condemned else verdict(self._limits, account.latest)
            account.condemned = account.condemned or reason is not None
        if reason is not None:
            self._condemned.put((frame.role, frame.slot, frame.number, reason))

    def forget(self, role: Role, model: str, number: int) -> None:
        """Begin anew with a generation that begins in a role."""
        with self._lock:
            self._accounts.pop((model, role, number), None)

    def account(self, role: Role, model: str, number: int) -> tuple[Observation, Observation]:
        """Return all that was observed of a generation in a role, and the latest part, by which it is judged."""
        with self._lock:
            account = self._accounts.get((model, role, number))
            return (account.total, account.latest) if account else (Observation(), Observation())

    def _run(self) -> None:
        while (condemned := self._condemned.get()) is not None:
            role, model, number, reason = condemned
            try:
                self._stop(role, model, number, reason)
            except Exception as error:
                # Such as a full disk: the next observation condemns it again.
                self._log.error(f"{role}-not-stopped", model=model, generation=number, reason=str(error)[:500])
                with self._lock:
                    account = self._accounts.get((model, role, number))
                    if account is not None:
                        account.condemned = False
