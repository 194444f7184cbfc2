"""Tables as Parquet: Arrow's, and data frames of pandas."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq

from modelyard.errors import InputError

__all__ = ["TableMaterializer"]

_ARROW = "table.parquet"
_PANDAS = "frame.parquet"


class TableMaterializer:
    """A `pyarrow.Table` or a `pandas.DataFrame`; it comes back as the one it was, the index included."""

    name: ClassVar[str] = "table"

    def accepts(self, value: Any) -> bool:
        """Say whether this is such a table."""
        return isinstance(value, pa.Table) or _is_frame(value)

    def save(self, value: Any, folder: Path) -> Mapping[str, Any]:
        """Write one Parquet file, whose name says which of the two it was.

        Raises:
            InputError: A column mixes types.
        """
        frame = _is_frame(value)
        try:
            table = pa.Table.from_pandas(value) if frame else value
            pq.write_table(table, str(folder / (_PANDAS if frame else _ARROW)))
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
            raise InputError(
                f"The table can't be written as Parquet: {error}.", remedy="Give every row of a column one type."
            ) from error
        columns = {field.name: str(field.type) for field in list(table.schema)[:50]}
        return {"rows": table.num_rows, "columns": columns}

    def load(self, folder: Path) -> Any:
        """Return the table or the data frame."""
        if (folder / _ARROW).exists():
            return pq.read_table(str(folder / _ARROW), memory_map=True)
        return pq.read_table(str(folder / _PANDAS), memory_map=True).to_pandas()


def _is_frame(value: Any) -> bool:
    # By name: pandas is optional here, and who hands over a frame has imported it.
    return any(kind.__name__ == "DataFrame" and kind.__module__.startswith("pandas") for kind in type(value).__mro__)
