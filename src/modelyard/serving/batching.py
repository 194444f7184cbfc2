"""Predicts what already waits as one batch: no timer, so nobody waits for others; never across generations."""

from __future__ import annotations

import asyncio
from collections import deque
from concurrent.futures import Executor
from typing import NamedTuple

import numpy as np

from modelyard.contracts import Columns
from modelyard.serving.slots import Generation

__all__ = ["Batcher"]


class _Waiting(NamedTuple):
    generation: Generation
    columns: Columns
    rows: int
    answer: asyncio.Future[Columns]


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
        for one, result in zip(batch, done.result(), strict=True):
            if one.answer.done():
                continue
            if isinstance(result, Exception):
                one.answer.set_exception(result)
            else:
                one.answer.set_result(result)
        self._start()


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
    joined = {name: np.concatenate([one.columns[name] for one in batch]) for name in batch[0].columns}
    outputs = batch[0].generation.served.predict(joined)
    results: list[Columns | Exception] = []
    first = 0
    for one in batch:
        results.append({name: values[first : first + one.rows] for name, values in outputs.items()})
        first += one.rows
    return results
