"""Predicts what already waits as one batch: no timer, so nobody waits for others; never across generations.

Slow models predict in a thread, and what comes meanwhile waits together. Quick ones predict in the event loop, where
what came together is predicted together. See decision record 0103.
"""

from __future__ import annotations

import asyncio
from collections import deque
from concurrent.futures import Executor
from typing import NamedTuple

import numpy as np

from modelyard.contracts import Columns
from modelyard.packages.table import Table
from modelyard.serving.slots import Generation

__all__ = ["Arrivals", "Batcher", "Gathering"]

GATHERED_ROWS = 64
"""The most rows that are predicted at once in the event loop."""


class _Waiting(NamedTuple):
    generation: Generation
    columns: Columns
    rows: int
    answer: asyncio.Future[Columns]


class Arrivals:
    """Requests that have come to a worker and have not been looked at yet; they belong to its event loop's thread."""

    __slots__ = ("coming",)

    def __init__(self) -> None:
        self.coming = 0


class Gathering:
    """Predicts in the event loop, as one batch, what came at the same time. It belongs to the event loop's thread.

    Requests that were read from their sockets in one turn of the loop are looked at one after the other. Each but the
    last puts its rows here, and the last one predicts all of them: nobody waits for what has not come yet.

    Args:
        arrivals: Says whether there are more.
    """

    def __init__(self, arrivals: Arrivals) -> None:
        self._arrivals = arrivals
        self._waiting: list[_Waiting] = []

    def worth(self, generation: Generation, columns: Columns, rows: int) -> bool:
        """Say whether there is anybody to share a prediction with, and whether that costs less than one for each.

        Args:
            generation: That answers.
            columns: Of the request.
            rows: How many.
        """
        return (
            rows < GATHERED_ROWS
            and (self._arrivals.coming > 0 or bool(self._waiting))
            and generation.served.joinable
            and (isinstance(columns, Table) or len(columns) == 1)
        )

    async def predict(self, generation: Generation, columns: Columns, rows: int) -> Columns:
        """Return what a generation answers; raises what its predictor raises.

        Args:
            generation: Held by the caller until the answer is there.
            columns: Checked columns.
            rows: How many.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Columns] = loop.create_future()
        self._waiting.append(_Waiting(generation, columns, rows, answer))
        if not self._arrivals.coming:
            self._predict()
        elif len(self._waiting) == 1:
            # Those that come may ask for something else.
            loop.call_soon(self._predict)
        return await answer

    def _predict(self) -> None:
        waiting, self._waiting = self._waiting, []
        # By the generation itself: two models may each have one of the same number.
        groups: dict[tuple[Generation, type[Columns]], list[_Waiting]] = {}
        for one in waiting:
            if not one.answer.done():
                groups.setdefault((one.generation, type(one.columns)), []).append(one)
        for group in groups.values():
            while group:
                batch, group = _cut(group, GATHERED_ROWS)
                _give(batch, _run(batch))


class Batcher:
    """Runs predictions in a thread, one batch at a time. Its methods belong to the event loop's thread.

    While one batch is computed, requests gather; when it is done, the first of them and all others of the same
    generation that fit go together.

    Args:
        executor: With one thread.
        rows: The most rows in one batch, unless a single request has more.
    """

    def __init__(self, executor: Executor, rows: int) -> None:
        self._executor = executor
        self._rows = rows
        self._waiting: deque[_Waiting] = deque()
        self._running = False

    async def predict(self, generation: Generation, columns: Columns, rows: int) -> Columns:
        """Return what a generation answers; raises what its predictor raises.

        Args:
            generation: Held by the caller until the answer is there.
            columns: Checked columns.
            rows: How many.
        """
        answer: asyncio.Future[Columns] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(generation, columns, rows, answer))
        if not self._running:
            self._start()
        return await answer

    def _start(self) -> None:
        batch = self._next_batch()
        self._running = bool(batch)
        if batch:
            running = asyncio.get_running_loop().run_in_executor(self._executor, _run, batch)
            running.add_done_callback(lambda done: self._done(batch, done))

    def _next_batch(self) -> list[_Waiting]:
        batch: list[_Waiting] = []
        rest: deque[_Waiting] = deque()
        rows = 0
        while self._waiting:
            one = self._waiting.popleft()
            if one.answer.done():
                # Its client gave up.
                continue
            if not batch or (one.generation is batch[0].generation and rows + one.rows <= self._rows):
                batch.append(one)
                rows += one.rows
            else:
                rest.append(one)
        self._waiting = rest
        return batch

    def _done(self, batch: list[_Waiting], done: asyncio.Future[list[Columns | Exception]]) -> None:
        _give(batch, done.result())
        self._start()


def _cut(waiting: list[_Waiting], rows: int) -> tuple[list[_Waiting], list[_Waiting]]:
    """Return the first ones that have so many rows together, at least one of them, and the rest."""
    for place, one in enumerate(waiting):
        rows -= one.rows
        if rows < 0 and place:
            return waiting[:place], waiting[place:]
    return waiting, []


def _give(batch: list[_Waiting], results: list[Columns | Exception]) -> None:
    """Tell each request its result."""
    for one, result in zip(batch, results, strict=True):
        if one.answer.done():
            # Its client gave up.
            continue
        if isinstance(result, Exception):
            one.answer.set_exception(result)
        else:
            one.answer.set_result(result)


def _run(batch: list[_Waiting]) -> list[Columns | Exception]:
    """Predict a batch; where that fails, each request alone, so that one does not fail the others."""
    predict = batch[0].generation.served.predict
    if len(batch) > 1:
        try:
            return _together(batch)
        except Exception:  # noqa: S110  (each is tried alone below, and tells its own reason)
            pass
    results: list[Columns | Exception] = []
    for one in batch:
        try:
            results.append(predict(one.columns))
        except Exception as error:
            results.append(error)
    return results


def _together(batch: list[_Waiting]) -> list[Columns | Exception]:
    outputs = batch[0].generation.served.predict(_joined([one.columns for one in batch]))
    results: list[Columns | Exception] = []
    first = 0
    for one in batch:
        results.append({name: values[first : first + one.rows] for name, values in outputs.items()})
        first += one.rows
    return results


def _joined(parts: list[Columns]) -> Columns:
    first = parts[0]
    if isinstance(first, Table):
        matrices = [part.matrix for part in parts if isinstance(part, Table) and part.names == first.names]
        if len(matrices) == len(parts):
            return Table(first.names, np.concatenate(matrices))
    return {name: np.concatenate([part[name] for part in parts]) for name in first}
