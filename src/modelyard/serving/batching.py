"""Predicts what already waits as one batch: no timer, so nobody waits for others; never across generations.

Slow models predict in a thread, and what comes meanwhile waits together. Quick ones predict in the event loop, where
what came together is answered together. See decision record 0103.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Executor
from typing import Any, NamedTuple, Protocol

import numpy as np

from modelyard.contracts import Columns
from modelyard.packages.table import Table
from modelyard.serving.loading import Served
from modelyard.serving.slots import Generation

__all__ = ["TOGETHER", "Batcher", "Gathering", "Question", "answer_together"]

GATHERED_ROWS = 64
"""The most rows that are predicted at once in the event loop, unless a single request has more."""
TOGETHER = 32
"""The most requests that are answered at once: the first of them gets its answer after the last was predicted."""


class Question(Protocol):
    """A request for a prediction by a quick model, whose body has come."""

    generation: Generation
    """That answers, held by whoever asks; reading may find that it is another one."""
    rows: int
    """How many there are, once they have been read."""

    def read(self) -> Columns:
        """Return checked columns; raises what tells why there are none."""

    def write(self, columns: Columns, outputs: Columns) -> Any:
        """Return what the client is sent."""

    def failed(self, error: Exception) -> Exception:
        """Return how the client is told that the predictor raised an error."""


_Part = tuple[int, Question, Columns]
"""Place among the questions, the question, what was read."""


class Gathering:
    """Answers in the event loop, and at once, what is asked in one turn of it. It belongs to its thread."""

    def __init__(self) -> None:
        self._waiting: list[tuple[Question, asyncio.Future[Any]]] = []

    async def answer(self, question: Question) -> Any:
        """Return the answer to a question; raises what there is instead of one."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Any] = loop.create_future()
        if not self._waiting:
            loop.call_soon(self._answer)
        self._waiting.append((question, answer))
        return await answer

    def _answer(self) -> None:
        # Those whose clients gave up are done already.
        waiting = [one for one in self._waiting if not one[1].done()]
        self._waiting = []
        for first in range(0, len(waiting), TOGETHER):
            some = waiting[first : first + TOGETHER]
            for (_, answer), result in zip(some, answer_together([question for question, _ in some]), strict=True):
                if isinstance(result, Exception):
                    answer.set_exception(result)
                else:
                    answer.set_result(result)


def answer_together(questions: Sequence[Question]) -> list[Any]:
    """Return the answers of quick models, in the order of the questions; an exception stands where there is none.

    All are decoded, then all are predicted, then all are encoded: a processor that does the same for many finds the
    code for it in its caches.

    Args:
        questions: Of any models.
    """
    results: list[Any] = [None] * len(questions)
    groups: dict[object, list[_Part]] = {}
    for place, question in enumerate(questions):
        try:
            columns = question.read()
        except Exception as error:
            results[place] = error
            continue
        kind = _kind(question.generation, columns) or place
        group = groups.get(kind)
        if group is None:
            groups[kind] = [(place, question, columns)]
        else:
            group.append((place, question, columns))
    for group in groups.values():
        for batch in (group,) if len(group) == 1 else _cut(group):
            predicted = _run(
                batch[0][1].generation.served, [part[2] for part in batch], [part[1].rows for part in batch]
            )
            for (place, question, columns), outputs in zip(batch, predicted, strict=True):
                try:
                    if isinstance(outputs, Exception):
                        results[place] = question.failed(outputs)
                    else:
                        results[place] = question.write(columns, outputs)
                except Exception as error:
                    results[place] = error
    return results


def _kind(generation: Generation, columns: Columns) -> object:
    """Return what all those share that may be predicted together, or None where that would not pay, or not be right.

    By the generation itself: two models may each have one of the same number.
    """
    if not generation.served.joinable:
        return None
    if isinstance(columns, Table):
        return generation, columns.names
    # To join many columns costs more than to predict twice.
    return generation if len(columns) == 1 else None


def _cut(group: list[_Part]) -> list[list[_Part]]:
    """Return batches of at most so many rows, unless a single request has more."""
    batches: list[list[_Part]] = [[]]
    room = GATHERED_ROWS
    for part in group:
        rows = part[1].rows
        if rows > room and batches[-1]:
            batches.append([])
            room = GATHERED_ROWS
        batches[-1].append(part)
        room -= rows
    return batches


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
            columns, rows = [one.columns for one in batch], [one.rows for one in batch]
            running = asyncio.get_running_loop().run_in_executor(
                self._executor, _run, batch[0].generation.served, columns, rows
            )
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
                # Its client gave up.
                continue
            if isinstance(result, Exception):
                one.answer.set_exception(result)
            else:
                one.answer.set_result(result)
        self._start()


def _run(served: Served, parts: list[Columns], rows: list[int]) -> list[Columns | Exception]:
    """Predict a batch; where that fails, each part alone, so that one does not fail the others."""
    if len(parts) > 1:
        try:
            return _together(served, parts, rows)
        except Exception:  # noqa: S110  (each is tried alone below, and tells its own reason)
            pass
    results: list[Columns | Exception] = []
    for columns in parts:
        try:
            results.append(served.predict(columns))
        except Exception as error:
            results.append(error)
    return results


def _together(served: Served, parts: list[Columns], rows: list[int]) -> list[Columns | Exception]:
    outputs = served.predict(_joined(parts))
    results: list[Columns | Exception] = []
    first = 0
    for count in rows:
        last = first + count
        results.append({name: values[first:last] for name, values in outputs.items()})
        first = last
    return results


def _joined(parts: list[Columns]) -> Columns:
    first = parts[0]
    if isinstance(first, Table):
        tables = [part for part in parts if isinstance(part, Table) and part.names == first.names]
        if len(tables) == len(parts):
            return Table.joined(tables)
    return {name: np.concatenate([part[name] for part in parts]) for name in first}
