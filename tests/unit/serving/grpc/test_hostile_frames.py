"""What no client should send: each ends in one clear answer, and the others are served on."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import struct
import time

import grpc
import pytest
from h2.errors import ErrorCodes
from tests.unit.serving.grpc.frames import HEAD, PREFACE, Kind, frame, settings, window_update
from tests.unit.serving.grpc.front import Front
from tests.unit.serving.grpc.test_open_inference import call, infer

from modelyard.serving.spec import Limits

BODY = infer().SerializeToString()


def answers(front: Front) -> bool:
    with grpc.insecure_channel(front.address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        return bool(call(channel, "ModelInfer", infer())[0].outputs)


def spoiled(name: str, wire) -> bytes:
    block = wire.block()
    return {
        "data on stream 0": frame(Kind.DATA, 0, 0, b"x"),
        "data on an idle stream": frame(Kind.DATA, 0, 7, b"x"),
        "headers on an even stream": frame(Kind.HEADERS, 4, 2, block),
        "a frame too long": frame(Kind.DATA, 0, 1, bytes(16_385)),
        "a padded frame of padding alone": frame(Kind.HEADERS, 4 | 8, 1, b"\xff" + block),
        "no continuation": frame(Kind.HEADERS, 0, 1, block) + frame(Kind.PING, 0, 0, bytes(8)),
        "a continuation of nothing": frame(Kind.CONTINUATION, 4, 1, block),
        "a ping of seven bytes": frame(Kind.PING, 0, 0, bytes(7)),
        "settings of seven bytes": frame(Kind.SETTINGS, 0, 0, bytes(7)),
        "an acknowledgement with contents": frame(Kind.SETTINGS, 1, 0, bytes(6)),
        "an impossible frame size": frame(Kind.SETTINGS, 0, 0, struct.pack(">HL", 5, 1)),
        "an impossible window": frame(Kind.SETTINGS, 0, 0, struct.pack(">HL", 4, 1 << 31)),
        "a push": frame(Kind.PUSH_PROMISE, 4, 1, block),
        "a window update of nothing": window_update(0, 0),
        "a window too large": window_update(0, (1 << 31) - 1),
        "a reset of an idle stream": frame(Kind.RST_STREAM, 0, 9, bytes(4)),
        "a reset of three bytes": frame(Kind.RST_STREAM, 0, 9, bytes(3)),
        "headers that can't be read": frame(Kind.HEADERS, 4, 1, b"\xff\xff\xff\xff\xff\xff"),
        "an index beyond the table": frame(Kind.HEADERS, 4, 1, b"\xc0\xff"),
        "a stream that depends on itself": frame(Kind.HEADERS, 4 | 32, 1, struct.pack(">LB", 1, 0) + block),
        "settings on a stream": frame(Kind.SETTINGS, 0, 1, b""),
    }[name]


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("data on stream 0", ErrorCodes.PROTOCOL_ERROR),
        ("data on an idle stream", ErrorCodes.PROTOCOL_ERROR),
        ("headers on an even stream", ErrorCodes.PROTOCOL_ERROR),
        ("a frame too long", ErrorCodes.FRAME_SIZE_ERROR),
        ("a padded frame of padding alone", ErrorCodes.PROTOCOL_ERROR),
        ("no continuation", ErrorCodes.PROTOCOL_ERROR),
        ("a continuation of nothing", ErrorCodes.PROTOCOL_ERROR),
        ("a ping of seven bytes", ErrorCodes.FRAME_SIZE_ERROR),
        ("settings of seven bytes", ErrorCodes.FRAME_SIZE_ERROR),
        ("an acknowledgement with contents", ErrorCodes.PROTOCOL_ERROR),
        ("an impossible frame size", ErrorCodes.PROTOCOL_ERROR),
        ("an impossible window", ErrorCodes.FLOW_CONTROL_ERROR),
        ("a push", ErrorCodes.PROTOCOL_ERROR),
        ("a window update of nothing", ErrorCodes.PROTOCOL_ERROR),
        ("a window too large", ErrorCodes.FLOW_CONTROL_ERROR),
        ("a reset of an idle stream", ErrorCodes.PROTOCOL_ERROR),
        ("a reset of three bytes", ErrorCodes.FRAME_SIZE_ERROR),
        ("headers that can't be read", ErrorCodes.PROTOCOL_ERROR),
        ("an index beyond the table", ErrorCodes.PROTOCOL_ERROR),
        ("a stream that depends on itself", ErrorCodes.PROTOCOL_ERROR),
        ("settings on a stream", ErrorCodes.PROTOCOL_ERROR),
    ],
)
def test_frames_against_the_protocol_end_the_connection_with_their_code(front, wires, name, code):
    wire = wires(front)
    wire.send(spoiled(name, wire))
    assert wire.ended() == code
    assert answers(front)


@pytest.mark.parametrize(
    "extra",
    [(("Upper", "x"),), (("connection", "close"),), (("te", "gzip"),), ((":late", "x"),), ((":path", "/again"),)],
)
def test_malformed_headers_end_their_connection_alone(front, wires, extra):
    wire, other = wires(front), wires(front)
    other.headers(1)
    wire.call(1, BODY, *extra)
    assert wire.ended() == ErrorCodes.PROTOCOL_ERROR
    other.data(1, struct.pack(">BL", 0, len(BODY)) + BODY)
    assert other.trailers(1)["grpc-status"] == "0"


def test_a_frame_too_long_is_refused_at_its_head(front, wires):
    wire = wires(front)
    wire.headers(1)
    wire.send(HEAD.pack(0xFF, 0xFFFF, Kind.DATA, 0, 1))
    assert wire.ended() == ErrorCodes.FRAME_SIZE_ERROR


def test_settings_that_nobody_knows_are_not_remembered_without_end(front, wires):
    wire = wires(front)
    wire.send(settings({0x1000 + name: 1 for name in range(20)}))
    wire.call(1, BODY)
    assert wire.trailers(1)["grpc-status"] == "0"
    wire.send(settings({0x2000 + name: 1 for name in range(100)}))
    assert wire.ended() == ErrorCodes.ENHANCE_YOUR_CALM


def test_headers_that_never_end_are_waited_for_no_longer_than_a_body(fronts, wires):
    front = fronts(stall=0.5)
    wire = wires(front)
    wire.send(frame(Kind.HEADERS, 0, 1, wire.block()))
    assert wire.ended() is None
    assert answers(front)


def test_who_goes_away_still_gets_its_answer(front, wires):
    wire = wires(front)
    wire.headers(1)
    wire.send(frame(Kind.GOAWAY, 0, 0, bytes(8)))
    wire.data(1, struct.pack(">BL", 0, len(BODY)) + BODY)
    assert wire.trailers(1)["grpc-status"] == "0"
    assert wire.frame() is None


def test_calls_given_up_leave_the_window_of_their_connection_whole(front, wires):
    wire = wires(front)
    message = struct.pack(">BL", 0, len(BODY)) + BODY
    for stream in range(1, 41, 2):
        wire.headers(stream, path="/inference.GRPCInferenceService/ModelStreamInfer")
        # More than one in a frame: what the method has not taken yet is given up with the call.
        wire.data(stream, message * 60, end=False)
        wire.send(frame(Kind.RST_STREAM, 0, stream, bytes(4)))
    wire.call(101, BODY)
    assert wire.trailers(101)["grpc-status"] == "0"
    (connection,) = front.server.clients
    windows = connection._http2._inbound_flow_control_window_manager
    assert front.do(lambda: windows.current_window_size + windows._bytes_processed) == 4 << 20


@pytest.mark.parametrize("abuse", ["ping", "settings", "reset", "empty", "priority", "update", "unknown"])
def test_floods_of_frames_that_cost_only_us_end_the_connection(front, wires, abuse):
    wire = wires(front)
    wire.headers(1)
    one = {
        "ping": frame(Kind.PING, 0, 0, bytes(8)),
        "settings": settings({}),
        "empty": frame(Kind.DATA, 0, 1),
        "priority": frame(Kind.PRIORITY, 0, 1, bytes(5)),
        "update": window_update(1, 1),
        "unknown": frame(99, 0, 0, b""),
    }
    try:
        if abuse == "reset":
            for stream in range(3, 40_003, 2):
                wire.headers(stream)
                wire.send(frame(Kind.RST_STREAM, 0, stream, bytes(4)))
        else:
            wire.send(one[abuse] * 20_000)
    except OSError:
        # The server does not read on.
        pass
    assert wire.ended() in (ErrorCodes.ENHANCE_YOUR_CALM, None)
    assert answers(front)
    assert front.page.in_flight(1) == 0


def test_endless_headers_end_the_connection(front, wires):
    wire = wires(front)
    wire.send(frame(Kind.HEADERS, 0, 1, wire.block()))
    part = frame(Kind.CONTINUATION, 0, 1, bytes(16_000))
    try:
        for _ in range(50):
            wire.send(part)
    except OSError:
        pass
    assert wire.ended() in (ErrorCodes.ENHANCE_YOUR_CALM, None)
    assert answers(front)


def test_a_bomb_of_indexed_headers_ends_the_connection(front, wires):
    wire = wires(front)
    wire.send(frame(Kind.HEADERS, 4, 1, b"\x40\x01x" + b"\x7f\x81\x1e" + b"v" * 4000 + b"\xbe" * 10_000))
    assert wire.ended() == ErrorCodes.ENHANCE_YOUR_CALM
    assert answers(front)


def test_more_than_the_window_is_refused(front, wires):
    wire = wires(front)
    wire.headers(1)
    wire.send(struct.pack(">BHBBL", 0, 5, 0, 0, 1) + struct.pack(">BL", 0, 15 << 20))
    assert wire.socket.fileno() > 0
    for _ in range(500):
        try:
            # Without a look at what we may send.
            wire.data(1, bytes(16_384), end=False)
        except OSError:
            break
    assert front.held <= (16 << 20)
    assert answers(front)


def test_streams_beyond_the_limit_are_refused_for_another_try(front, wires):
    wire = wires(front)
    for stream in range(1, 2 * 128 + 3, 2):
        wire.headers(stream)
    _, payload = wire.until(Kind.RST_STREAM)
    assert payload == ErrorCodes.REFUSED_STREAM.to_bytes(4, "big")
    wire.data(1, struct.pack(">BL", 0, len(BODY)) + BODY)
    assert wire.trailers(1)["grpc-status"] == "0"


@pytest.mark.parametrize(
    ("body", "status", "problem"),
    [
        (b"", "3", "malformed"),
        (b"\0\0", "3", "malformed"),
        (struct.pack(">BL", 0, 10) + b"x", "3", "malformed"),
        (struct.pack(">BL", 0, 0xFFFFFFFF), "8", "too-large"),
        (struct.pack(">BL", 1, 3) + b"abc", "3", "malformed"),
        (struct.pack(">BL", 2, 3) + b"abc", "3", "malformed"),
        (struct.pack(">BL", 0, 3) + b"abc", "3", "malformed"),
        ((struct.pack(">BL", 0, len(BODY)) + BODY) * 2, "3", "malformed"),
    ],
)
def test_bodies_that_are_no_message_are_told_so(front, wires, body, status, problem):
    wire = wires(front)
    wire.headers(1)
    wire.data(1, body)
    told = wire.trailers(1)
    assert (told["grpc-status"], told["x-problem"]) == (status, problem)
    assert front.held == 0
    wire.call(3, BODY)
    assert wire.trailers(3)["grpc-status"] == "0"


def test_a_bomb_of_compression_is_refused(fronts, wires):
    import gzip

    front = fronts(limits=Limits(body_bytes=1 << 20))
    wire = wires(front)
    wire.headers(1, ("grpc-encoding", "gzip"))
    bomb = gzip.compress(bytes(8 << 20))
    wire.data(1, struct.pack(">BL", 1, len(bomb)) + bomb)
    assert wire.trailers(1)["grpc-status"] == "8"


def test_a_compression_that_nobody_knows_is_unimplemented(front, wires):
    wire = wires(front)
    wire.call(1, BODY, ("grpc-encoding", "snappy"))
    told = wire.trailers(1)
    assert told["grpc-status"] == "12"
    assert told["grpc-accept-encoding"] == "identity,gzip,deflate"


def test_a_deadline_that_is_no_time_is_refused(front, wires):
    wire = wires(front)
    wire.call(1, BODY, ("grpc-timeout", "soon"))
    assert wire.trailers(1)["grpc-status"] == "3"


def test_who_sends_slowly_is_told_so_and_holds_nothing(fronts, wires):
    front = fronts(stall=0.5)
    wire = wires(front)
    wire.headers(1)
    wire.data(1, struct.pack(">BL", 0, 100_000), end=False)
    assert wire.trailers(1)["grpc-status"] == "4"
    assert front.held == 0


def test_who_does_not_take_its_answer_loses_it(fronts, wires):
    front = fronts(stall=0.5)
    wire = wires(front, greet=False)
    wire.send(PREFACE + frame(Kind.SETTINGS, 0, 0, struct.pack(">HL", 4, 0)))
    wire.call(1, BODY)
    assert wire.until(Kind.RST_STREAM, 1)[1] == ErrorCodes.CANCEL.to_bytes(4, "big")


def test_messages_of_noise_are_told_to_be_none(front, wires):
    wire, noise = wires(front), random.Random(11)
    statuses = set()
    for stream in range(1, 601, 2):
        body = bytearray(BODY)
        for _ in range(noise.randrange(1, 4)):
            body[noise.randrange(len(body))] = noise.randrange(256)
        wire.call(stream, bytes(body[: noise.randrange(len(body) + 1)]) if stream % 3 else bytes(body))
        statuses.add(wire.trailers(stream)["grpc-status"])
    # Right, invalid, or a model that does not exist; never a fault of ours.
    assert statuses <= {"0", "3", "5"}
    assert {"3", "5"} <= statuses
    assert front.page.in_flight(1) == 0


def test_a_drain_ends_a_stream_that_waits_for_its_client(front, wires):
    wire = wires(front)
    wire.headers(1, path="/inference.GRPCInferenceService/ModelStreamInfer")
    wire.data(1, struct.pack(">BL", 0, len(BODY)) + BODY, end=False)
    # Read in their order: later headers refer to earlier ones.
    assert dict(wire.decoder.decode(wire.until(Kind.HEADERS, 1)[1]))[":status"] == "200"
    front.server.drain()
    wire.until(Kind.PING)
    wire.send(frame(Kind.PING, 1, 0, b"drainage"))
    assert dict(wire.decoder.decode(wire.until(Kind.HEADERS, 1)[1]))["grpc-status"] == "14"
    front.drained(5)


def test_what_is_no_http2_is_closed(front):
    with socket.create_connection(("127.0.0.1", front.port), timeout=10) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        while connection.recv(4096):
            pass
    assert answers(front)


def test_noise_after_the_greeting_harms_nobody(front, wires):
    noise = random.Random(7)
    for _ in range(300):
        wire = wires(front)
        data = b""
        for _ in range(20):
            payload = noise.randbytes(noise.randrange(40))
            data += frame(noise.randrange(11), noise.randrange(256), noise.randrange(4), payload)
        with contextlib.suppress(OSError):
            wire.send(data)
        wire.close()
    assert answers(front)
    deadline = time.monotonic() + 5
    while front.do(lambda: len(front.server.clients)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert front.page.in_flight(1) == 0
    assert front.held == 0


def test_a_request_in_single_bytes_is_read(front, wires):
    wire = wires(front, greet=False)
    block = wire.block()
    data = PREFACE + settings({}) + frame(Kind.HEADERS, 4, 1, block)
    data += frame(Kind.DATA, 1, 1, struct.pack(">BL", 0, len(BODY)) + BODY)
    for byte in data:
        os.write(wire.socket.fileno(), bytes([byte]))
    assert wire.trailers(1)["grpc-status"] == "0"


def test_a_drain_answers_what_is_in_flight_and_then_closes(front, wires):
    wire = wires(front)
    wire.headers(1)
    front.server.drain()
    wire.until(Kind.PING)
    # Sent before the client heard of it: still answered.
    wire.call(3, BODY)
    assert wire.trailers(3)["grpc-status"] == "0"
    wire.send(frame(Kind.PING, 1, 0, b"drainage"))
    assert wire.until(Kind.GOAWAY)[1][:4] == (3).to_bytes(4, "big")
    wire.data(1, struct.pack(">BL", 0, len(BODY)) + BODY)
    assert wire.trailers(1)["grpc-status"] == "0"
    assert wire.frame() is None
    front.drained(5)
