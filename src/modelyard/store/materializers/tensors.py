"""Named arrays as one safetensors file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

__all__ = ["SafetensorsMaterializer"]

_FILE = "tensors.safetensors"
_NUMBERS = frozenset("biuf")


class SafetensorsMaterializer:
    """A mapping from text to NumPy arrays of numbers or truth values, such as a network's weights."""

    name: ClassVar[str] = "safetensors"

    def accepts(self, value: Any) -> bool:
        """Say whether this is such a mapping, and not an empty one."""
        return (
            type(value) is dict
            and bool(value)
            and all(
                type(name) is str and isinstance(array, np.ndarray) and array.dtype.kind in _NUMBERS
                for name, array in value.items()
            )
        )

    def save(self, value: dict[str, NDArray[Any]], folder: Path) -> Mapping[str, Any]:
        """Write `tensors.safetensors`; the file keeps its own order of the arrays."""
        # Byte order and memory layout are not part of the format: what is strided or swapped is written straight.
        arrays = {
            name: np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("=")).reshape(array.shape)
            for name, array in value.items()
        }
        try:
            save_file(arrays, str(folder / _FILE))
        except SafetensorError as error:
            # The library tells the operating system's error in words alone.
            found = re.search(r"os error (\d+)", str(error))
            if found is None:
                raise
            raise OSError(int(found[1]), str(error), str(folder / _FILE)) from error
        return {"tensors": len(arrays), "parameters": sum(int(array.size) for array in arrays.values())}

    def load(self, folder: Path) -> dict[str, NDArray[Any]]:
        """Return the arrays by name, read-only."""
        with safe_open(str(folder / _FILE), framework="numpy") as file:
            arrays: dict[str, NDArray[Any]] = {name: file.get_tensor(name) for name in sorted(file.keys())}
        for array in arrays.values():
            array.flags.writeable = False
        return arrays
