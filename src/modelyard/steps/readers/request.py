"""What a reader is asked for, and the checks that readers share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelyard.errors import DataError
from modelyard.steps.hints import nearest

__all__ = ["DTYPES", "Request", "cast_columns", "check_dtypes", "wanted_columns"]

DTYPES = (
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
    "float16", "float32", "float64", "string",
)  # fmt: skip
"""Names that `dtypes` may use, the same as in a contract's fields."""


@dataclass(frozen=True, slots=True)
class Request:
    """One part of the data, local by now.

    Args:
        data: The file, or the folder for images.
        name: The source as the user named it, for errors.
        labels: For IDX: the file of labels.
        labels_name: That source as the user named it.
        target: Column to predict, or None.
        columns: Columns to keep beside the target; None keeps all.
        dtypes: Column to the dtype it shall have.
        image_size: Rows and columns that images are resized to; None: all have one size already.
        workdir: A folder for what a reader unpacks.
    """

    data: Path
    name: str
    labels: Path | None = None
    labels_name: str = ""
    target: str | None = None
    columns: tuple[str, ...] | None = None
    dtypes: Mapping[str, str] = field(default_factory=dict)
    image_size: tuple[int, int] | None = None
    workdir: Path = Path()


def wanted_columns(request: Request, there: Iterable[str]) -> list[str]:
    """Return the columns to read, in order: those asked for and then the target, or all.

    Raises:
        DataError: A column that is asked for is missing, or one name stands for two columns.
    """
    names = list(there)
    twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if twice:
        raise DataError(f"Two columns are called {twice[0]!r}.", where=request.name, remedy="Rename one of them.")
    wanted = names if request.columns is None else [*dict.fromkeys(request.columns)]
    if request.target is not None and request.target not in wanted:
        wanted = [*wanted, request.target]
    for name in (*wanted, *request.dtypes):
        if name not in names:
            raise DataError(f"There is no column {name!r}.", where=request.name, remedy=nearest(name, names))
    return wanted


def check_dtypes(dtypes: Mapping[str, str]) -> None:
    """Raise DataError where a dtype is none that a column can have; it names the nearest."""
    for column, dtype in dtypes.items():
        if dtype not in DTYPES:
            raise DataError(
                f"{dtype!r} is no dtype that a column can have.",
                where=f"dtypes.{column}",
                remedy=nearest(dtype, DTYPES),
            )


def cast_columns(columns: dict[str, NDArray[Any]], request: Request) -> dict[str, NDArray[Any]]:
    """Return the columns with the dtypes asked for.

    Raises:
        DataError: A value does not fit its column's dtype; it names the row, counted from 1.
    """
    result = dict(columns)
    for name, dtype in request.dtypes.items():
        if name in result:
            result[name] = _cast(result[name], dtype, f"{request.name}, column {name!r}")
    return result


def _cast(values: NDArray[Any], dtype: str, where: str) -> NDArray[Any]:
    if dtype == "string":
        return values if values.dtype.kind == "U" else values.astype(np.str_)
    wanted = np.dtype(dtype)
    if values.dtype == wanted:
        return values
    if values.dtype.kind == "U":
        try:
            return values.astype(wanted)
        except (ValueError, OverflowError) as error:
            raise DataError(f"The text can't be read as {dtype}: {error}.", where=where) from error
    with np.errstate(invalid="ignore", over="ignore"):
        result = values.astype(wanted)
    if wanted.kind in "biu":
        with np.errstate(invalid="ignore"):
            wrong = (result != values) | ((result < 0) != (values < 0))
    elif wanted.kind == "f":
        wrong = np.isinf(result) & np.isfinite(values)
    else:
        wrong = np.zeros(len(values), dtype=bool)
    if wrong.any():
        row = int(np.argwhere(wrong)[0][0])
        value = values[tuple(np.argwhere(wrong)[0])]
        raise DataError(
            f"The value {value} does not fit {dtype}.",
            where=f"{where}, row {row + 1}",
            remedy="Choose a wider dtype; a missing value needs a float.",
        )
    return result
