"""What is remembered of header blocks never differs from what the table says."""

from __future__ import annotations

import hpack
from hypothesis import given
from hypothesis import strategies as st

from modelyard.serving.grpc.frames import header
from modelyard.serving.grpc.headers import HeaderBlocks

NAMES = st.sampled_from([b"a", b"b", b"c", b"x-long-name", b"grpc-timeout"])
VALUES = st.sampled_from([b"", b"1", b"2", b"v" * 200])
BLOCKS = st.lists(st.lists(st.tuples(NAMES, VALUES), max_size=6), max_size=30)


@given(BLOCKS, st.integers(0, 4096))
def test_a_remembered_block_means_what_the_table_says(blocks, size):
    encoder, blocks_of = hpack.Encoder(), HeaderBlocks(1 << 16)
    for index, block in enumerate(blocks):
        if index == 10:
            encoder.header_table_size = size
        expected: dict[bytes, bytes] = {}
        for name, value in block:
            expected[name] = expected[name] + b"," + value if name in expected else value
        # Twice: the second time out of what is remembered, where it may be.
        assert blocks_of.decode(encoder.encode(block, huffman=index % 2 == 0)).given == expected
        assert blocks_of.decode(encoder.encode(block)).given == expected


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_a_header_of_ours_reads_as_it_was_written(name, value):
    assert [(bytes(n), bytes(v)) for n, v in hpack.Decoder().decode(header(name, value), raw=True)] == [(name, value)]
