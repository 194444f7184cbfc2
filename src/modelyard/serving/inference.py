"""The one path of a prediction, whatever protocol it came by: take a generation, decode, predict, encode.

A request takes its generation once, before its body is read, and keeps it to the end. A quick model answers small
bodies in the event loop itself, because a thread costs more than the prediction. Large bodies are decoded in a thread
beside it, and slow models predict there, so that probes and small requests need not wait; what waits for a slow model
meanwhile is predicted together, as one batch, and never across generations.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Protocol

from modelyard.contracts import Columns
from modelyard.errors import ContractError, ModelyardError
from modelyard.packages.contract import limit_rows
from modelyard.packages.table import Table
from modelyard.serving.batching import Batcher, Gathering
from modelyard.serving.loading import Served
from modelyard.serving.logs import Log
from modelyard.serving.metrics import Metrics
from modelyard.serving.problems import HttpProblem, problem_of
from modelyard.serving.shadowing import Shadowing
from modelyard.serving.slots import Generation, Slot, Slots
from modelyard.serving.spec import Limits
from modelyard.serving.state import Page
from modelyard.serving.tracing import Trace, Tracer

__all__ = ["LARGE_BODY", "Codec", "Inference", "Taken", "model_missing"]

LARGE_BODY = 256 * 1024
"""Bytes; a larger body is decoded beside the event loop."""
RETRY = (("retry-after", "1"),)


class Codec(Protocol):
    """How one request's body is read and its answer written; a thread may do either."""

    def decode(self, served: Served, body: Any) -> Columns:
        """Return checked columns; raises ContractError."""

    def encode(self, generation: Generation, outputs: Columns) -> Any:
        """Return what the protocol sends."""


