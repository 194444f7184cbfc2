"""What a client's frames cost it, taken by their heads (RFC 9113, section 4.1) before anything else reads them.

The purse fills with time and with calls answered: who sends pings, resets, settings or empty frames without end runs
out of it. A frame that is too long is refused at its head, so that nothing holds more of a client than one frame.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from enum import IntEnum
from typing import Final

from h2.errors import ErrorCodes

__all__ = ["Kind", "Toll", "TollError"]

LARGEST_FRAME = 16_384
LONGEST_BLOCK = 65_536
PURSE = 2000.0
PURSE_PER_SECOND = 500.0
PING_PRICE = 20.0

_HEAD: Final = struct.Struct(">BHBBL")
"""Length (upper 8 bits, lower 16), kind, flags, stream."""
_END_STREAM = _ACK = 0x1
_END_HEADERS = 0x4
_PADDED = 0x8


class Kind(IntEnum):
    """Of the frames that are looked at (RFC 9113, section 6)."""

    DATA = 0
    HEADERS = 1
    SETTINGS = 4
    PING = 6
    GOAWAY = 7
    CONTINUATION = 9


class TollError(Exception):
    """What a client can't pay, or may not send.

    Args:
        code: For the client.
        reason: A few words for whoever looks at the frames.
    """

    def __init__(self, code: ErrorCodes, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class Toll:
    """Cuts what a client sends into frames, and lets those pass that are paid for.

    Args:
        clock: Returns seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._counted = clock()
        self._purse = PURSE
        self._rest = b""
        self.block = 0
        """Bytes of a header block that is not finished."""

    def frames(self, data: bytes) -> Iterator[tuple[int, int, bytes]]:
        """Yield kind, stream and bytes of each frame that is complete.

        Raises:
            TollError: A frame or header block is too long, or the purse is empty.
        """
        if self._rest:
            data = self._rest + data
        place, size = 0, len(data)
        while size - place >= _HEAD.size:
            upper, lower, kind, flags, stream = _HEAD.unpack_from(data, place)
            length = upper << 16 | lower
            if length > LARGEST_FRAME:
                raise TollError(ErrorCodes.FRAME_SIZE_ERROR, "the frame is too long")
            end = place + _HEAD.size + length
            if end > size:
                break
            price = self._price(kind, flags, length)
            if price:
                # The words are what gRPC's own clients look for, to send fewer.
                self.pay(price, "too_many_pings" if kind == Kind.PING else "too much for too little")
            yield kind, stream & 0x7FFFFFFF, data[place:end]
            place = end
        self._rest = data[place:]

    def _price(self, kind: int, flags: int, length: int) -> float:
        if kind == Kind.DATA:
            return 0.0 if flags & _END_STREAM or (length and not flags & _PADDED) else 1.0
        if kind in (Kind.HEADERS, Kind.CONTINUATION):
            self.block += length
            if self.block > LONGEST_BLOCK:
                raise TollError(ErrorCodes.ENHANCE_YOUR_CALM, "the headers are too long")
            if flags & _END_HEADERS:
                self.block = 0
            elif not self.block:
                # Begun, though with nothing yet.
                self.block = 1
            return 0.0 if kind == Kind.HEADERS else (1.0 if length else PING_PRICE)
        if kind == Kind.PING or (kind == Kind.SETTINGS and not flags & _ACK):
            return PING_PRICE + length // 6
        return 1.0

    def pay(self, price: float, reason: str = "too much for too little") -> None:
        """Take a price from the purse; raises TollError where there is not enough in it."""
        self._purse -= price
        if self._purse < 0.0:
            now = self._clock()
            self._purse += min((now - self._counted) * PURSE_PER_SECOND, PURSE)
            self._counted = now
            if self._purse < 0.0:
                raise TollError(ErrorCodes.ENHANCE_YOUR_CALM, reason)

    def earn(self, amount: float) -> None:
        """Count an answer in the client's favour."""
        self._purse = min(self._purse + amount, PURSE)
