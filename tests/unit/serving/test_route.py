from __future__ import annotations

import zlib

import pytest

from modelyard.errors import RefusedError
from modelyard.serving.route import HIGHEST, MILLION, Route, Sampling, Window, label_word, sticky


@pytest.mark.parametrize(
    "words",
    [
        Route(0), Route(1), Route(HIGHEST), Route(1, 2, 0), Route(HIGHEST, HIGHEST, MILLION), Sampling(0, 0),
        Sampling(HIGHEST, MILLION), Window(HIGHEST, 2**42 - 1), Window(0, 0),
    ],
)  # fmt: skip
def test_a_word_says_what_was_packed_and_fits_into_64_bits(words):
    assert 0 <= words.pack() < 2**64
    assert type(words).unpack(words.pack()) == words


def test_a_route_without_a_canary_is_the_number_itself_and_one_with_a_canary_is_larger_than_any_number():
    assert Route(7).pack() == 7
    assert Route(7, 0, 500).pack() == 7, "a share of nothing is nothing"
    assert Route(7, 1, 0).pack() > HIGHEST


@pytest.mark.parametrize(
    "words", [Route(HIGHEST + 1), Route(1, HIGHEST + 1, 1), Route(1, 2, MILLION + 1), Route(1, 2, -1), Sampling(1, -1)]
)
def test_a_number_without_room_is_refused_and_never_cut(words):
    with pytest.raises(RefusedError):
        words.pack()


def test_a_draw_is_spread_evenly_over_any_kind_of_key():
    for kind in ("{}", "client-{:06}", "10.0.{}", "{:032x}"):
        places = [sticky(zlib.crc32(b"m/2/"), kind.format(number)) for number in range(50_000)]
        assert all(0 <= place < MILLION for place in places)
        for tenth in range(10):
            share = sum(tenth <= place * 10 // MILLION < tenth + 1 for place in places) / len(places)
            assert 0.094 < share < 0.106, kind


def test_label_words_differ_and_are_never_that_of_a_free_place():
    words = {label_word(f"label-{number}") for number in range(10_000)}
    assert len(words) == 10_000
    assert 0 not in words
