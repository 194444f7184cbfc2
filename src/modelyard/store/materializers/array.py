"""NumPy arrays as `.npy`, memory-mapped on read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from modelyard.errors import InputError

__all__ = ["ArrayMaterializer", "load_array", "save_array"]

_FILE = "array.npy"


class ArrayMaterializer:
    """A NumPy array, or one of NumPy's scalars (which comes back as an array without dimensions)."""

    name: ClassVar[str] = "array"

    def accepts(self, value: Any) -> bool:
        """Say whether this is an array that holds no Python objects."""
        return isinstance(value, np.ndarray | np.generic) and not value.dtype.hasobject

    def save(self, value: Any, folder: Path) -> Mapping[str, Any]:
        """Write `array.npy`."""
        array = np.asarray(value)
        save_array(folder / _FILE, array)
        return {"shape": list(array.shape), "dtype": str(array.dtype)}

    def load(self, folder: Path) -> NDArray[Any]:
        """Return the array, memory-mapped."""
        return load_array(folder / _FILE)


def save_array(path: Path, array: NDArray[Any]) -> None:
    """Write an array as `.npy`, never with pickle.

    Raises:
        InputError: It holds Python objects.
    """
    if array.dtype.hasobject:
        raise InputError("An array of Python objects can't be saved.", remedy="Give every element one type.")
    with path.open("xb") as file:
        if array.dtype.names is not None:
            np.save(file, array, allow_pickle=False)
            return
        # Not np.save: on a full disk it says how many items were written, and not that the disk is full.
        if not (array.flags.c_contiguous or array.flags.f_contiguous):
            array = np.ascontiguousarray(array)
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
        flat = array.reshape(-1) if array.flags.c_contiguous else array.T.reshape(-1)
        if flat.nbytes:
            file.write(flat.view(np.uint8).data)


def load_array(path: Path) -> NDArray[Any]:
    """Return the array in an `.npy` file, read-only, and memory-mapped where there is anything to map."""
    mapped: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    # The subclass `memmap` would survive arithmetic and surprise whoever checks types.
    return mapped.view(np.ndarray)
