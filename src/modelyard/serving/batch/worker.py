"""A process that predicts pieces one after the other: `python -m modelyard.serving.batch.worker PARENT`."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import cast

import msgspec
import pyarrow as pa

from modelyard.contracts import Columns
from modelyard.errors import ModelyardError
from modelyard.files import write_atomically
from modelyard.packages.package import Package
from modelyard.serving.batch import convert
from modelyard.serving.batch.frames import Done, Failed, Part, Ready, Setup, read, send
from modelyard.serving.batch.spec import Format
from modelyard.serving.batch.workfolder import part_file
from modelyard.serving.wire import failure_of

__all__ = ["main"]

_PR_SET_PDEATHSIG = 1


def main(parent: int) -> None:
    """Serve the engine until it goes away.

    Args:
        parent: Process id of the engine, which this process never outlives.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        return
    # Ctrl-C is for the engine to handle; it ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    pa.set_cpu_count(1)
    answers = os.dup(1)
    # What a library prints must not get between the answers.
    os.dup2(2, 1)
    with open(0, "rb", buffering=0, closefd=False) as pipe:
        first = read(pipe)
        if first is None:
            return
        setup = msgspec.msgpack.decode(first, type=Setup)
        try:
            package = Package.open(Path(setup.package))
            model = package.served(setup.pickle)
            package.check_golden(model)
        except Exception as error:
            send(answers, Failed(-1, failure_of(error)))
            return
        worker = _Worker(setup, package, model.predict)
        send(answers, Ready())
        while (body := read(pipe)) is not None:
            part = msgspec.msgpack.decode(body, type=Part)
            try:
                answer: Done | Failed = worker.make(part)
            except Exception as error:
                # Whatever a piece does to a codec or to the model is told to the engine, which names the piece.
                known = error if isinstance(error, ModelyardError) else None
                told = convert.rebased(known, setup.place, part.first, part.line) if known is not None else error
                answer = Failed(part.number, failure_of(told))
            send(answers, answer)


class _Worker:
    """Makes parts.

    Args:
        setup: As sent.
        package: Whose contract holds.
        predict: The model.
    """

    def __init__(self, setup: Setup, package: Package, predict: Callable[[Columns], Columns]) -> None:
        self._setup = setup
        self._contract = package.contract
        self._predict = predict
        self._kept = pa.ipc.read_schema(pa.py_buffer(setup.kept))
        self._schema = pa.ipc.read_schema(pa.py_buffer(setup.schema))

    def make(self, part: Part) -> Done:
        """Predict a piece and write its part durably."""
        setup = self._setup
        columns, kept = convert.decode(
            self._contract, cast(Format, setup.source), setup.header, part.body, part.rows, self._kept
        )
        outputs = self._predict(columns)
        content = convert.encode(cast(Format, setup.target), kept, outputs, self._schema)
        write_atomically(part_file(Path(setup.folder), part.number), content)
        return Done(part.number, part.rows)


if __name__ == "__main__":
    main(int(sys.argv[1]))
