"""Header blocks of one connection (HPACK, RFC 7541), and what HTTP/2 allows in them (RFC 9113, section 8.2)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

import hpack
from hpack.exceptions import HPACKError, OversizedHeaderListError

from modelyard.serving.grpc.frames import ErrorCode, ProtocolError

__all__ = ["HeaderBlocks", "Headers"]

FORBIDDEN = frozenset((b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"))
PSEUDO = frozenset((b":method", b":scheme", b":path", b":authority"))
REMEMBERED = 64
INDEXED_FIRST = 0x80


@dataclass(frozen=True, slots=True)
class Headers:
    """Decoded headers.

    Args:
        given: By name; several of a name are joined by commas.
        size: As HPACK counts it.
        malformed: Whether HTTP/2 forbids them.
    """

    given: dict[bytes, bytes]
    size: int
    malformed: bool = False

    @property
    def request(self) -> bool:
        """Whether all is there that a request needs."""
        given = self.given
        return bool(given.get(b":method") and given.get(b":scheme") and given.get(b":path"))


class HeaderBlocks:
    """Decodes the header blocks of a connection, which have a table in common.

    A client that calls the same method again sends the same few bytes again: a block of nothing but indexes means the
    same until another block changes the table.

    Args:
        longest: The most bytes of headers in one block, as HPACK counts them.
    """

    def __init__(self, longest: int) -> None:
        self._decoder = hpack.Decoder(longest)
        self._known: dict[bytes, Headers] = {}

    def decode(self, block: bytes) -> Headers:
        """Return the headers of a block.

        Raises:
            ProtocolError: It can't be read, or is too long; either way the table is lost.
        """
        known = self._known.get(block)
        if known is not None:
            return known
        try:
            headers = _checked(cast("list[tuple[bytes, bytes]]", self._decoder.decode(block, raw=True)))
        except OversizedHeaderListError as error:
            raise ProtocolError(ErrorCode.ENHANCE_YOUR_CALM, "the headers are too long") from error
        except (HPACKError, ValueError, IndexError) as error:
            raise ProtocolError(ErrorCode.COMPRESSION_ERROR, "the headers can't be read") from error
        if block and min(block) >= INDEXED_FIRST and max(block) < 0xFF and len(self._known) < REMEMBERED:
            # Each byte is one index (RFC 7541, section 6.1): nothing in it changes the table.
            self._known[block] = headers
        else:
            self._known.clear()
        return headers


def _checked(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    given: dict[bytes, bytes] = {}
    size = 0
    regular = malformed = False
    for name, value in headers:
        size += len(name) + len(value) + 32
        if name[:1] == b":":
            malformed = malformed or regular or name not in PSEUDO or name in given
        else:
            regular = True
            if not name or name != name.lower() or name in FORBIDDEN or (name == b"te" and value != b"trailers"):
                malformed = True
            if name in given:
                value = given[name] + b"," + value
        given[name] = value
    return Headers(given, size, malformed)
