from __future__ import annotations

import contextlib
import gzip
import random
import zlib

import pytest

from modelyard.serving.http.compression import RATIO_FLOOR, coding_of, inflate
from modelyard.serving.problems import HttpProblem

MIB = 1024 * 1024
PACKED = {"gzip": gzip.compress, "deflate": zlib.compress}


def unpacked(body: bytes, coding: str = "gzip", limit: int = 64 * MIB, ratio: int = 200) -> bytes:
    return inflate(body, coding, limit=limit, ratio=ratio)


def refused(body: bytes, coding: str = "gzip", **limits: int) -> int:
    with pytest.raises(HttpProblem) as refusal:
        unpacked(body, coding, **limits)
    return refusal.value.status


@pytest.mark.parametrize("coding", PACKED)
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"x",
        b"ab" * 400_000,
        random.Random(1).randbytes(300_000),
        random.Random(2).randbytes(70_000) + b" " * 900_000,
    ],
    ids=["nothing", "a byte", "one piece over and over", "noise", "noise and blanks"],
)
def test_what_was_packed_comes_back(coding, body):
    assert unpacked(PACKED[coding](body), coding) == body


def test_gzip_of_several_members_is_one_body():
    parts = [random.Random(number).randbytes(50_000) for number in range(5)]
    assert unpacked(b"".join(map(gzip.compress, parts))) == b"".join(parts)


@pytest.mark.parametrize("coding", PACKED)
def test_a_body_that_is_cut_off_anywhere_is_refused(coding):
    packed = PACKED[coding](random.Random(3).randbytes(500) + b"a" * 5_000)
    assert {refused(packed[:length], coding) for length in range(len(packed))} == {400}


@pytest.mark.parametrize("coding", PACKED)
@pytest.mark.parametrize("garbage", [b"\0", b"garbage", b"\x1f\x8b"])
def test_garbage_behind_the_end_is_refused(coding, garbage):
    assert refused(PACKED[coding](b"body") + garbage, coding) == 400


@pytest.mark.parametrize("coding", PACKED)
def test_a_flipped_bit_is_never_taken_for_a_body(coding):
    body = b'{"rows":[{"x":1.5}]}'
    packed = PACKED[coding](body)
    for place in range(len(packed)):
        for bit in range(8):
            spoilt = bytearray(packed)
            spoilt[place] ^= 1 << bit
            # A bit of gzip's head that means nothing, such as its time, may be any.
            with contextlib.suppress(HttpProblem):
                assert unpacked(bytes(spoilt), coding) == body


def test_the_limit_counts_unpacked_bytes():
    packed = gzip.compress(random.Random(4).randbytes(10_000))
    assert len(unpacked(packed, limit=10_000)) == 10_000
    assert refused(packed, limit=9_999) == 413


def test_a_bomb_is_given_up_at_the_ratio_and_not_at_the_limit():
    packed = gzip.compress(bytes(20 * MIB))
    assert len(packed) * 500 < 20 * MIB
    assert refused(packed, limit=1 << 40) == 413
    assert len(unpacked(packed, ratio=2000)) == 20 * MIB


def test_below_the_floor_any_ratio_is_allowed():
    packed = gzip.compress(bytes(RATIO_FLOOR))
    assert len(unpacked(packed, ratio=1)) == RATIO_FLOOR
    assert refused(gzip.compress(bytes(RATIO_FLOOR + 1)), ratio=1) == 413


def test_members_without_end_are_refused():
    assert refused(gzip.compress(b"") * 100_000) == 400


@pytest.mark.parametrize(
    ("header", "coding"),
    [
        (None, None),
        ("identity", None),
        ("gzip", "gzip"),
        (" GZIP ", "gzip"),
        ("x-gzip", "gzip"),
        ("deflate", "deflate"),
    ],
)
def test_known_codings(header, coding):
    assert coding_of(header) == coding


@pytest.mark.parametrize("header", ["br", "zstd", "gzip, gzip", "gzip,deflate", "compress", "gzip;q=1", "*"])
def test_an_unknown_coding_or_several_are_415_and_say_what_is_known(header):
    with pytest.raises(HttpProblem) as refusal:
        coding_of(header)
    assert refusal.value.status == 415
    assert refusal.value.headers == (("accept-encoding", "gzip, deflate"),)