class Inference:
    """Predictions of one worker.

    Args:
        slots: What this worker holds.
        limits: What one request, and the service, may ask for.
        metrics: Of this worker.
        log: Of this worker.
        worker: Its number, from 0.
        workers: How many the service has.
    """

    def __init__(self, slots: Slots, limits: Limits, metrics: Metrics, log: Log, worker: int, workers: int) -> None:
        self.slots = slots
        self.limits = limits
        self.metrics = metrics
        self.log = log
        self.log_requests = log.wants("debug")
        self.words = slots.page.words
        self.own = Page.WORKERS + worker
        self.computing = ThreadPoolExecutor(1, thread_name_prefix="predict")
        self.batcher = Batcher(self.computing, limits.rows)
        self.gathering = Gathering()
        self.shadowing = Shadowing()
        self.tracer: Tracer | None = None
        """Begins traces, where somebody wants any."""
        self._page = slots.page
        self._workers = workers

    def take(
        self,
        name: str,
        request_id: str = "",
        *,
        key: Callable[[], str | None] | None = None,
        version: str | None = None,
        label: str | None = None,
        trace: Trace | None = None,
    ) -> Taken:
        """Take the generation that answers; leave it by `with`.

        Args:
            name: Of the model.
            request_id: For the log.
            key: Says what the client is known by: while there is a canary, it gets the same of the two each time.
            version: Such as `v1.2.0`: that one alone may answer.
            label: `stable`, `canary` or one that was given by hand: what it names alone may answer.
            trace: Is told what answered.

        Raises:
            HttpProblem: 404 no such model, version or label; 429 too many requests in flight; 503 not loaded.
        """
        started = time.perf_counter()
        self.words[self.own] += 1
        try:
            slot = self.slots.get(name) or self.slot(name)
            if version is not None:
                generation = slot.take_version(version)
            elif label is not None:
                generation = slot.take_label(label)
            else:
                generation = slot.take(key() if key is not None and slot.has_canary else None)
            if generation is None:
                raise model_missing(slot, version, label)
            try:
                self._admit()
            except HttpProblem:
                Slot.release(generation)
                raise
        except HttpProblem as problem:
            self.words[self.own] -= 1
            # A name that is not served is the client's invention; as a label it would fill the memory.
            self.metrics.answered(name if name in self.slots else "", "", problem.status, time.perf_counter() - started)
            raise
        pinned = version is not None or label is not None
        return Taken(self, slot, generation, request_id, started, pinned=pinned, trace=trace)

    def slot(self, name: str) -> Slot:
        """Return the slot of a model; raises HttpProblem 404 or 503 where there is none."""
        slot = self.slots.get(name)
        if slot is None:
            if not self.words[Page.READY]:
                raise HttpProblem(503, "not-ready", "The service has not learned yet what is live.", headers=RETRY)
            raise HttpProblem(
                404, "not-found", "No model of that name is served here.", remedy="GET /v1/models lists them."
            )
        return slot

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Count a request that needs no model; raises HttpProblem 429 where too many are in flight."""
        self.words[self.own] += 1
        try:
            self._admit()
            yield
        finally:
            self.words[self.own] -= 1

    def _admit(self) -> None:
        if self._page.in_flight(self._workers) > self.limits.in_flight:
            raise HttpProblem(
                429, "busy", f"More than {self.limits.in_flight} requests are in flight.", remedy="Try again.",
                headers=RETRY,
            )  # fmt: skip


def model_missing(slot: Slot, version: str | None = None, label: str | None = None) -> HttpProblem:
    """Return the problem that a slot holds nothing that answers, or not that version or label."""
    if version is None and label is None:
        return HttpProblem(503, "not-ready", f"The model {slot.name!r} is not loaded.", headers=RETRY)
    what = f"version {version}" if version is not None else f"label {label}"
    return HttpProblem(
        404, "not-found", f"The model {slot.name!r} has no {what} here.", remedy="GET /v1/models lists what is served."
    )


class Taken:
    """A request that holds a generation, from its head to its answer.

    Args:
        inference: Of the worker.
        slot: Of the model.
        generation: What was taken; another one of the slot where only its contract fits the body.
        request_id: For the log.
        started: Seconds on the clock of `time.perf_counter`.
        pinned: Whether the client named a version or label, so that no other may answer, and no shadow sees it.
        trace: Is told what answered, or None.
    """

    __slots__ = (
        "_body", "_codec", "_inference", "_pinned", "_request_id", "_slot", "_started", "_trace", "generation", "rows",
    )  # fmt: skip

    _body: Any
    _codec: Codec

    def __init__(
        self,
        inference: Inference,
        slot: Slot,
        generation: Generation,
        request_id: str,
        started: float,
        *,
        pinned: bool = False,
        trace: Trace | None = None,
    ) -> None:
        self._inference = inference
        self._pinned = pinned
        self._slot = slot
        self._request_id = request_id
        self._started = started
        self._trace = trace
        self.generation = generation
        self.rows = 0

    def __enter__(self) -> Taken:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.leave(error)

    def leave(self, error: BaseException | None = None) -> None:
        """Give the generation back, and count how the request ended.

        Args:
            error: That was told instead of an answer, or None.
        """
        inference, generation = self._inference, self.generation
        Slot.release(generation)
        inference.words[inference.own] -= 1
        if error is None:
            status = 200
        elif isinstance(error, Exception):
            status = problem_of(error).status
        else:
            # The deadline passed, or the client went away.
            status = 499
        seconds = time.perf_counter() - self._started
        model, version = generation.record.model, generation.version
        inference.metrics.answered(model, version, status, seconds)
        if generation.stats is not None:
            generation.stats.answered(status, seconds)
        trace = self._trace
        if trace is not None:
            trace.served(model, version, generation.number, self.rows)
        if inference.log_requests:
            inference.log.debug(
                "request", request=self._request_id, model=model, version=version, status=status, rows=self.rows,
                seconds=seconds, generation=generation.number, **(trace.fields if trace is not None else {}),
            )  # fmt: skip

    def ask(self, body: Any, codec: Codec) -> None:
        """Take down what is asked, so that it can be answered together with others.

        Args:
            body: As the protocol brought it.
            codec: Reads it, and writes the answer.
        """
        self._body = body
        self._codec = codec

    async def answer(self, body: Any, codec: Codec, *, size: int | None = None, beside: bool = False) -> Any:
        """Predict what a body asks for.

        Args:
            body: As the protocol brought it.
            codec: Reads it, and writes the answer.
            size: Bytes of the body; default its length.
            beside: Whether even a small one is too much work for the event loop.

        Raises:
            ContractError: The body does not fit the contract.
            TooManyRowsError: It has more rows than the limit.
            HttpProblem: 500 the model could not answer.
        """
        self.ask(body, codec)
        # A body that has no length comes with its size.
        large = beside or (len(body) if size is None else size) > LARGE_BODY
        if self.generation.quick and not large:
            return await self._inference.gathering.answer(self)
        columns = await self._read_beside() if large else self.read()
        try:
            outputs = await self._inference.batcher.predict(self.generation, columns, self.rows)
        except ModelyardError:
            raise
        except Exception as error:
            raise self.failed(error) from error
        if not large:
            return self.write(columns, outputs)
        loop = asyncio.get_running_loop()
        answer = await loop.run_in_executor(self._inference.computing, codec.encode, self.generation, outputs)
        self._mirror(columns, outputs)
        return answer

    # What is answered together with others

    def read(self) -> Columns:
        """Return checked columns, maybe of another generation; raises ContractError and TooManyRowsError."""
        try:
            columns = self._codec.decode(self.generation.served, self._body)
        except ContractError as error:
            columns = self._read_by_previous(error)
        self._count(columns)
        return columns

    def write(self, columns: Columns, outputs: Columns) -> Any:
        """Return what the client is sent, and let the shadow see it."""
        answer = self._codec.encode(self.generation, outputs)
        self._mirror(columns, outputs)
        return answer

    def failed(self, error: Exception) -> Exception:
        """Return how the client is told that the predictor raised an error, and take down why."""
        if isinstance(error, ModelyardError):
            return error
        self._inference.log.error(
            "predict-failed", model=self.generation.record.model, generation=self.generation.number,
            reason=repr(error)[:500],
        )  # fmt: skip
        told = HttpProblem(500, "internal", "The model could not answer.", remedy="The service's log has the reason.")
        told.__cause__ = error
        return told

    async def _read_beside(self) -> Columns:
        loop = asyncio.get_running_loop()
        try:
            columns: Columns = await loop.run_in_executor(
                self._inference.computing, self._codec.decode, self.generation.served, self._body
            )
        except ContractError as error:
            columns = self._read_by_previous(error)
        self._count(columns)
        return columns

    def _read_by_previous(self, error: ContractError) -> Columns:
        """Return what fits only the contract that was replaced a short time ago, and take that generation instead."""
        previous = None if self._pinned else self._slot.previous_in_grace(self.generation)
        if previous is None:
            raise error
        try:
            columns = self._codec.decode(previous.served, self._body)
        except ContractError:
            Slot.release(previous)
            raise error from None
        Slot.release(self.generation)
        self.generation = previous
        return columns

    def _mirror(self, columns: Columns, outputs: Columns) -> None:
        shadow = None if self._pinned else self._slot.shadow()
        if shadow is None:
            return
        served, body, codec = shadow.served, self._body, self._codec
        same = served.contract.inputs == self.generation.served.contract.inputs
        # Put behind the answer in the event loop's queue.
        asyncio.get_running_loop().call_soon(
            self._inference.shadowing.mirror,
            shadow,
            (lambda: columns) if same else (lambda: codec.decode(served, body)),
            outputs,
            self.rows,
        )

    def _count(self, columns: Columns) -> None:
        self.rows = rows = columns.rows if isinstance(columns, Table) else len(next(iter(columns.values())))
        if rows > self._inference.limits.rows:
            limit_rows(rows, self._inference.limits.rows)
