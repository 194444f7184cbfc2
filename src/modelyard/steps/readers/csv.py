"""Read CSV with a header line, also gzip-compressed."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import csv

from modelyard.errors import DataError
from modelyard.files import storage_errors
from modelyard.steps.readers.request import Request, wanted_columns
from modelyard.steps.readers.tables import arrow_types, table_columns

__all__ = ["read"]

_LARGEST_BLOCK = 1 << 30


def read(request: Request) -> dict[str, NDArray[Any]]:
    """Return the columns wanted; types are guessed over the whole file, `dtypes` decides where the guess is wrong.

    Dates and times stay the text that they are.

    Raises:
        DataError: The file is no CSV in UTF-8, a line has too many or too few cells, or a value does not fit.
    """
    wanted = wanted_columns(request, _header(request))
    types = arrow_types(request.dtypes)
    table = _parse(request, wanted, types)
    dated = {field.name: pa.string() for field in table.schema if pa.types.is_temporal(field.type)}
    if dated:
        table = _parse(request, wanted, types | dated)
    for field in table.schema:
        if pa.types.is_binary(field.type):
            raise DataError(
                "The text is not UTF-8.",
                where=f"{request.name}, column {field.name!r}",
                remedy="Save the file as UTF-8.",
            )
    return table_columns(table, request, header=1)


def _header(request: Request) -> list[str]:
    with storage_errors(request.data):
        try:
            with csv.open_csv(request.data, read_options=csv.ReadOptions(use_threads=False)) as reader:
                return list(reader.schema.names)
        except (pa.ArrowInvalid, UnicodeDecodeError) as error:
            raise _unreadable(request, error) from error


def _parse(request: Request, columns: list[str], types: dict[str, pa.DataType]) -> pa.Table:
    # One block, so that a column whose hundred-thousandth row is the first with a fraction is no error.
    size = min(max(request.data.stat().st_size * 20, 1 << 20), _LARGEST_BLOCK)
    options = csv.ConvertOptions(include_columns=columns, column_types=types)
    for threads in (True, False):
        try:
            with storage_errors(request.data):
                return csv.read_csv(
                    request.data,
                    read_options=csv.ReadOptions(block_size=size, use_threads=threads),
                    convert_options=options,
                )
        except (pa.ArrowInvalid, pa.ArrowKeyError, UnicodeDecodeError) as error:
            # Arrow counts rows only without threads, and the row is what the user needs.
            if not threads:
                raise _unreadable(request, error) from error
    raise AssertionError("unreachable")


def _unreadable(request: Request, error: Exception) -> DataError:
    text = str(error).rstrip(".").replace("\n", " ")
    remedy = (
        "Correct the value, or give the column another type in `dtypes`."
        if "conversion error" in text
        else "Correct the file; CSV needs a header line, commas, and UTF-8."
    )
    return DataError(f"The CSV can't be read: {text}.", where=request.name, remedy=remedy)
