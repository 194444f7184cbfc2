"""The page headers of a Parquet column chunk: what each page unpacks to, read before anything is unpacked.

The headers are Thrift structs in the compact protocol
(https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md), defined in parquet-format's
`parquet.thrift` as `PageHeader`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

__all__ = ["Page", "PageError", "pages"]

_DATA, _INDEX, _DICTIONARY, _DATA_V2 = 0, 1, 2, 3
_DETAILS = {_DATA: (5, 2), _DATA_V2: (8, 4), _DICTIONARY: (7, 2)}
"""Page type to the field of the header that tells more, and the field in there that names the encoding."""

_MAXIMUM_DEPTH = 8
_LONGEST_VARINT = 10


class PageError(ValueError):
    """A page's header can't be read."""


@dataclass(frozen=True, slots=True)
class Page:
    """What a page says of itself.

    Args:
        unpacked: Bytes after decompression.
        values: How many it holds, nulls included; 0 for a dictionary.
        encoding: Number in `parquet.thrift`; None for an index page.
    """

    unpacked: int
    values: int
    encoding: int | None


def pages(chunk: memoryview) -> Iterator[Page]:
    """Yield the pages of a column chunk, whose bytes are given.

    Raises:
        PageError: A header is damaged, or a page reaches past the chunk.
    """
    place = 0
    while place < len(chunk):
        reader = _Compact(chunk, place)
        header = reader.struct(0)
        kind, unpacked, packed = (header.get(number) for number in (1, 2, 3))
        if not (isinstance(kind, int) and isinstance(unpacked, int) and isinstance(packed, int)):
            raise PageError("a page says nothing of its size")
        place = reader.place + packed
        if unpacked < 0 or packed < 0 or place > len(chunk):
            raise PageError("a page reaches past its column")
        if kind not in _DETAILS:
            yield Page(unpacked, 0, None)
            continue
        details, encoding = _DETAILS[kind]
        told = header.get(details)
        if not isinstance(told, dict) or not isinstance(told.get(1), int) or told[1] < 0:
            raise PageError("a page says nothing of its values")
        yield Page(unpacked, 0 if kind == _DICTIONARY else told[1], told.get(encoding))


class _Compact:
    """Reads Thrift's compact protocol; strings and lists are passed over."""

    def __init__(self, data: memoryview, place: int) -> None:
        self._data = data
        self.place = place

    def struct(self, depth: int) -> dict[int, Any]:
        if depth > _MAXIMUM_DEPTH:
            raise PageError("a page's header is nested too deep")
        found: dict[int, Any] = {}
        number = 0
        while head := self._byte():
            delta, kind = head >> 4, head & 15
            number = number + delta if delta else self._zigzag()
            found[number] = self._value(kind, depth)
        return found

    def _value(self, kind: int, depth: int) -> Any:
        if kind in (1, 2):
            return kind == 1
        if kind == 3:
            return self._byte()
        if kind in (4, 5, 6):
            return self._zigzag()
        if kind == 7:
            self._skip(8)
            return None
        if kind == 8:
            self._skip(self._varint())
            return None
        if kind in (9, 10):
            return self._list(depth)
        if kind == 12:
            return self.struct(depth + 1)
        raise PageError(f"a page's header has a value of the unknown type {kind}")

    def _list(self, depth: int) -> None:
        head = self._byte()
        count, kind = head >> 4, head & 15
        if count == 15:
            count = self._varint()
        if depth > _MAXIMUM_DEPTH:
            raise PageError("a page's header is nested too deep")
        for _ in range(count):
            # Each element takes a byte or more, so that the data ends before a large count does.
            self._byte() if kind in (1, 2) else self._value(kind, depth + 1)

    def _zigzag(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)

    def _varint(self) -> int:
        value = 0
        for index in range(_LONGEST_VARINT):
            byte = self._byte()
            value |= (byte & 127) << (7 * index)
            if byte < 128:
                return value
        raise PageError("a page's header has a number without end")

    def _byte(self) -> int:
        if self.place >= len(self._data):
            raise PageError("a page's header is cut off")
        value = self._data[self.place]
        self.place += 1
        return value

    def _skip(self, size: int) -> None:
        self.place += size
        if self.place > len(self._data):
            raise PageError("a page's header is cut off")
