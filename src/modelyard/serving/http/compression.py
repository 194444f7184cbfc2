"""Compressed request bodies (RFC 9110, section 8.4): gzip and deflate, unpacked piece by piece within limits."""

from __future__ import annotations

import zlib

from modelyard.serving.problems import HttpProblem

__all__ = ["RATIO_FLOOR", "coding_of", "inflate"]

RATIO_FLOOR = 1024 * 1024
"""Up to so many bytes a body may be compressed as far as it can be."""

PIECE = 64 * 1024
MOST_MEMBERS = 1024
_WINDOW_BITS = {"gzip": 31, "deflate": 15}
_OTHER_NAMES = {"x-gzip": "gzip", "identity": None, "": None}


def coding_of(header: str | None) -> str | None:
    """Return how a body is compressed, `gzip` or `deflate`, or None where it is not.

    Args:
        header: `Content-Encoding`.

    Raises:
        HttpProblem: 415, compressed otherwise, or more than once.
    """
    if header is None:
        return None
    name = header.strip().lower()
    if name in _WINDOW_BITS:
        return name
    try:
        return _OTHER_NAMES[name]
    except KeyError:
        raise HttpProblem(
            415, "content-encoding", "The body's compression is not known.",
            remedy="Send it by gzip or deflate, once, or as it is.", headers=(("accept-encoding", "gzip, deflate"),),
        ) from None  # fmt: skip


def inflate(body: bytes, coding: str, *, limit: int, ratio: int) -> bytes:
    """Return a body unpacked; what passes a limit is given up as soon as it does.

    Args:
        body: As it came, whole.
        coding: `gzip`, of one member or several (RFC 1952), or `deflate`, which is zlib's format (RFC 1950).
        limit: The most bytes that it may unpack to.
        ratio: How many times its own length it may unpack to, above `RATIO_FLOOR`.

    Raises:
        HttpProblem: 400, it is damaged, ends too early, or something stands behind its end; 413, it unpacks to more.
    """
    most = min(limit, max(RATIO_FLOOR, ratio * len(body)))
    pieces: list[bytes] = []
    size = place = members = 0
    while place < len(body) or not members:
        members += 1
        if members > (MOST_MEMBERS if coding == "gzip" else 1):
            raise _damaged()
        unpacker = zlib.decompressobj(_WINDOW_BITS[coding])
        while not unpacker.eof:
            # Short pieces of the input, too: what one call leaves over is copied for the next.
            given = unpacker.unconsumed_tail or body[place : place + PIECE]
            if not unpacker.unconsumed_tail:
                place += len(given)
            try:
                piece = unpacker.decompress(given, PIECE)
            except zlib.error:
                raise _damaged() from None
            if not given and not piece and not unpacker.eof:
                raise _damaged()
            size += len(piece)
            if size > most:
                raise _too_large(limit, ratio, by_ratio=most < limit)
            pieces.append(piece)
        place -= len(unpacker.unused_data)
    return b"".join(pieces)


def _damaged() -> HttpProblem:
    return HttpProblem(
        400, "malformed", "The compressed body is damaged, ends too early, or has something behind its end."
    )


def _too_large(limit: int, ratio: int, *, by_ratio: bool) -> HttpProblem:
    if by_ratio:
        detail = f"The body unpacks to more than {ratio} times its length."
        return HttpProblem(413, "too-large", detail, remedy="Send it as it is.")
    return HttpProblem(
        413, "too-large", f"The body unpacks to more than {limit} bytes.", remedy="Send less in one request."
    )
