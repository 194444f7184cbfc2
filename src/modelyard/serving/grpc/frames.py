"""HTTP/2 frames as they are on the wire (RFC 9113), and header blocks without a table (HPACK, RFC 7541)."""

from __future__ import annotations

import functools
import struct
from enum import IntEnum
from typing import Final

__all__ = [
    "HEAD",
    "PREFACE",
    "ErrorCode",
    "Flag",
    "Kind",
    "ProtocolError",
    "Setting",
    "StreamError",
    "frame",
    "go_away",
    "header",
    "reset",
    "settings",
    "window_update",
]

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEAD: Final = struct.Struct(">BHBBL")
"""Of a frame: length (upper 8 bits, lower 16), kind, flags, stream."""


class Kind(IntEnum):
    """Of frames (RFC 9113, section 6)."""

    DATA = 0
    HEADERS = 1
    PRIORITY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PUSH_PROMISE = 5
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8
    CONTINUATION = 9


class Flag:
    """Of frames; what a bit means depends on the kind. Plain numbers: each frame asks for some."""

    END_STREAM: Final = 0x1
    ACK: Final = 0x1
    END_HEADERS: Final = 0x4
    PADDED: Final = 0x8
    PRIORITY: Final = 0x20


class Setting(IntEnum):
    """Of connections (RFC 9113, section 6.5.2)."""

    HEADER_TABLE_SIZE = 1
    ENABLE_PUSH = 2
    MAX_CONCURRENT_STREAMS = 3
    INITIAL_WINDOW_SIZE = 4
    MAX_FRAME_SIZE = 5
    MAX_HEADER_LIST_SIZE = 6


class ErrorCode(IntEnum):
    """Why a stream or connection ends (RFC 9113, section 7)."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    FLOW_CONTROL_ERROR = 3
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    ENHANCE_YOUR_CALM = 11


class ProtocolError(Exception):
    """What ends a connection.

    Args:
        code: For the client.
        reason: A few words for whoever looks at the frames.
    """

    def __init__(self, code: ErrorCode, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class StreamError(Exception):
    """What ends one stream; the connection goes on.

    Args:
        stream: Its number.
        code: For the client.
    """

    def __init__(self, stream: int, code: ErrorCode) -> None:
        super().__init__(code.name)
        self.stream = stream
        self.code = code


def frame(kind: int, flags: int, stream: int, payload: bytes | memoryview = b"") -> bytes:
    """Return a frame."""
    return HEAD.pack(len(payload) >> 16, len(payload) & 0xFFFF, kind, flags, stream) + payload


def settings(values: dict[Setting, int]) -> bytes:
    """Return a SETTINGS frame."""
    return frame(Kind.SETTINGS, 0, 0, b"".join(struct.pack(">HL", *pair) for pair in values.items()))


def reset(stream: int, code: ErrorCode) -> bytes:
    """Return a RST_STREAM frame."""
    return frame(Kind.RST_STREAM, 0, stream, code.to_bytes(4, "big"))


def go_away(last: int, code: ErrorCode, reason: str = "") -> bytes:
    """Return a GOAWAY frame.

    Args:
        last: The highest stream that was, or may still be, worked on.
        code: Why.
        reason: A few words more.
    """
    return frame(Kind.GOAWAY, 0, 0, struct.pack(">LL", last, code) + reason.encode())


def window_update(stream: int, count: int) -> bytes:
    """Return a WINDOW_UPDATE frame: the other side may send that many bytes more."""
    return frame(Kind.WINDOW_UPDATE, 0, stream, count.to_bytes(4, "big"))


@functools.lru_cache(maxsize=4096)
def header(name: bytes, value: bytes) -> bytes:
    """Return a header as a literal that enters no table (RFC 7541, section 6.2.2), not Huffman-coded."""
    return b"\0" + _length(len(name)) + name + _length(len(value)) + value


def _length(count: int) -> bytes:
    """Return an integer with a prefix of seven bits (RFC 7541, section 5.1)."""
    if count < 127:
        return bytes((count,))
    rest = count - 127
    coded = bytearray((127,))
    while rest >= 128:
        coded.append(rest & 127 | 128)
        rest >>= 7
    coded.append(rest)
    return bytes(coded)
