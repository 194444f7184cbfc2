"""Bodies as Arrow IPC streams: for tables and large arrays, which JSON would write out digit by digit.

Format: https://arrow.apache.org/docs/format/Columnar.html#serialization-and-interprocess-communication-ipc. Array
fields are lists of fixed size, nested as deep as their shape.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from modelyard.client.errors import InvalidRequestError, ServerError
from modelyard.contracts import Columns

__all__ = ["decode", "encode"]


def encode(data: Any) -> bytes:
    """Return named data as an Arrow IPC stream.

    Args:
        data: An Arrow table or record batch, columns by name, or rows that have the same fields.

    Raises:
        InvalidRequestError: A column is of no type that Arrow knows, or the columns differ in length.
    """
    try:
        table = data if isinstance(data, pa.Table | pa.RecordBatch) else _table(data)
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write(table)
    except (pa.ArrowException, TypeError, ValueError, KeyError) as error:
        raise InvalidRequestError(
            f"The data can't be written as Arrow: {error}.",
            remedy="Give columns of one type each, of the same length.",
            sent=False,
        ) from error
    body: bytes = sink.getvalue().to_pybytes()
    return body


def decode(body: bytes) -> Columns:
    """Return the columns of an answer.

    Raises:
        ServerError: It is no Arrow IPC stream.
    """
    try:
        with pa.ipc.open_stream(body) as reader:
            table = reader.read_all()
        return {name: _values(table.column(name).combine_chunks()) for name in table.column_names}
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise ServerError(f"The answer is no Arrow stream: {error}.", remedy="Is this a service?") from error


def _table(data: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> pa.Table:
    if not isinstance(data, Mapping):
        data = {name: [row[name] for row in data] for name in (data[0] if data else ())}
    return pa.table({name: _array(values) for name, values in data.items()})


def _array(values: Any) -> Any:
    if isinstance(values, pa.Array | pa.ChunkedArray):
        return values
    array = np.asarray(values)
    if array.dtype == object or (array.ndim == 1 and not hasattr(values, "__array__")):
        # Texts of pandas, among which NaN stands for what is missing; a list in each row; or a list, in which NumPy
        # would make a text of 1 beside 'a', where Arrow refuses it.
        return pa.array(list(values), from_pandas=True)
    flat = pa.array(np.ascontiguousarray(array).reshape(-1))
    for size in reversed(array.shape[1:]):
        flat = pa.FixedSizeListArray.from_arrays(flat, size)
    return flat


def _values(array: Any) -> NDArray[Any]:
    kind = array.type
    if isinstance(kind, pa.FixedShapeTensorType):
        tensor: NDArray[Any] = (
            array.to_numpy_ndarray()
            if len(array)
            else np.empty((0, *kind.shape), dtype=kind.value_type.to_pandas_dtype())
        )
        return tensor
    if pa.types.is_fixed_size_list(kind):
        inner = _values(array.flatten())
        return inner.reshape(len(array), kind.list_size, *inner.shape[1:])
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return np.asarray(array.to_pylist(), dtype=np.str_)
    values: NDArray[Any] = array.to_numpy(zero_copy_only=False)
    return values
