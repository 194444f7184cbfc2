"""Read JSON lines: one object a line, also gzip-compressed."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import json

from modelyard.errors import DataError
from modelyard.files import storage_errors
from modelyard.steps.readers.request import Request, wanted_columns
from modelyard.steps.readers.tables import table_columns

__all__ = ["read"]

_LARGEST_BLOCK = 1 << 30


def read(request: Request) -> dict[str, NDArray[Any]]:
    """Return the columns wanted; a key that a line lacks counts as missing.

    Raises:
        DataError: A line is no JSON object, one key has values of several types, or a value does not fit `dtypes`.
    """
    with storage_errors(request.data):
        size = min(max(request.data.stat().st_size * 20, 1 << 20), _LARGEST_BLOCK)
        try:
            table = json.read_json(request.data, read_options=json.ReadOptions(block_size=size))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            text = str(error).rstrip(".").replace("\n", " ")
            raise DataError(
                f"The JSON lines can't be read: {text}.",
                where=request.name,
                remedy="Give every line one object, and every key values of one type.",
            ) from error
    wanted = wanted_columns(request, table.column_names)
    return table_columns(_without_dates(table.select(wanted)), request)


def _without_dates(table: pa.Table) -> pa.Table:
    # Arrow reads text that looks like a time as a timestamp; text as ISO 8601 is what a service will be sent.
    for index, field in enumerate(table.schema):
        if pa.types.is_timestamp(field.type):
            table = table.set_column(index, field.name, table.column(index).cast(pa.string()))
    return table
