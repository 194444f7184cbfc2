"""What a batch prediction is asked to do, and what it says of itself."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np

from modelyard.errors import InputError
from modelyard.packages.contract import Contract

__all__ = ["BatchOutcome", "BatchPlan", "BatchSpec", "Format", "Listener", "Progress", "default_rows", "format_of"]

Format = Literal["parquet", "arrow", "arrows", "csv", "jsonl"]

FORMATS: dict[str, Format] = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".ipc": "arrow",
    ".arrows": "arrows",
    ".csv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
}
"""A file's suffix to its format; `arrow` is an Arrow IPC file, `arrows` a stream."""

_BATCH_BYTES = 16 << 20
_MOST_ROWS = 16_384
_TEXT_BYTES = 64


class BatchSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A batch prediction.

    Args:
        input: The file with the rows.
        output: The file for the answers; one that exists is replaced when all is done.
        package: Folder of the package, verified.
        digest: Of the package: parts that another one made are not taken.
        model: Name and version, for people.
        workers: Processes that predict.
        batch_rows: Rows of a part: read, predicted and made durable together. None: as many as take some 16 MiB.
        columns: Input columns to write before the answers; `*` stands for all.
        pickle: BLAKE3 of the pickled model in the package that may be loaded; None: none may.
    """

    input: Path
    output: Path
    package: Path
    digest: str
    model: str
    workers: int
    batch_rows: int | None = None
    columns: tuple[str, ...] = ()
    pickle: str | None = None


class BatchPlan(msgspec.Struct, frozen=True):
    """What a batch prediction would do.

    Args:
        rows: Of the input.
        parts: How many parts they make.
        finished: How many of these an earlier attempt has left behind, and need no work.
        batch_rows: Rows of a part.
        model: Name and version.
        columns: Of the output, in order.
    """

    rows: int
    parts: int
    finished: int
    batch_rows: int
    model: str
    columns: tuple[str, ...]


class BatchOutcome(msgspec.Struct, frozen=True):
    """What a batch prediction did.

    Args:
        rows: Written.
        parts: They were made in.
        resumed: Parts that an earlier attempt had made.
        seconds: It took.
        output: The file.
    """

    rows: int
    parts: int
    resumed: int
    seconds: float
    output: Path


class Progress(msgspec.Struct, frozen=True):
    """How far a batch prediction is.

    Args:
        phase: `predict`, or `write` while the parts are joined.
        done: Bytes or rows of `total`.
        total: Rows where the format tells them, else bytes of the input.
        rows: Done so far.
        note: Something to tell at once, such as why an earlier attempt's parts are not used; else empty.
    """

    phase: Literal["predict", "write"]
    done: int
    total: int
    rows: int
    note: str = ""


Listener = Callable[[Progress], None]


def format_of(path: Path) -> Format:
    """Return the format that a file's suffix names; raises InputError where it names none."""
    found = FORMATS.get(path.suffix.lower())
    if found is None:
        raise InputError(
            f"The suffix {path.suffix!r} names no format.", where=str(path), remedy=f"Known are {', '.join(FORMATS)}."
        )
    return found


def default_rows(contract: Contract) -> int:
    """Return how many rows of a contract take some 16 MiB, in and out, and at most 16,384."""
    row_bytes = 0
    for field in (*contract.inputs, *contract.outputs):
        size = _TEXT_BYTES if field.dtype == "string" else int(np.dtype(field.dtype).itemsize)
        row_bytes += size * math.prod(field.shape)
    return max(1, min(_MOST_ROWS, _BATCH_BYTES // max(row_bytes, 1)))
