"""Columns of text as Arrow files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

__all__ = ["load_text", "save_text"]


def save_text(path: Path, values: NDArray[Any]) -> None:
    """Write an array of text into a new file."""
    # NumPy pads text to the longest row with four bytes a letter; Arrow keeps what is there.
    column = pa.array(values.ravel().tolist(), type=pa.large_string())
    table = pa.table({"text": column})
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def load_text(path: Path, dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
    """Return the array, read-only.

    Args:
        path: What `save_text` wrote.
        dtype: NumPy's name of it, which says how long the longest row may be.
        shape: As it was.
    """
    with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as reader:
        texts = reader.read_all().column("text").to_pylist()
    values = np.array(texts, dtype=dtype).reshape(shape)
    values.flags.writeable = False
    return values
