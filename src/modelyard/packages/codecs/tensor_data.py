"""The elements of tensors in the Open Inference Protocol: JSON numbers, little-endian bytes, gRPC's typed contents.

A shape is multiplied in whole numbers without a limit and compared with what was really sent, so that nothing is
allocated because a shape says so.
"""

from __future__ import annotations

import functools
import math
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from modelyard.data import Field
from modelyard.errors import ContractError
from modelyard.packages.contract import MAXIMUM_DIMENSIONS, shown, text_array

__all__ = [
    "CONTENTS",
    "DATATYPES",
    "DTYPES_OF",
    "Tensor",
    "from_nested",
    "from_raw",
    "from_typed",
    "to_raw",
    "to_typed",
]

DATATYPES = {
    "bool": "BOOL",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "uint8": "UINT8",
    "uint16": "UINT16",
    "uint32": "UINT32",
    "uint64": "UINT64",
    "float16": "FP16",
    "float32": "FP32",
    "float64": "FP64",
    "string": "BYTES",
}
"""A contract's dtype to the protocol's datatype."""

DTYPES_OF = {datatype: dtype for dtype, datatype in DATATYPES.items()} | {"BF16": "float32"}
"""The protocol's datatype to a contract's dtype; BF16 is widened, and is never an answer's."""

CONTENTS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
"""A datatype to its field of `InferTensorContents`; FP16 and BF16 have none, and travel raw alone."""

_LARGEST = {name: float(np.finfo(dtype).max) for name, dtype in DTYPES_OF.items() if dtype.startswith("float")}

_INTEGERS = frozenset(name for name in DTYPES_OF if "INT" in name)


