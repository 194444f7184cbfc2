"""The footer of a Parquet file and its page headers: what each page unpacks to, read before anything is unpacked.

Both are Thrift structs in the compact protocol
(https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md), defined in parquet-format's
`parquet.thrift` as `FileMetaData` and `PageHeader`. The footer is read here too, because Arrow's own accessors of it
end the process where some of its parts are damaged.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

__all__ = ["Chunk", "Group", "Page", "PageError", "footer", "pages"]

_DATA, _INDEX, _DICTIONARY, _DATA_V2 = 0, 1, 2, 3
_DETAILS = {_DATA: (5, 2), _DATA_V2: (8, 4), _DICTIONARY: (7, 2)}
"""Page type to the field of the header that tells more, and the field in there that names the encoding."""

_MAGIC = b"PAR1"
_LARGEST_FOOTER = 16 << 20
_MAXIMUM_DEPTH = 12
_LONGEST_VARINT = 10

_Kind = TypeVar("_Kind")


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


@dataclass(frozen=True, slots=True)
class Chunk:
    """A column of a row group, as the footer has it.

    Args:
        path: Names from the root of the schema to the leaf, joined by dots.
        start: Where its first page lies in the file, a dictionary's included.
        length: Bytes of its pages.
        values: How many it holds, nulls included.
    """

    path: str
    start: int
    length: int
    values: int


@dataclass(frozen=True, slots=True)
class Group:
    """A row group.

    Args:
        rows: How many.
        chunks: Its columns.
    """

    rows: int
    chunks: tuple[Chunk, ...]


def footer(body: memoryview) -> tuple[Group, ...]:
    """Return the row groups of a Parquet file, whose bytes are given.

    Raises:
        PageError: The footer is damaged, larger than any request's, or its counts do not agree.
    """
    if len(body) < 12 or body[:4] != _MAGIC or body[-4:] != _MAGIC:
        raise PageError("it does not begin and end as a file does")
    length = int.from_bytes(body[-8:-4], "little")
    if length > min(len(body) - 12, _LARGEST_FOOTER):
        raise PageError("the footer is longer than the file, or than any may be")
    told = _Compact(body[len(body) - 8 - length : len(body) - 8], 0).struct(0)
    groups = tuple(map(_group, _typed(told.get(4, []), list)))
    if sum(group.rows for group in groups) != _typed(told.get(3), int):
        raise PageError("the row groups do not have the rows of the file")
    return groups


def _group(told: Any) -> Group:
    found = _typed(told, dict)
    rows = _typed(found.get(3), int)
    if rows < 0:
        raise PageError("a row group has less than no rows")
    return Group(rows, tuple(map(_chunk, _typed(found.get(1, []), list))))


def _chunk(told: Any) -> Chunk:
    found = _typed(_typed(told, dict).get(3), dict)
    path = b".".join(_typed(name, bytes) for name in _typed(found.get(3), list)).decode()
    start, dictionary = _typed(found.get(9), int), found.get(11)
    if isinstance(dictionary, int) and 0 < dictionary < start:
        start = dictionary
    return Chunk(path, start, _typed(found.get(7), int), _typed(found.get(5), int))


def _typed(value: Any, kind: type[_Kind]) -> _Kind:
    if type(value) is not kind:
        raise PageError("the footer lacks something, or has it as another type")
    return value


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
    """Reads Thrift's compact protocol; doubles, sets and maps are not kept."""

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
            size = self._varint()
            start = self.place
            self._skip(size)
            return bytes(self._data[start : self.place])
        if kind in (9, 10):
            return self._list(depth)
        if kind == 12:
            return self.struct(depth + 1)
        raise PageError(f"a page's header has a value of the unknown type {kind}")

    def _list(self, depth: int) -> list[Any]:
        head = self._byte()
        count, kind = head >> 4, head & 15
        if count == 15:
            count = self._varint()
        # Each element takes a byte or more.
        if depth > _MAXIMUM_DEPTH or count > len(self._data) - self.place:
            raise PageError("a list in a header is too long or too deep")
        return [self._byte() if kind in (1, 2) else self._value(kind, depth + 1) for _ in range(count)]

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
