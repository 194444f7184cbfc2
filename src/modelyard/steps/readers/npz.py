"""Read NumPy archives, without pickle."""

from __future__ import annotations

import zipfile
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelyard.data import dtype_name
from modelyard.errors import DataError
from modelyard.files import storage_errors
from modelyard.steps.readers.request import DTYPES, Request, cast_columns, wanted_columns

__all__ = ["read"]


def read(request: Request) -> dict[str, NDArray[Any]]:
    """Return the archive's arrays as columns.

    Raises:
        DataError: The file is no NPZ, is damaged, or holds an array that is no column; it names the array.
    """
    with storage_errors(request.data), request.data.open("rb") as file:
        try:
            archive = np.load(file, allow_pickle=False)
        except (ValueError, EOFError, zipfile.BadZipFile) as error:
            raise _no_archive(request) from error
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise _no_archive(request)
        with archive:
            wanted = wanted_columns(request, archive.files)
            columns = {name: _array(archive, name, request) for name in wanted}
    return cast_columns(columns, request)


def _no_archive(request: Request) -> DataError:
    return DataError(
        "This is no NPZ archive, or a damaged one.",
        where=request.name,
        remedy="Write it with `numpy.savez(file, image=…, label=…)`.",
    )


def _array(archive: np.lib.npyio.NpzFile, name: str, request: Request) -> NDArray[Any]:
    where = f"{request.name}, array {name!r}"
    try:
        values = archive[name]
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        if "allow_pickle" in str(error) or "Object arrays" in str(error):
            raise DataError(
                "The array holds Python objects, which would need pickle.",
                where=where,
                remedy="Save it with a number or text dtype, or leave it out of `columns`.",
            ) from error
        raise DataError(f"The array is damaged: {error}.", where=where, remedy="Get the file again.") from error
    if values.ndim == 0:
        raise DataError("The array has no rows.", where=where, remedy="Leave it out of `columns`.")
    if values.dtype.kind == "S":
        values = _decoded(values, where)
    if dtype_name(values.dtype) not in DTYPES:
        raise DataError(
            f"A column can't have the dtype {values.dtype}.", where=where, remedy="Save it as numbers or text."
        )
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def _decoded(values: NDArray[Any], where: str) -> NDArray[Any]:
    try:
        return np.char.decode(values, "utf-8")
    except UnicodeDecodeError as error:
        raise DataError("The text is not UTF-8.", where=where) from error
