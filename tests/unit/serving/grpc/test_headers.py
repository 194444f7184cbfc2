"""Blocks that come again mean what HPACK's own coder says they mean, whatever became of the table in between."""

from __future__ import annotations

import random

import hpack
import pytest
from h2.config import H2Configuration
from h2.errors import ErrorCodes
from hpack import NeverIndexedHeaderTuple
from tests.unit.serving.grpc.frames import Kind, frame
from tests.unit.serving.grpc.test_open_inference import infer

from modelyard.serving.grpc.headers import KEPT, LONGEST_KEPT, Decoder, Encoder

BODY = infer().SerializeToString()
SIZES = (0, 64, 300, 4096)


def lists(randomly: random.Random) -> list[tuple[bytes, bytes]]:
    """Return some headers: many come again, a few are long, some fit into no small table."""
    names = [b":path", b"content-type", b"x-model", b"x-routing-key", b"x-" + b"n" * 60]
    return [
        (randomly.choice(names), bytes([97 + randomly.randrange(3)]) * randomly.choice((1, 1, 1, 40, 400)))
        for _ in range(randomly.randrange(1, 6))
    ]


@pytest.mark.parametrize("seed", range(8))
def test_what_we_send_is_read_by_hpacks_own_decoder(seed):
    randomly = random.Random(seed)
    ours, theirs = Encoder(), hpack.Decoder()
    few = [lists(randomly) for _ in range(4)]
    for number in range(400):
        headers = list(randomly.choice(few) if randomly.random() < 0.9 else lists(randomly))
        if randomly.random() < 0.5:
            headers.append(NeverIndexedHeaderTuple(b"x-request-id", b"i" * randomly.choice((1, 64, 126, 127, 300))))
        if number % 50 == 49:
            ours.header_table_size = theirs.max_allowed_table_size = randomly.choice(SIZES)
        assert theirs.decode(ours.encode(list(headers)), raw=True) == headers
        assert len(ours._known) <= KEPT


@pytest.mark.parametrize("seed", range(8))
def test_what_hpacks_own_encoder_sends_is_read_by_us(seed):
    randomly = random.Random(seed)
    configuration = H2Configuration(client_side=False)
    ours, theirs = Decoder(configuration, 65536), hpack.Encoder()
    few = [lists(randomly) for _ in range(4)]
    known = 0
    for number in range(400):
        headers = list(randomly.choice(few) if randomly.random() < 0.9 else lists(randomly))
        if number % 50 == 49:
            theirs.header_table_size = randomly.choice(SIZES)
        assert list(ours.decode(theirs.encode(headers), raw=True)) == headers
        known += not configuration.validate_inbound_headers
        fields, size = ours.request(headers)
        assert fields == {name: b",".join(v for n, v in headers if n == name) for name, _ in headers}
        assert size == sum(len(name) + len(value) + 32 for name, value in headers)
        assert len(ours._known) <= KEPT
        assert all(max(len(block), of[2]) <= LONGEST_KEPT for block, of in ours._known.items())
    assert known > 10


def test_a_request_id_is_never_indexed_and_leaves_the_table_alone():
    encoder = Encoder()
    status = (b":status", b"200")
    blocks = [encoder.encode([status, NeverIndexedHeaderTuple(b"x-request-id", b"%d" % number)]) for number in (1, 2)]
    assert not encoder.header_table.dynamic_entries
    decoded = hpack.Decoder().decode(blocks[1], raw=True)
    assert decoded == [(b":status", b"200"), (b"x-request-id", b"2")]
    assert type(decoded[1]) is NeverIndexedHeaderTuple


def test_a_malformed_block_is_refused_each_time(front, wires):
    for _ in range(3):
        wire = wires(front)
        wire.call(1, BODY)
        assert wire.trailers(1)["grpc-status"] == "0"
        wire.headers(3, ("x-model", "a\nb"))
        assert wire.ended() == ErrorCodes.PROTOCOL_ERROR


def test_trailers_that_were_right_are_no_request(front, wires):
    wire = wires(front)
    trailers = hpack.Encoder().encode([NeverIndexedHeaderTuple("x-checksum", "1")])
    for stream in (1, 3):
        wire.headers(stream)
        wire.data(stream, bytes([0]) + len(BODY).to_bytes(4, "big") + BODY, end=False)
        wire.send(frame(Kind.HEADERS, 5, stream, trailers))
        assert wire.trailers(stream)["grpc-status"] == "0"
    wire.send(frame(Kind.HEADERS, 4, 5, trailers))
    assert wire.ended() == ErrorCodes.PROTOCOL_ERROR


def test_a_request_that_was_right_is_served_each_time(front, wires):
    wire = wires(front)
    for stream in range(1, 2 * 3 * KEPT, 2):
        wire.call(stream, BODY, ("x-routing-key", str(stream % 5)))
        assert wire.trailers(stream)["grpc-status"] == "0"
