"""Data sets: numbers as `.npy` columns, text as Arrow."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from modelyard.data import Dataset, dtype_name
from modelyard.errors import InputError
from modelyard.store.materializers.array import load_array, save_array

__all__ = ["DatasetMaterializer"]

_HEAD = "dataset.json"


class _Column(msgspec.Struct, frozen=True, kw_only=True):
    """Where one column lies; `dtype` and `shape` are NumPy's, and text needs both to come back as it was."""

    name: str
    file: str
    dtype: str
    shape: tuple[int, ...]


class _Head(msgspec.Struct, frozen=True, kw_only=True):
    columns: tuple[_Column, ...]
    target: str | None
    classes: list[Any] | None


class DatasetMaterializer:
    """A `modelyard.data.Dataset`: one file for each column, so that data sets share the columns they have in common."""

    name: ClassVar[str] = "dataset"

    def accepts(self, value: Any) -> bool:
        """Say whether this is a Dataset."""
        return isinstance(value, Dataset)

    def save(self, value: Dataset, folder: Path) -> Mapping[str, Any]:
        """Write `dataset.json` and `columns/`."""
        (folder / "columns").mkdir()
        columns = []
        for number, (name, values) in enumerate(value.columns.items()):
            text = values.dtype.kind == "U"
            file = f"columns/{number:04d}.{'arrow' if text else 'npy'}"
            (_texts().save_text if text else save_array)(folder / file, np.asarray(values))
            columns.append(_Column(name=name, file=file, dtype=values.dtype.str, shape=values.shape))
        head = _Head(columns=tuple(columns), target=value.target, classes=_plain_classes(value.classes))
        (folder / _HEAD).write_bytes(msgspec.json.encode(head))
        summary: dict[str, Any] = {
            "rows": len(value),
            "columns": {name: _describe(values) for name, values in list(value.columns.items())[:50]},
            "target": value.target,
        }
        if value.classes is not None:
            summary["classes"] = len(value.classes)
        return summary

    def load(self, folder: Path) -> Dataset:
        """Return the data set; numbers are memory-mapped, text is read, both are read-only."""
        head = msgspec.json.decode((folder / _HEAD).read_bytes(), type=_Head)
        columns = {
            column.name: _texts().load_text(folder / column.file, column.dtype, column.shape)
            if column.file.endswith(".arrow")
            else load_array(folder / column.file)
            for column in head.columns
        }
        return Dataset(columns, head.target, None if head.classes is None else tuple(head.classes))


def _describe(values: NDArray[Any]) -> str:
    shape = "x".join(map(str, values.shape[1:]))
    return dtype_name(values.dtype) + (f"[{shape}]" if shape else "")


def _plain_classes(classes: tuple[Any, ...] | None) -> list[Any] | None:
    if classes is None:
        return None
    plain = [item.item() if isinstance(item, np.generic) else item for item in classes]
    for item in plain:
        if not isinstance(item, bool | int | float | str):
            raise InputError(f"A class can't be a {type(item).__name__}.", remedy="Use texts, numbers or truth values.")
    return plain


def _texts() -> Any:
    # Only text needs Arrow, whose import takes longer than to save many a data set.
    return importlib.import_module("modelyard.store.materializers.texts")