@dataclass(frozen=True, slots=True, eq=False)
class Tensor:
    """A named array as the protocol has it.

    Args:
        name: Of the input or output.
        datatype: `BOOL`, `INT8` … `UINT64`, `FP16`, `BF16`, `FP32`, `FP64` or `BYTES`.
        shape: As it was sent.
        data: The elements in that shape; text for BYTES, float32 for BF16.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: NDArray[Any]


def from_nested(name: str, datatype: str, shape: Sequence[int], data: msgspec.Raw | bytes) -> Tensor:
    """Return the tensor of a JSON array, flat or nested as the shape says; each element is read once, as its type.

    Args:
        name: For errors.
        datatype: Of the protocol.
        shape: As sent.
        data: The JSON text of the array.

    Raises:
        ContractError: Unknown datatype, impossible shape, another number of elements, or one that does not fit; `where`
            names tensor and row.
    """
    count = _checked(name, datatype, shape)
    text = memoryview(data)
    depth = _depth(text)
    if depth > 1 and depth != len(shape):
        raise _unlike(name, shape)
    kind = "text" if datatype == "BYTES" else "bool" if datatype == "BOOL" else "int"
    kind = "float" if datatype not in _INTEGERS and kind == "int" else kind
    try:
        decoded: Any = _decoder(kind, depth).decode(text)
    except msgspec.ValidationError as error:
        what, _, path = str(error).partition(" - at `$")
        raise ContractError(
            f"{what}.", where=f"tensor {shown(name)}{_place(path.rstrip('`'), shape, depth)}",
            remedy=f"Give it as {datatype}.",
        ) from error  # fmt: skip
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ContractError(f"The data is no array: {error}.", where=f"tensor {shown(name)}") from error
    flat = list(_flat(name, shape, decoded)) if depth > 1 else decoded
    if len(flat) != count:
        raise _unlike(name, shape, len(flat))
    return Tensor(name, datatype, tuple(shape), _array(name, datatype, shape, flat))


def from_raw(name: str, datatype: str, shape: Sequence[int], raw: bytes | memoryview) -> Tensor:
    """Return the tensor of little-endian, row-major bytes; a view of them where their place in memory allows.

    BYTES elements stand behind each other, each after its length in 4 bytes; they are UTF-8.

    Args:
        name: For errors.
        datatype: Of the protocol.
        shape: As sent.
        raw: The tensor's bytes, no more and no less.

    Raises:
        ContractError: As for `from_nested`.
    """
    count = _checked(name, datatype, shape)
    if datatype == "BYTES":
        return Tensor(name, datatype, tuple(shape), _texts(name, shape, list(_prefixed(name, shape, count, raw))))
    dtype = np.dtype("<u2") if datatype == "BF16" else np.dtype(DTYPES_OF[datatype]).newbyteorder("<")
    if count * dtype.itemsize != len(raw):
        raise ContractError(
            f"The shape {list(shape)} of {datatype} takes {count * dtype.itemsize} bytes, and {len(raw)} came.",
            where=f"tensor {shown(name)}",
        )
    if datatype == "BOOL":
        values: NDArray[Any] = np.frombuffer(raw, dtype=np.uint8)
        if values.size and values.max() > 1:
            row = _row(int((values > 1).argmax()), shape)
            raise ContractError("A BOOL is neither 0 nor 1.", where=f"tensor {shown(name)}, row {row}")
        values = values.view(np.bool_)
    else:
        values = np.frombuffer(raw, dtype=dtype)
    if datatype == "BF16":
        # A bfloat16 is the upper half of the float32 of the same value.
        values = (values.astype(np.uint32) << 16).view(np.float32)
    elif not values.flags.aligned:
        # Behind JSON of any length numbers may lie across words, which not every kernel reads.
        values = values.copy()
    return Tensor(name, datatype, tuple(shape), values.reshape(shape))


def from_typed(name: str, datatype: str, shape: Sequence[int], values: Sequence[Any]) -> Tensor:
    """Return the tensor of gRPC's typed contents, which are wider than small integers.

    Args:
        name: For errors.
        datatype: Of the protocol.
        shape: As sent.
        values: The elements of the field that `CONTENTS` names.

    Raises:
        ContractError: As for `from_nested`, or the datatype has no typed contents.
    """
    count = _checked(name, datatype, shape)
    if datatype not in CONTENTS:
        raise ContractError(
            f"{datatype} has no typed contents.", where=f"tensor {shown(name)}", remedy="Send it in raw_input_contents."
        )
    if len(values) != count:
        raise _unlike(name, shape, len(values))
    if datatype == "BYTES":
        texts = [_text(name, shape, index, value) for index, value in enumerate(values)]
        return Tensor(name, datatype, tuple(shape), _texts(name, shape, texts))
    return Tensor(name, datatype, tuple(shape), _array(name, datatype, shape, values))


def to_raw(values: NDArray[Any]) -> bytes:
    """Return an array as little-endian, row-major bytes; texts each after their length in 4 bytes."""
    if values.dtype.kind == "U":
        encoded = [text.encode() for text in values.reshape(-1).tolist()]
        return b"".join(part for text in encoded for part in (struct.pack("<I", len(text)), text))
    return np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<")).tobytes()


def to_typed(values: NDArray[Any]) -> list[Any]:
    """Return an array as the elements of gRPC's typed contents; texts as bytes."""
    flat: list[Any] = values.reshape(-1).tolist()
    return [text.encode() for text in flat] if values.dtype.kind == "U" else flat


def _checked(name: str, datatype: str, shape: Sequence[int]) -> int:
    """Return the number of elements of a shape, which Python counts without an overflow."""
    if datatype not in DTYPES_OF:
        raise ContractError(
            f"There is no datatype {shown(datatype)}.",
            where=f"tensor {shown(name)}",
            remedy=f"The datatypes are {', '.join(DTYPES_OF)}.",
        )
    if not 0 < len(shape) <= MAXIMUM_DIMENSIONS + 1 or any(size < 0 or size >= 1 << 63 for size in shape):
        raise ContractError("The shape is impossible.", where=f"tensor {shown(name)}", remedy="Send [rows, …].")
    if 0 in shape[1:]:
        # NumPy could not hold it: a large first size times nothing.
        raise ContractError(f"A row of the shape {list(shape)} is empty.", where=f"tensor {shown(name)}")
    return math.prod(shape)


@functools.lru_cache(maxsize=4 * (MAXIMUM_DIMENSIONS + 1))
def _decoder(kind: str, depth: int) -> msgspec.json.Decoder[Any]:
    element: Any = {"text": str, "bool": bool, "int": int, "float": float | None}[kind]
    for _ in range(max(depth, 1)):
        element = list[element]
    return msgspec.json.Decoder(element)


