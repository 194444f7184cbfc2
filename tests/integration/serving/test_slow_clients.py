"""Clients that take their time, and heads that are too large: everybody else is answered at once."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import time
from pathlib import Path

import pytest
from real_packages import write_package

PATH = b"/v1/models/m/predict"
GOOD = b'{"rows":[{"x":1.5}]}'
HEAD = b"POST " + PATH + b" HTTP/1.1\r\nhost: localhost\r\n"
QUICK = 0.5
"""Seconds that nobody waits longer; an answer takes milliseconds, and two cores are busy with other tests, perhaps."""


@pytest.fixture(scope="module")
def served(shared):
    shared.options["loader"] = "modelyard.serving.packaged"
    (shared.root / "store").mkdir()
    shared.start(workers=1, limits={"in_flight": 64})
    shared.client.swap("m", "v1", write_package(shared.root / "store", 2.0))
    return shared


@contextlib.contextmanager
def connections(served, number: int, sent: bytes, receive_buffer: int | None = None):
    """Open connections that send some bytes each, and then nothing."""
    port = int(served.client.url.rsplit(":", 1)[1])
    with contextlib.ExitStack() as stack:
        opened = []
        for _ in range(number):
            connection = stack.enter_context(socket.socket())
            connection.settimeout(20)
            if receive_buffer is not None:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            connection.connect(("127.0.0.1", port))
            connection.sendall(sent)
            opened.append(connection)
        yield opened


def assert_others_are_quick(served) -> None:
    waits = []
    for _ in range(20):
        begun = time.monotonic()
        answer = served.request("POST", PATH.decode(), GOOD)
        waits.append(time.monotonic() - begun)
        assert answer.json["rows"] == [{"value": 3.0}]
        assert served.request("GET", "/healthz").status == 200
    assert max(waits) < QUICK, waits


def resident(served) -> int:
    (worker,) = served.client.status().workers
    return 4096 * int(Path(f"/proc/{worker}/statm").read_text().split()[1])


@pytest.mark.parametrize(
    "sent",
    [b"POST /v1/mod", HEAD, HEAD + b"x-slow: a", HEAD + b"content-length: 20\r\n\r\n", b"", b"\r\n"],
    ids=["a line", "a head", "a header", "a body", "nothing", "an empty line"],
)
def test_forty_who_stop_in_the_middle_keep_nobody_waiting(served, sent):
    with connections(served, 40, sent):
        assert_others_are_quick(served)
    served.until(lambda: b"\nmodelyard_in_flight 0.0\n" in served.request("GET", "/metrics").body)


def test_who_sends_byte_by_byte_is_answered_and_keeps_nobody_waiting(served):
    whole = HEAD + b"connection: close\r\ncontent-length: %d\r\n\r\n" % len(GOOD) + GOOD
    with connections(served, 1, b"") as (connection,):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for place in range(len(whole)):
            connection.sendall(whole[place : place + 1])
            if place % 20 == 0:
                assert served.request("POST", PATH.decode(), GOOD).status == 200
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.endswith(b'"rows":[{"value":3.0}]}')


def test_who_does_not_read_a_large_answer_keeps_nobody_waiting_and_gets_it_whole_in_the_end(served):
    body = json.dumps({"rows": [{"x": 1.5}] * 100_000}).encode()
    sent = HEAD + b"connection: close\r\ncontent-length: %d\r\n\r\n" % len(body) + body
    with connections(served, 4, sent, receive_buffer=4096) as slow:
        served.until(lambda: b"\nmodelyard_in_flight 0.0\n" in served.request("GET", "/metrics").body)
        held = resident(served)
        assert_others_are_quick(served)
        assert resident(served) < held + 16 * 1024 * 1024
        for connection in slow[:2]:
            answer = b"".join(iter(lambda connection=connection: connection.recv(1 << 20), b""))
            assert len(json.loads(answer.partition(b"\r\n\r\n")[2])["rows"]) == 100_000
    assert_others_are_quick(served)


@pytest.mark.parametrize(
    ("headers", "statuses"),
    [
        (b"x: " + b"a" * 60_000 + b"\r\n", {200}),
        (b"x: " + b"a" * (1 << 20) + b"\r\n", {431}),
        (b"".join(b"x-%d: a\r\n" % number for number in range(1000)), {431}),
        (b"".join(b"x-%d: %s\r\n" % (number, b"a" * 8000) for number in range(90)), {431}),
    ],
    ids=["60 kB", "a megabyte", "a thousand", "ninety long ones"],
)
def test_a_head_that_is_too_large_is_431_and_other_connections_go_on(served, headers, statuses):
    other = http.client.HTTPConnection("127.0.0.1", int(served.client.url.rsplit(":", 1)[1]), timeout=10)
    other.request("POST", PATH.decode(), GOOD)
    assert other.getresponse().read().endswith(b'"rows":[{"value":3.0}]}')
    kept = other.sock
    answer = b""
    with connections(served, 1, b"") as (connection,), contextlib.suppress(ConnectionError):
        connection.sendall(HEAD + b"connection: close\r\n" + headers + b"content-length: 20\r\n\r\n" + GOOD)
        while piece := connection.recv(65536):
            answer += piece
    assert int(answer[9:12]) in statuses, answer[:200]
    assert len(answer) < 1000
    other.request("POST", PATH.decode(), GOOD)
    assert other.getresponse().read().endswith(b'"rows":[{"value":3.0}]}')
    assert other.sock is kept, "the connection was closed"
    other.close()


DEEP = b"[" * 200_000 + b"]" * 200_000
DEEP_OBJECT = b'{"a":' * 100_000 + b"1" + b"}" * 100_000
INFER = b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1],%s}]}'


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/v1/models/m/predict", DEEP),
        ("POST", "/v1/models/m/predict", b'{"rows":[{"x":%s}]}' % DEEP),
        ("POST", "/v1/models/m/predict", b'{"columns":{"x":%s}}' % DEEP),
        ("POST", "/v1/models/m/predict", b'{"unknown":%s,"rows":[]}' % DEEP),
        ("POST", "/v1/models/m/predict", b'{"rows":[{"x":1,"unknown":%s}]}' % DEEP_OBJECT),
        ("POST", "/v2/models/m/infer", DEEP),
        ("POST", "/v2/models/m/infer", INFER % b'"data":%s' % DEEP),
        ("POST", "/v2/models/m/infer", INFER % b'"data":[1],"parameters":%s' % DEEP_OBJECT),
        ("POST", "/v2/models/m/infer", INFER % b'"data":[1],"unknown":%s' % DEEP),
        ("POST", "/v2/models/m/infer", b'{"parameters":{"a":%s}}' % DEEP_OBJECT),
        ("POST", "/v2/repository/index", DEEP_OBJECT),
        ("POST", "/v2/repository/models/m/load", b'{"parameters":{"version":%s}}' % DEEP),
        ("POST", "/v2/repository/models/m/unload", b'{"unknown":%s}' % DEEP),
        ("PUT", "/v1/models/m/canary", b'{"share_ppm":%s}' % DEEP),
        ("PUT", "/v1/models/m/shadow", DEEP_OBJECT),
        ("PUT", "/v1/models/m/labels/blue", b'{"version":%s}' % DEEP),
    ],
)
def test_json_that_is_nested_without_end_is_refused_on_every_surface(served, method, path, body):
    before = served.client.status().workers
    answer = served.request(method, path, body)
    assert answer.status in (400, 422), answer
    assert len(answer.body) < 1000
    assert served.client.status().workers == before, "the worker was replaced"
