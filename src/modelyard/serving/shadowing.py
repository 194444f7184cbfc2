"""Shows requests to a shadow after they were answered, in a thread of low priority, and records what differs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from modelyard.contracts import Columns
from modelyard.serving.priority import lower_priority
from modelyard.serving.slots import Generation, Slot
from modelyard.serving.stats import Stats

__all__ = ["Shadowing", "differences"]

WAITING = 64
LARGEST = float(np.finfo(np.float64).max)


class Shadowing:
    """Mirrors answered requests. Nobody waits for it: who comes when too many wait already is counted as dropped."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="shadow", initializer=lower_priority)
        self._waiting = 0

    def mirror(self, shadow: Generation, columns: Callable[[], Columns], outputs: Columns, rows: int) -> None:
        """Have a shadow predict and compare. Call it in the event loop's thread, after the answer was given.

        Args:
            shadow: Taken for this; it is released when done.
            columns: Returns the inputs as the shadow's contract has them; called in the thread.
            outputs: What was answered.
            rows: Of the request.
        """
        stats = shadow.stats
        if stats is None or self._waiting >= WAITING:
            if stats is not None:
                stats.dropped()
            Slot.release(shadow)
            return
        self._waiting += 1
        running = asyncio.get_running_loop().run_in_executor(
            self._executor, _compare, shadow, stats, columns, outputs, rows
        )
        running.add_done_callback(lambda _done: self._done(shadow))

    def _done(self, shadow: Generation) -> None:
        self._waiting -= 1
        Slot.release(shadow)


def _compare(shadow: Generation, stats: Stats, columns: Callable[[], Columns], outputs: Columns, rows: int) -> None:
    started = time.perf_counter()
    try:
        given = shadow.served.predict(columns())
    except Exception:
        # Whatever a shadow can't answer counts against it, and touches nobody else.
        stats.answered(500, time.perf_counter() - started)
        return
    stats.answered(200, time.perf_counter() - started)
    stats.compared(rows, differences(outputs, given))


def differences(expected: Columns, given: Columns) -> dict[str, float | None]:
    """Return the fields in which two answers differ, and by how much at most.

    Args:
        expected: What was answered.
        given: What the shadow says.

    Returns:
        By field: the largest difference of its numbers; 1 for texts and truth values; None where a field is missing or
        of another shape. Fields that are equal, or that only the shadow has, are not named.
    """
    found: dict[str, float | None] = {}
    for name, values in expected.items():
        other = given.get(name)
        if other is None or other.shape != values.shape:
            found[name] = None
        elif (difference := _difference(values, other)) > 0:
            found[name] = difference
    return found


def _difference(left: NDArray[np.generic], right: NDArray[np.generic]) -> float:
    if left.dtype.kind not in "iuf" or right.dtype.kind not in "iuf":
        return float(not np.array_equal(left, right))
    left, right = left.astype(np.float64), right.astype(np.float64)
    same = (left == right) | (np.isnan(left) & np.isnan(right))
    # Two infinities of one sign have no difference that could be computed.
    apart = np.abs(np.subtract(left, right, where=~same, out=np.zeros_like(left)))
    # A number against NaN differs without measure; JSON, by which the supervisor hears of it, has no infinity.
    return float(np.nan_to_num(apart, nan=LARGEST).max(initial=0.0))
