"""The batch engine: one process reads and hands out, workers predict, parts wait in a folder, the output appears last.

A part is a durable file as soon as it is done. What a kill stopped goes on with the parts that are there, as long as
input, model and settings are the same.
"""

from __future__ import annotations

import os
import selectors
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO

import msgspec
import pyarrow as pa

from modelyard.errors import DataError, InputError, ModelyardError, WorkerLostError
from modelyard.files import storage_errors
from modelyard.packages.codecs.arrays import schema_of
from modelyard.packages.contract import Contract
from modelyard.packages.package import Package
from modelyard.serving.batch.assemble import assemble
from modelyard.serving.batch.frames import Failed, Part, Ready, Reply, Setup, read, send
from modelyard.serving.batch.sources import Source, kept_columns, open_source
from modelyard.serving.batch.spec import BatchOutcome, BatchPlan, BatchSpec, Listener, Progress, default_rows, format_of
from modelyard.serving.batch.workfolder import WorkFolder, manifest_of
from modelyard.serving.wire import error_of

__all__ = ["plan_batch", "run_batch"]

ATTEMPTS = 3
"""How often a piece is tried whose worker died."""

_LOG = "workers.log"


def plan_batch(spec: BatchSpec) -> BatchPlan:
    """Return what a batch prediction would do, and predict nothing.

    Raises:
        As `run_batch`, as far as it can be known before a row is predicted.
    """
    job = _Job(spec)
    work = WorkFolder(spec.output)
    finished, _ = work.finished(manifest_of(spec, job.rows, tuple(job.kept.names), job.target))
    rows = parts = 0
    for piece in job.source.pieces(_Every()):
        rows, parts = piece.first + piece.rows, piece.number + 1
    return BatchPlan(rows, parts, len(finished), job.rows, spec.model, tuple(job.schema.names))


def run_batch(spec: BatchSpec, listen: Listener = lambda _: None) -> BatchOutcome:
    """Predict every row of a file, in the file's order.

    Args:
        spec: What to do.
        listen: Is told how far it is.

    Raises:
        InputError: A path, a suffix or a column that can't be; nothing was written.
        ContractError: A row does not fit the contract; `where` names file, row and field, of the first such row that
            was met. No output is written, and no part is kept.
        DataError: The input is damaged, or changed while it was read.
        BusyError: Another process predicts into the same output.
        IntegrityError: The package was changed.
        StorageError: The disk is full; the parts stay, and the next attempt goes on from them.
        WorkerLostError: A worker died again and again on the same rows.
    """
    started = time.monotonic()
    job = _Job(spec)
    work = WorkFolder(spec.output)
    with work.held():
        manifest = manifest_of(spec, job.rows, tuple(job.kept.names), job.target)
        finished, why = work.finished(manifest)
        if why:
            listen(Progress("predict", 0, job.source.total, 0, f"Parts of an earlier attempt are not used: {why}."))
        elif finished:
            listen(Progress("predict", 0, job.source.total, 0, f"Going on: {len(finished)} parts are there already."))
        work.begin(manifest, finished)
        crew = _Crew(job, work.path, listen)
        try:
            parts, rows = crew.run(finished)
            _see_unchanged(spec.input, manifest.size, manifest.modified)
        except InputError:
            # The rows themselves are wrong: what was made of the others is of no use once they are put right.
            work.remove()
            raise
        finally:
            crew.close()
        assemble(
            work.path, parts, spec.output, job.target, job.schema,
            lambda number: listen(Progress("write", number + 1, parts, rows)),
        )  # fmt: skip
        work.remove()
    return BatchOutcome(rows, parts, len(finished), time.monotonic() - started, spec.output)


class _Every(frozenset[int]):
    """All numbers: for counting pieces without reading them."""

    def __contains__(self, number: object) -> bool:
        return True


class _Job:
    """What is settled before the first row: formats, columns, the size of a part."""

    def __init__(self, spec: BatchSpec) -> None:
        self.spec = spec
        _check_paths(spec)
        self.kind, self.target = format_of(spec.input), format_of(spec.output)
        package = Package.open(spec.package)
        package.check_pickle(spec.pickle)
        self.contract: Contract = package.contract
        self.rows = spec.batch_rows or default_rows(self.contract)
        self.source: Source = open_source(spec.input, self.kind, self.contract, self.rows, spec.columns)
        self.kept = pa.schema(kept_columns(self.source, self.contract, spec.columns, spec.input))
        self.schema = pa.schema([*self.kept, *schema_of(self.contract.outputs)])

    def setup(self, folder: Path) -> Setup:
        """Return what a worker needs to know."""
        return Setup(
            package=str(self.spec.package),
            source=self.kind,
            place=str(self.spec.input),
            header=self.source.header,
            kept=self.kept.serialize().to_pybytes(),
            target=self.target,
            schema=self.schema.serialize().to_pybytes(),
            folder=str(folder.absolute()),
            pickle=self.spec.pickle,
        )


