"""Which generation a request takes: the words of a slot's route and shadow, and the sticky draw of a canary."""

from __future__ import annotations

import hashlib
import random
import zlib
from typing import NamedTuple

from modelyard.errors import RefusedError

__all__ = ["HIGHEST", "MILLION", "Route", "Sampling", "Window", "label_word", "sticky"]

MILLION = 1_000_000
_BITS = 22
HIGHEST = (1 << _BITS) - 1
"""The highest generation number that the words have room for."""


class Route(NamedTuple):
    """What answers in a slot: one word, so that one store changes all of it at once.

    Args:
        stable: The generation that answers; 0 for none.
        canary: The generation that answers a share of the requests; 0 for none.
        ppm: That share, in parts per million.
    """

    stable: int
    canary: int = 0
    ppm: int = 0

    def pack(self) -> int:
        """Return the word: from its lowest bit on, stable (22 bits), canary (22), share (20).

        Without a canary the word *is* the stable number, which spares most requests the unpacking.

        Raises:
            RefusedError: A number has no room in its bits.
        """
        if not self.canary:
            return _fits(self.stable)
        return _fits(self.stable) | _fits(self.canary) << _BITS | _share(self.ppm) << 2 * _BITS

    @classmethod
    def unpack(cls, word: int) -> Route:
        """Return what a word says."""
        return cls(word & HIGHEST, word >> _BITS & HIGHEST, word >> 2 * _BITS)


class Sampling(NamedTuple):
    """A generation that sees copies of requests and answers none: a shadow.

    Args:
        generation: Its number; 0 for none.
        ppm: The share of the requests that it sees, in parts per million.
    """

    generation: int
    ppm: int

    def pack(self) -> int:
        """Return the word: from its lowest bit on, generation (22 bits), share (20).

        Raises:
            RefusedError: A number has no room in its bits.
        """
        return _fits(self.generation) | _share(self.ppm) << _BITS if self.generation else 0

    @classmethod
    def unpack(cls, word: int) -> Sampling:
        """Return what a word says."""
        return cls(word & HIGHEST, word >> _BITS)


class Window(NamedTuple):
    """A generation whose contract was replaced, and until when it answers what fits only that contract.

    Args:
        generation: Its number; 0 for none.
        until: Milliseconds of the monotonic clock, which all processes of a machine share.
    """

    generation: int
    until: int

    def pack(self) -> int:
        """Return the word: from its lowest bit on, generation (22 bits), end (42 bits)."""
        return _fits(self.generation) | self.until << _BITS if self.generation else 0

    @classmethod
    def unpack(cls, word: int) -> Window:
        """Return what a word says."""
        return cls(word & HIGHEST, word >> _BITS)


def sticky(salt: int, key: str | None) -> int:
    """Return where a request stands among a million: the same for the same salt and key, a random draw without a key.

    Args:
        salt: CRC-32 of what makes this canary unlike any other, so that another canary takes other clients.
        key: What the client is known by.
    """
    if key is None:
        return int(random.random() * MILLION)  # noqa: S311  (a share of traffic, not a secret)
    # CRC-32 is linear: another salt alone would move equally long keys in step. Two multiplications break that up
    # (constants of xxHash32, https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md).
    mixed = zlib.crc32(key.encode(), salt)
    mixed = (mixed ^ mixed >> 15) * 0x85EBCA77 & 0xFFFFFFFF
    mixed = (mixed ^ mixed >> 13) * 0xC2B2AE3D & 0xFFFFFFFF
    return (mixed ^ mixed >> 16) * MILLION >> 32


def label_word(label: str) -> int:
    """Return the word that stands for a label's name; never 0, which means a free place."""
    return int.from_bytes(hashlib.blake2b(label.encode(), digest_size=8).digest(), "little") or 1


def _fits(number: int) -> int:
    if not 0 <= number <= HIGHEST:
        raise RefusedError(
            f"Generation {number} is beyond {HIGHEST}, the last that a slot has room for.",
            remedy="Retire the model, stop the service, remove its `committed.json`, and start it again.",
        )
    return number


def _share(ppm: int) -> int:
    if not 0 <= ppm <= MILLION:
        raise RefusedError(f"A share of {ppm} parts per million is impossible.", remedy=f"Ask for 0 to {MILLION}.")
    return ppm