def _depth(text: memoryview) -> int:
    """Return how many brackets the text begins with, at most one more than any shape has."""
    depth = 0
    for byte in text:
        if byte == 0x5B:
            depth += 1
        elif byte not in b" \t\r\n":
            break
        if depth > MAXIMUM_DIMENSIONS + 1:
            break
    return depth


def _flat(name: str, shape: Sequence[int], nested: Any) -> Iterator[Any]:
    if len(nested) != shape[0]:
        raise _unlike(name, shape)
    if len(shape) == 1:
        yield from nested
        return
    for part in nested:
        yield from _flat(name, shape[1:], part)


def _array(name: str, datatype: str, shape: Sequence[int], flat: Sequence[Any]) -> NDArray[Any]:
    if datatype == "BYTES":
        return _texts(name, shape, flat)
    dtype = np.dtype(DTYPES_OF[datatype])
    if dtype.kind != "f":
        try:
            return np.array(flat, dtype=dtype).reshape(shape)
        except OverflowError:
            limits = np.iinfo(dtype)
            index = next(i for i, value in enumerate(flat) if not limits.min <= value <= limits.max)
            raise ContractError(
                f"{shown(flat[index])} is no {datatype}.",
                where=f"tensor {shown(name)}, row {_row(index, shape)}",
                remedy=f"{datatype} goes from {limits.min} to {limits.max}.",
            ) from None
    wide = np.array(flat, dtype=np.float64)
    if dtype != wide.dtype:
        lost = np.abs(wide) > _LARGEST[datatype]
        if lost.any() and (lost := lost & np.isfinite(wide)).any():
            index = int(lost.argmax())
            raise ContractError(
                f"{wide[index]} is beyond {datatype}.", where=f"tensor {shown(name)}, row {_row(index, shape)}"
            )
        wide = wide.astype(dtype)
    return wide.reshape(shape)


def _texts(name: str, shape: Sequence[int], texts: Sequence[str]) -> NDArray[Any]:
    if not texts:
        return np.empty(shape, dtype="<U1")
    try:
        return text_array(Field(name, "string"), texts).reshape(shape)
    except ContractError as error:
        raise ContractError(error.what, where=f"tensor {shown(name)}", remedy=error.remedy) from error


def _prefixed(name: str, shape: Sequence[int], count: int, raw: bytes | memoryview) -> Iterator[str]:
    view = memoryview(raw)
    if 4 * count > len(view):
        raise ContractError(
            f"{count} elements take {4 * count} bytes and more, and {len(view)} came.", where=f"tensor {shown(name)}"
        )
    place = 0
    for index in range(count):
        end = place + 4
        size = int.from_bytes(view[place:end], "little")
        if end + size > len(view):
            raise ContractError("The text is cut off.", where=f"tensor {shown(name)}, row {_row(index, shape)}")
        yield _text(name, shape, index, view[end : end + size])
        place = end + size
    if place != len(view):
        raise ContractError(f"{len(view) - place} bytes belong to no element.", where=f"tensor {shown(name)}")


def _text(name: str, shape: Sequence[int], index: int, value: Iterable[int]) -> str:
    try:
        return bytes(value).decode()
    except UnicodeDecodeError:
        raise ContractError("The text is not UTF-8.", where=f"tensor {shown(name)}, row {_row(index, shape)}") from None


def _row(index: int, shape: Sequence[int]) -> int:
    return index // max(math.prod(shape[1:]), 1)


def _place(path: str, shape: Sequence[int], depth: int) -> str:
    """Return `, row 3` for the path `[3]` of a nested array, or for that of the flat element 3 of one-value rows."""
    first = path.partition("]")[0].removeprefix("[")
    if not first.isdigit():
        return ""
    return f", row {int(first) if depth > 1 else _row(int(first), shape)}"


def _unlike(name: str, shape: Sequence[int], count: int | None = None) -> ContractError:
    came = "the data is nested otherwise" if count is None else f"{count} came"
    return ContractError(
        f"The shape {list(shape)} has {math.prod(shape)} elements, and {came}.", where=f"tensor {shown(name)}"
    )
