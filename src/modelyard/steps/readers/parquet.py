"""Read Parquet files."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import parquet

from modelyard.errors import DataError
from modelyard.files import storage_errors
from modelyard.steps.readers.request import Request, wanted_columns
from modelyard.steps.readers.tables import table_columns

__all__ = ["read"]


def read(request: Request) -> dict[str, NDArray[Any]]:
    """Return the columns wanted; no other is read.

    Raises:
        DataError: The file is no Parquet, is damaged, or a value does not fit `dtypes`.
    """
    with storage_errors(request.data):
        try:
            with parquet.ParquetFile(request.data) as file:
                wanted = wanted_columns(request, file.schema_arrow.names)
                table = file.read(columns=wanted)
        except (pa.ArrowInvalid, pa.ArrowException) as error:
            raise _damaged(request, error) from error
        except OSError as error:
            # Arrow reports damaged pages as an OSError without an error number.
            if error.errno is None:
                raise _damaged(request, error) from error
            raise
    return table_columns(table.select(wanted), request)


def _damaged(request: Request, error: Exception) -> DataError:
    return DataError(
        f"The Parquet file can't be read: {str(error).rstrip('.')}.", where=request.name, remedy="Get the file again."
    )
