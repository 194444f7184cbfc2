"""Arrow arrays to a contract's columns and back: what Arrow IPC and Parquet share.

A scalar field is a column of its type; a field with a shape is a fixed-shape tensor, or lists nested as deep as the
shape (fixed-size or not), in row-major order. Text may be `string`, `large_string`, `string_view` or a dictionary of
them; dates and times are taken as text in ISO 8601. `null` stands for what is missing, as in JSON: NaN in a float
field, the empty text in a text field; elsewhere it is an error. Nothing that came from outside is read before Arrow has
checked offsets, indices and UTF-8.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from modelyard.contracts import Columns
from modelyard.data import Field, dtype_name
from modelyard.errors import ContractError
from modelyard.packages.contract import TEXT_BYTES, Contract, coerce, describe, text_array, type_text

__all__ = ["Limits", "arrow_type", "check_names", "columns_of", "record_batch", "schema_of"]

_ARROW = {
    "bool": pa.bool_(), "int8": pa.int8(), "int16": pa.int16(), "int32": pa.int32(), "int64": pa.int64(),
    "uint8": pa.uint8(), "uint16": pa.uint16(), "uint32": pa.uint32(), "uint64": pa.uint64(),
    "float16": pa.float16(), "float32": pa.float32(), "float64": pa.float64(), "string": pa.string(),
}  # fmt: skip


class Limits(msgspec.Struct, frozen=True):
    """What a body may be once it is unpacked; checked before anything is.

    Args:
        total_bytes: Of all its buffers together.
        ratio: How many times the body's own size they may be; a body that unpacks to under `free_bytes` is not asked.
        free_bytes: See `ratio`: a column of one value shrinks to nothing and harms nobody.
        columns: How many it may have, the ones that the contract does not name included.
    """

    total_bytes: int = 1 << 30
    ratio: float = 200.0
    free_bytes: int = 8 << 20
    columns: int = 10_000

    def check(self, unpacked: int, packed: int) -> None:
        """Raise ContractError where so many bytes in so few are too many."""
        if unpacked > self.total_bytes:
            raise ContractError(
                f"The body unpacks to {unpacked} bytes, and {self.total_bytes} are allowed.",
                remedy="Send the rows in several requests.",
            )
        if unpacked > self.free_bytes and unpacked > self.ratio * max(packed, 1):
            raise ContractError(
                f"The body unpacks to over {self.ratio:g} times its size.", remedy="Send it with less compression."
            )

    def check_columns(self, number: int) -> None:
        """Raise ContractError where a body has too many columns."""
        if number > self.columns:
            raise ContractError(f"The body has {number} columns, and {self.columns} are allowed.")


def arrow_type(field: Field) -> pa.DataType:
    """Return the Arrow type that a field is written as: a list of fixed size, or a tensor past one dimension."""
    kind = _ARROW[field.dtype]
    if len(field.shape) <= 1:
        return pa.list_(kind, field.shape[0]) if field.shape else kind
    if field.dtype in ("bool", "string"):
        # Arrow's tensors hold numbers alone.
        for size in reversed(field.shape):
            kind = pa.list_(kind, size)
        return kind
    return pa.fixed_shape_tensor(kind, field.shape)


def schema_of(fields: Sequence[Field]) -> pa.Schema:
    """Return the Arrow schema of fields."""
    return pa.schema([(field.name, arrow_type(field)) for field in fields])


def record_batch(columns: Columns) -> pa.RecordBatch:
    """Return columns as a record batch; numbers are not copied.

    Args:
        columns: Arrays that share their first dimension.
    """
    fields = [Field(name, dtype_name(values.dtype), tuple(values.shape[1:])) for name, values in columns.items()]
    arrays = [_arrow_array(field, columns[field.name]) for field in fields]
    return pa.RecordBatch.from_arrays(arrays, schema=schema_of(fields))


def check_names(contract: Contract, names: Sequence[str]) -> None:
    """See that a table has each field of a contract once.

    Raises:
        ContractError: One is missing, or stands twice.
    """
    for field in contract.inputs:
        found = names.count(field.name)
        if found != 1:
            raise ContractError(
                f"The column {field.name!r} {'stands twice' if found else 'is missing'}.",
                where=f"field {field.name!r}",
                remedy=f"The contract asks for {describe(contract.inputs)}.",
            )


def columns_of(contract: Contract, batches: Sequence[pa.RecordBatch]) -> Columns:
    """Return the contract's columns from record batches of one schema; one batch of plain numbers is not copied.

    Args:
        contract: What the batches must hold; other columns are ignored.
        batches: In order; at least one.

    Raises:
        ContractError: A column is missing, damaged or of another type, or a value does not fit; `where` names row and
            field.
    """
    check_names(contract, batches[0].schema.names)
    found: dict[str, NDArray[Any]] = {}
    for field in contract.inputs:
        parts = []
        first = 0
        for batch in batches:
            parts.append(_column(field, batch.column(field.name), first))
            first += batch.num_rows
        if field.dtype == "string" and len(parts) > 1:
            _limit_text(field, max(part.dtype.itemsize // 4 for part in parts), first)
        found[field.name] = coerce(field, parts[0] if len(parts) == 1 else np.concatenate(parts))
    return contract.check(found)


def _column(field: Field, array: pa.Array, first: int) -> NDArray[Any]:
    try:
        array.validate(full=True)
        return _values(field, array, first, field.shape)
    except (pa.ArrowException, ValueError, NotImplementedError) as error:
        # What passes Arrow's own check may still be of a kind that Arrow can't hand out.
        raise ContractError(f"The column is damaged: {_brief(error)}.", where=f"field {field.name!r}") from error


def _values(field: Field, array: pa.Array, first: int, shape: tuple[int, ...]) -> NDArray[Any]:
    """Return a checked array's values, of a field's rows or of what the lists in them hold."""
    kind = array.type
    if isinstance(kind, pa.FixedShapeTensorType):
        _refuse_nulls(field, array, first)
        return _tensor(field, array, first, shape)
    if isinstance(kind, pa.BaseExtensionType):
        array = array.storage
        kind = array.type
    if shape:
        return _nested(field, array, first, shape)
    if pa.types.is_dictionary(kind):
        return _dictionary(field, array, first)
    if field.dtype == "string":
        return _texts(field, array, first)
    if pa.types.is_null(kind) or pa.types.is_decimal(kind):
        array = _cast(field, array, pa.float64(), first)
    elif not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        raise _misfit(field, first, f"got {kind}")
    if array.null_count:
        if not field.dtype.startswith("float"):
            _refuse_nulls(field, array, first)
        if pa.types.is_boolean(array.type):
            raise _misfit(field, first, "got bool")
        array = _with_nan(array)
    values: NDArray[Any] = array.to_numpy(zero_copy_only=False)
    return values


def _with_nan(array: pa.Array) -> pa.Array:
    kind = array.type
    if not pa.types.is_floating(kind):
        array, kind = array.cast(pa.float64(), safe=False), pa.float64()
    return array.fill_null(pa.scalar(np.float16("nan") if kind == pa.float16() else math.nan, kind))


def _tensor(field: Field, array: Any, first: int, shape: tuple[int, ...]) -> NDArray[Any]:
    kind = array.type
    turned = kind.permutation is not None and list(kind.permutation) != list(range(len(kind.shape)))
    if tuple(kind.shape) != shape or turned:
        raise _misfit(field, first, f"got {kind}")
    storage = array.storage
    if not len(storage):
        return np.empty((0, *shape), dtype=field.dtype)
    return _values(field, storage.flatten(), first, ()).reshape(len(storage), *shape)


def _nested(field: Field, array: pa.Array, first: int, shape: tuple[int, ...]) -> NDArray[Any]:
    kind, size = array.type, shape[0]
    fixed = pa.types.is_fixed_size_list(kind)
    if not (fixed or pa.types.is_list(kind) or pa.types.is_large_list(kind)):
        raise _misfit(field, first, f"got {kind}")
    _refuse_nulls(field, array, first)
    if fixed:
        if kind.list_size != size:
            raise _misfit(field, first, f"a row has {kind.list_size} values where {size} are needed")
    elif len(array):
        wrong = array.value_lengths().to_numpy(zero_copy_only=False) != size
        if wrong.any():
            row = int(wrong.argmax())
            place = first + row // math.prod(field.shape[: len(field.shape) - len(shape)])
            raise _misfit(field, place, f"the list has {len(array[row])} values where {size} are needed")
    inner = _values(field, array.flatten(), first, shape[1:]) if len(array) else None
    if inner is None:
        return np.empty((0, *shape), dtype="<U1" if field.dtype == "string" else field.dtype)
    return inner.reshape(len(array), size, *inner.shape[1:])


def _dictionary(field: Field, array: Any, first: int) -> NDArray[Any]:
    # The dictionary is read once, and not once for each row: a long text in it may stand in a million rows.
    if array.null_count or array.dictionary.null_count:
        if field.dtype != "string" and not field.dtype.startswith("float"):
            _refuse_nulls(field, array.dictionary_decode(), first)
        dictionary = pa.concat_arrays([array.dictionary, pa.nulls(1, array.dictionary.type)])
        indices = array.indices.cast(pa.int64()).fill_null(len(array.dictionary))
    else:
        dictionary, indices = array.dictionary, array.indices
    if not len(array):
        return np.empty(0, dtype="<U1" if field.dtype == "string" else field.dtype)
    values = _values(field, dictionary, first, ())
    if field.dtype == "string":
        _limit_text(field, values.dtype.itemsize // 4, len(array))
    taken: NDArray[Any] = values[indices.to_numpy(zero_copy_only=False)]
    return taken


def _texts(field: Field, array: pa.Array, first: int) -> NDArray[np.str_]:
    kind = array.type
    if pa.types.is_temporal(kind) or pa.types.is_null(kind):
        array = _cast(field, array, pa.large_string(), first)
    elif kind == pa.string_view():
        if len(array):
            # Many views may show the same bytes: what they would take side by side is asked before it is made.
            end = array.offset + len(array)
            views = np.frombuffer(array.buffers()[1], dtype="<i4", count=4 * end).reshape(-1, 4)
            _limit_text(field, int(views[array.offset :, 0].sum(dtype=np.int64)), 1)
        array = array.cast(pa.large_string())
    elif not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise _misfit(field, first, f"got {kind}")
    texts = array.fill_null("") if array.null_count else array
    return text_array(field, texts.to_pylist()) if len(texts) else np.empty(0, dtype="<U1")


def _limit_text(field: Field, width: int, rows: int) -> None:
    if 4 * width * rows * math.prod(field.shape) > TEXT_BYTES:
        raise ContractError(
            f"A text of {width} characters among {rows} rows takes too much memory.",
            where=f"field {field.name!r}",
            remedy="Send rows with long texts in requests of their own.",
        )


def _cast(field: Field, array: pa.Array, kind: pa.DataType, first: int) -> pa.Array:
    try:
        return array.cast(kind, safe=False)
    except pa.ArrowException as error:
        raise _misfit(field, first, f"{array.type} can't be read so: {_brief(error)}") from error


def _refuse_nulls(field: Field, array: pa.Array, first: int) -> None:
    if array.null_count:
        depth = math.prod(field.shape) if not _is_nested(array.type) else 1
        row = first + int(pc.index(pc.is_null(array), True).as_py()) // depth
        raise _misfit(field, row, "the value is missing")


def _is_nested(kind: pa.DataType) -> bool:
    return bool(pa.types.is_nested(kind) or isinstance(kind, pa.BaseExtensionType))


def _arrow_array(field: Field, values: NDArray[Any]) -> pa.Array:
    flat = pa.array(np.ascontiguousarray(values).reshape(-1), type=_ARROW[field.dtype])
    if not field.shape:
        return flat
    kind = arrow_type(field)
    if isinstance(kind, pa.FixedShapeTensorType):
        storage = pa.FixedSizeListArray.from_arrays(flat, math.prod(field.shape))
        return pa.ExtensionArray.from_storage(kind, storage.cast(kind.storage_type))
    for size in reversed(field.shape):
        flat = pa.FixedSizeListArray.from_arrays(flat, size)
    return flat


def _misfit(field: Field, row: int, got: str) -> ContractError:
    return ContractError(
        f"Expected {type_text(field)}; {got}.",
        where=f"row {row}, field {field.name!r}",
        remedy=f"Give {field.name!r} as {type_text(field)}.",
    )


def _brief(error: Exception) -> str:
    """Return what Arrow says in one line, without values of the body."""
    return str(error).splitlines()[0].rstrip(".")[:120] if str(error) else type(error).__name__
