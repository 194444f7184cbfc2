"""A message as one line of JSON, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from modelyard.errors import InputError, IntegrityError

__all__ = ["decode", "encode"]

_decoder = msgspec.json.Decoder(dict[str, Any])


def encode(message: Mapping[str, Any]) -> bytes:
    """Return a message as one line of JSON, without its line end.

    Raises:
        InputError: It holds something that JSON has no form for.
    """
    try:
        return msgspec.json.encode(dict(message))
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"This message is not JSON: {error}.", remedy="Publish JSON values only.") from error


def decode(line: bytes, where: str) -> dict[str, Any]:
    """Read a line.

    Raises:
        IntegrityError: It is no JSON object, though it was written as one.
    """
    try:
        return _decoder.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise IntegrityError(
            "A message on the bus is damaged.",
            where=where,
            remedy="Move the file away; the next release publishes again what Git records.",
        ) from error