class _Worker:
    """A worker process as the engine sees it.

    Args:
        setup: Its first message.
        log: Where it prints.
    """

    def __init__(self, setup: Setup, log: IO[bytes]) -> None:
        # One thread each: the workers share the cores by their number.
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "modelyard.serving.batch.worker", str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            bufsize=0,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        self.ready = False
        self.part: Part | None = None
        self._send(setup)

    @property
    def idle(self) -> bool:
        """Whether it can take a piece."""
        return self.ready and self.part is None

    def give(self, part: Part) -> None:
        """Hand it a piece; one that is dead is noticed when its answer is read."""
        self.part = part
        self._send(part)

    def answer(self) -> Reply | None:
        """Return its next answer, or None where it died."""
        # Started with a pipe.
        body = read(self.process.stdout)  # type: ignore[arg-type]
        return None if body is None else msgspec.msgpack.decode(body, type=Reply)

    def kill(self) -> None:
        """End it at once."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()

    def _send(self, message: Setup | Part) -> None:
        with suppress(OSError):
            # Started with a pipe.
            send(self.process.stdin.fileno(), message)  # type: ignore[union-attr]


class _Crew:
    """The workers, and the pieces on their way.

    Args:
        job: What to do.
        folder: Where parts go.
        listen: Is told how far it is.
    """

    def __init__(self, job: _Job, folder: Path, listen: Listener) -> None:
        self._job = job
        self._setup = job.setup(folder)
        self._listen = listen
        with storage_errors(folder):
            self._log = (folder / _LOG).open("wb")
        self._folder = folder
        self._selector = selectors.DefaultSelector()
        self._workers: list[_Worker] = []
        self._again: list[Part] = []
        self._lost: dict[int, int] = {}
        self._failures: dict[int, ModelyardError] = {}
        self._rows = 0
        self._ends: dict[int, int] = {}
        self._read = 0
        self._parts = 0
        # A file of text tells its rows only as it is read.
        known = job.source.total if job.source.typed else None
        self._size = min(job.spec.workers, job.spec.workers if known is None else -(-known // job.rows))

    def run(self, finished: frozenset[int]) -> tuple[int, int]:
        """Predict what is not finished; return the number of parts and of rows.

        Raises:
            ModelyardError: The failure of the first piece in the file's order that had one.
        """
        waiting = self._pieces(finished)
        part = self._next(waiting)
        while True:
            if part is not None and not self._failures:
                idle = next((worker for worker in self._workers if worker.idle), None)
                if idle is not None:
                    idle.give(part)
                    part = self._next(waiting)
                    continue
                if len(self._workers) < self._size:
                    self._hire()
                    if len(self._workers) < self._size:
                        continue
            elif not any(worker.part is not None for worker in self._workers):
                break
            for key, _ in self._selector.select():
                self._hear(key.data)
            part = self._next(waiting) if part is None else part
        if self._failures:
            raise self._failures[min(self._failures)]
        return self._parts, self._rows

    def close(self) -> None:
        """End every worker."""
        for worker in self._workers:
            worker.kill()
        self._selector.close()
        self._log.close()

    def _pieces(self, finished: frozenset[int]) -> Iterator[Part]:
        for piece in self._job.source.pieces(finished):
            self._parts = piece.number + 1
            self._ends[piece.number] = piece.end
            if piece.number in finished:
                self._count(piece.number, piece.rows)
            else:
                yield Part(piece.number, piece.first, piece.line, piece.rows, piece.body)

    def _next(self, waiting: Iterator[Part]) -> Part | None:
        return self._again.pop() if self._again else next(waiting, None)

    def _hire(self) -> None:
        worker = _Worker(self._setup, self._log)
        self._workers.append(worker)
        # Started with a pipe.
        self._selector.register(worker.process.stdout, selectors.EVENT_READ, worker)  # type: ignore[arg-type]

    def _hear(self, worker: _Worker) -> None:
        answer = worker.answer()
        if answer is None:
            self._bury(worker)
        elif isinstance(answer, Ready):
            worker.ready = True
        else:
            worker.part = None
            if isinstance(answer, Failed):
                self._failures[answer.number] = error_of(answer.failure)
            else:
                self._count(answer.number, answer.rows)

    def _bury(self, worker: _Worker) -> None:
        # Started with a pipe.
        self._selector.unregister(worker.process.stdout)  # type: ignore[arg-type]
        self._workers.remove(worker)
        worker.kill()
        number = worker.part.number if worker.part is not None else -1
        if worker.part is not None:
            self._again.append(worker.part)
        self._lost[number] = self._lost.get(number, 0) + 1
        if self._lost[number] == ATTEMPTS:
            rows = f"rows {worker.part.first} to {worker.part.first + worker.part.rows - 1}" if worker.part else ""
            self._failures[number] = WorkerLostError(
                f"{ATTEMPTS} workers died{' on the same rows' if rows else ' before they were ready'}"
                f"{self._last_words()}.",
                where=", ".join(filter(None, (str(self._job.spec.input), rows))),
                remedy="Too little memory is the usual reason: try fewer --workers or --batch-rows.",
            )

    def _last_words(self) -> str:
        with suppress(OSError):
            lines = (self._folder / _LOG).read_text(encoding="utf-8", errors="replace").strip().splitlines()
            return f": {lines[-1][:200]}" if lines else ""
        return ""

    def _count(self, number: int, rows: int) -> None:
        self._rows += rows
        self._read += self._ends[number] - self._ends.get(number - 1, 0)
        self._listen(Progress("predict", self._read, self._job.source.total, self._rows))


def _check_paths(spec: BatchSpec) -> None:
    if not spec.input.is_file():
        what = "This is no regular file." if spec.input.exists() else "There is no such file."
        raise InputError(what, where=str(spec.input))
    if spec.output.is_dir() or not spec.output.parent.is_dir():
        what = "is a folder" if spec.output.is_dir() else "lies in a folder that does not exist"
        raise InputError(f"The output {what}.", where=str(spec.output))
    if spec.output.exists() and spec.output.samefile(spec.input):
        raise InputError("The output is the input.", where=str(spec.output), remedy="Name another file.")


def _see_unchanged(path: Path, size: int, modified: int) -> None:
    with storage_errors(path):
        status = path.stat()
    if (status.st_size, status.st_mtime_ns) != (size, modified):
        raise DataError("The file changed while it was read.", where=str(path), remedy="Start again when it is whole.")
