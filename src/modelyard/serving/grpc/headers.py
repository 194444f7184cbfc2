"""HPACK (RFC 7541) that does its work once for blocks that come again: calls of one client have the same headers.

A block means what the dynamic table makes of it, so what is remembered is forgotten whenever that table changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

import hpack
from h2.config import H2Configuration
from hpack import HeaderTuple, NeverIndexedHeaderTuple
from hpack.table import HeaderTable

__all__ = ["Decoder", "Encoder", "Fields"]

KEPT = 8
"""Blocks that are remembered of a connection, each way: clients call a few methods."""
LONGEST_KEPT = 1024
"""Bytes of a block, and of its headers, that are remembered; longer ones are worked through each time."""
_NEVER_INDEXED: Final = 0x10

Fields = dict[bytes, bytes]
"""Headers by name; nobody changes them, as calls share them."""


class _Table(HeaderTable):
    """A dynamic table that tells when it becomes another one.

    Args:
        changed: Called before each change.
    """

    def __init__(self, changed: Callable[[], None]) -> None:
        super().__init__()
        self._changed = changed

    def add(self, name: bytes, value: bytes) -> None:
        self._changed()
        super().add(name, value)

    @property
    def maxsize(self) -> int:
        return self._maxsize

    @maxsize.setter
    def maxsize(self, newmax: int) -> None:
        self._changed()
        HeaderTable.maxsize.fset(self, newmax)  # type: ignore[attr-defined]  # mypy takes a property for its getter


class Decoder(hpack.Decoder):
    """Decodes what a client sends; h2 checks each block the first time.

    Args:
        configuration: Of the connection, which says whether h2 checks headers.
        largest: Bytes of the largest header list.
    """

    def __init__(self, configuration: H2Configuration, largest: int) -> None:
        super().__init__(largest)
        self.header_table = _Table(self._forget)
        self._configuration = configuration
        self._known: dict[bytes, tuple[list[HeaderTuple], Fields, int]] = {}
        self._found: tuple[list[HeaderTuple], Fields, int] | None = None
        self._decoded: tuple[bytes, list[HeaderTuple]] | None = None
        self._changes = 0

    def _forget(self) -> None:
        self._changes += 1
        self._known.clear()

    def decode(self, data: bytes, raw: bool = False) -> Iterable[HeaderTuple]:
        """Return the headers of a block."""
        self._decoded = None
        self._found = found = self._known.get(data)
        # A block that was right for a request is right for this one; trailers, of which this might be some, have no
        # influence on anything here.
        self._configuration.validate_inbound_headers = found is None
        if found is not None:
            return found[0]
        changes = self._changes
        headers = list(super().decode(data, raw))
        if changes == self._changes and len(data) <= LONGEST_KEPT:
            self._decoded = bytes(data), headers
        return headers

    def request(self, headers: Iterable[Any]) -> tuple[Fields, int]:
        """Return the headers of the request that was decoded last, by name, and their size as RFC 9113 counts it.

        Args:
            headers: As h2 found them to be right.
        """
        if self._found is not None:
            return self._found[1:]
        fields: Fields = {}
        size = 0
        for name, value in headers:
            size += len(name) + len(value) + 32
            fields[name] = fields[name] + b"," + value if name in fields else value
        if self._decoded is not None and size <= LONGEST_KEPT:
            block, decoded = self._decoded
            if len(self._known) >= KEPT:
                self._known.clear()
            self._known[block] = decoded, fields, size
        return fields, size


class Encoder(hpack.Encoder):
    """Encodes what a client gets. A header that is never indexed comes last, and is written as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.header_table = _Table(self._forget)
        self._known: dict[tuple[Any, ...], bytes] = {}
        self._changes = 0

    def _forget(self) -> None:
        self._changes += 1
        self._known.clear()

    def encode(self, headers: Any, huffman: bool = True) -> bytes:
        """Return the block of some headers."""
        own, last = b"", headers[-1]
        if type(last) is NeverIndexedHeaderTuple and (own := _literal(*last)):
            del headers[-1]
        key = tuple(headers)
        block = self._known.get(key)
        if block is None:
            # What tells of a new size is told once.
            changes, resized = self._changes, self.header_table.resized
            block = super().encode(headers, huffman)
            if changes == self._changes and not resized:
                if len(self._known) >= KEPT:
                    self._known.clear()
                self._known[key] = block
        return block + own


def _literal(name: bytes, value: bytes) -> bytes:
    """Return a header that is never indexed (RFC 7541, section 6.2.3), or nothing where it is too long for that."""
    if len(name) > 126 or len(value) > 126:
        return b""
    return b"".join((bytes((_NEVER_INDEXED, len(name))), name, bytes((len(value),)), value))
