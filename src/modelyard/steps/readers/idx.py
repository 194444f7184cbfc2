"""Read IDX files, the format of MNIST: a magic number, sizes, and big-endian values.

The format is described by Y. LeCun, C. Cortes and C. Burges, "The MNIST database of handwritten digits".
"""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from modelyard.errors import DataError
from modelyard.files import storage_errors
from modelyard.steps.readers.request import Request, wanted_columns

__all__ = ["read", "read_idx"]

_TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_CHUNK = 1 << 20


def read(request: Request) -> dict[str, NDArray[Any]]:
    """Return `image`, and `label` where a file of labels is given.

    Raises:
        DataError: A file is no IDX, is damaged or cut short, or images and labels differ in number.
    """
    columns = {"image": read_idx(request.data, request.name)}
    if request.labels is not None:
        columns["label"] = read_idx(request.labels, request.labels_name)
        images, labels = len(columns["image"]), len(columns["label"])
        if images != labels:
            raise DataError(
                f"There are {images} images and {labels} labels.",
                where=f"{request.name} and {request.labels_name}",
                remedy="Name the labels file that belongs to these images.",
            )
    return {name: columns[name] for name in wanted_columns(request, columns)}


def read_idx(path: Path, name: str) -> NDArray[Any]:
    """Return the array of one IDX file, in this machine's byte order; a gzip file is unpacked by its first bytes.

    Args:
        path: The file.
        name: What errors call it.

    Raises:
        DataError: It names the file, and the byte where it stops being right.
    """
    with storage_errors(path), path.open("rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        if not packed:
            return _parse(raw, name)
        try:
            with gzip.GzipFile(fileobj=raw) as unpacked:
                return _parse(unpacked, name)  # type: ignore[arg-type]  # GzipFile reads like a BinaryIO
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise DataError(
                f"The gzip data is damaged at or before byte {raw.tell()}: {error}.",
                where=name,
                remedy="Download the file again.",
            ) from error


def _parse(file: BinaryIO, name: str) -> NDArray[Any]:
    magic = file.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in _TYPES or magic[3] == 0:
        raise DataError(
            f"This is no IDX file: byte 0 begins with {magic.hex(' ') or 'nothing'}, not 00 00, a type and a rank.",
            where=name,
            remedy="Correct `format`, or name the IDX file.",
        )
    dtype, rank = np.dtype(_TYPES[magic[2]]), magic[3]
    header = file.read(4 * rank)
    if len(header) < 4 * rank:
        raise _cut_short(name, 4 + len(header), 4 + 4 * rank)
    shape = tuple(int(size) for size in np.frombuffer(header, ">u4"))
    start, size = 4 + 4 * rank, math.prod(shape) * dtype.itemsize
    data = _read_up_to(file, size)
    if len(data) < size:
        raise _cut_short(name, start + len(data), start + size)
    if file.read(1):
        raise DataError(
            f"The file goes on after byte {start + size}, where its header says it ends.",
            where=name,
            remedy="Download the file again.",
        )
    values = np.frombuffer(data, dtype).reshape(shape)
    return values.astype(dtype.newbyteorder("="), copy=False)


def _read_up_to(file: BinaryIO, size: int) -> bytearray:
    # In pieces: a damaged header may claim terabytes, and read(size) would allocate them.
    data = bytearray()
    while len(data) < size and (chunk := file.read(min(_CHUNK, size - len(data)))):
        data += chunk
    return data


def _cut_short(name: str, got: int, expected: int) -> DataError:
    return DataError(
        f"The file is cut short: it ends at byte {got}, its header promises {expected}.",
        where=name,
        remedy="Download the file again.",
    )
