"""A real service with real packages, and clients that mean it harm: everybody else is answered all the same."""

from __future__ import annotations

import gzip
import json
import random
import re
import socket
import time
from pathlib import Path

import pytest
from real_packages import write_package

PATH = b"/v1/models/m/predict"
GOOD = b'{"rows":[{"x":1.5}]}'
HEAD = b"POST " + PATH + b" HTTP/1.1\r\nhost: localhost\r\n"


@pytest.fixture(scope="module")
def served(shared):
    shared.options["loader"] = "modelyard.serving.packaged"
    (shared.root / "store").mkdir()
    shared.start(workers=1, limits={"in_flight": 4, "body_seconds": 0.5, "body_bytes": 1_000_000})
    shared.client.swap("m", "v1", write_package(shared.root / "store", 2.0))
    return shared


def send(served, data: bytes, timeout: float = 10.0) -> bytes:
    """Send bytes as they are, and return all that comes back until the service closes the connection."""
    port = int(served.client.url.rsplit(":", 1)[1])
    answer = b""
    with socket.create_connection(("127.0.0.1", port), timeout=timeout) as connection:
        try:
            connection.sendall(data)
            while piece := connection.recv(65536):
                answer += piece
        except ConnectionError:
            pass  # it closed before it had read all; what it said first is what counts
    return answer


def post(body: bytes, *headers: bytes, path: bytes = PATH, method: bytes = b"POST", version: bytes = b"1.1") -> bytes:
    lines = [method + b" " + path + b" HTTP/" + version, b"host: localhost", b"connection: close", *headers]
    if not any(header.lower().startswith((b"content-length", b"transfer-encoding")) for header in headers):
        lines.append(b"content-length: %d" % len(body))
    return b"\r\n".join([*lines, b"", body])


def status(answer: bytes) -> int:
    return int(answer[9:12] or 0)


def memory(pid: int) -> int:
    """Resident bytes of a process."""
    found = re.search(r"^VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found
    return 1024 * int(found[1])


def value(number: bytes) -> bytes:
    return b'{"rows":[{"x":' + number + b"}]}"


HOSTILE = {
    "an empty body": (post(b""), 422),
    "no JSON": (post(b"hello"), 400),
    "a byte order mark": (post(b"\xef\xbb\xbf" + GOOD), 400),
    "UTF-16": (post(GOOD.decode().encode("utf-16")), 400),
    "invalid UTF-8": (post(b'{"rows":[{"x":"\xff"}]}'), 422),
    "a million open brackets": (post(b"[" * 999_000), 422),
    "depth in an unknown key": (post(b'{"y":' + b"[" * 400_000 + b"]" * 400_000 + b',"rows":[]}'), 422),
    "depth of objects": (post(b'{"y":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"}"), 422),
    "NaN": (post(value(b"NaN")), 400),
    "Infinity": (post(value(b"-Infinity")), 400),
    "a float past float64": (post(value(b"1e400")), 422),
    "a float past float32": (post(value(b"1e300")), 422),
    "an integer of 900,000 digits": (post(value(b"9" * 900_000)), 422),
    "an integer of 4,000 digits": (post(value(b"9" * 4_000)), 422),
    "a text for a number": (post(value(b'"1"')), 422),
    "a truth for a number": (post(value(b"true")), 422),
    "a list for a number": (post(value(b"[1]")), 422),
    "ragged columns": (post(b'{"columns":{"x":[1,[2]]}}'), 422),
    "no rows": (post(b'{"rows":[]}'), 200),
    "a key twice": (post(b'{"rows":[{"x":"a"}],"rows":[{"x":1}]}'), 422),
    "CSV of UTF-16": (post("x\n1".encode("utf-16"), b"content-type: text/csv"), 400),
    "CSV with digits of another script": (post("x\n٣".encode(), b"content-type: text/csv"), 422),
    "CSV with an endless cell": (post(b"x\n" + b"1" * 900_000, b"content-type: text/csv"), 400),
    "CSV with an endless header": (post(b"x," * 400_000 + b"y\n1", b"content-type: text/csv"), 422),
    "CSV with NUL": (post(b"x\n\0\n", b"content-type: text/csv"), 422),
    "a compressed body cut off": (post(b"\x1f\x8b\x08", b"content-encoding: gzip"), 400),
    "a bomb of zeros": (post(gzip.compress(bytes(50_000_000)), b"content-encoding: gzip"), 413),
    "a compression of its own": (post(GOOD, b"content-encoding: br"), 415),
    "a compression of compressions": (post(GOOD, b"content-encoding: gzip, gzip"), 415),
    "a character set of two bytes": (post(GOOD, b"content-type: application/json; charset=utf-16"), 415),
    "a media type that is no text": (post(GOOD, b"content-type: \xff\xfe"), (200, 400, 415)),
    "a request id that is no text": (post(GOOD, b"x-request-id: \xff\xfe"), 200),
    "a quality that is no number": (post(GOOD, b"accept: text/csv;q=nan"), 406),
    "five thousand accepted types": (post(GOOD, b"accept: " + b"a/b;q=1," * 5_000), 406),
    "a length below zero": (post(GOOD, b"content-length: -1"), 400),
    "a length past 64 bits": (post(GOOD, b"content-length: 99999999999999999999999"), 400),
    "two lengths": (post(GOOD, b"content-length: 20", b"content-length: 5"), 400),
    "a length of other digits": (post(GOOD, "content-length: ٢٠".encode()), 400),
    "two hundred headers": (post(GOOD, *(b"x-%d: a" % index for index in range(200))), 431),
    "a header of a megabyte": (post(GOOD, b"x: " + b"a" * 1_000_000), 431),
    "a folded header": (post(GOOD, b"x: a\r\n b"), 400),
    "a path of 70,000 characters": (post(GOOD, path=b"/" + b"a" * 70_000), 414),
    "a path that climbs": (post(GOOD, path=b"/v1/models/../../../../etc/passwd/predict"), 404),
    "a path that climbs encoded": (post(GOOD, path=b"/v1/models/..%2f..%2fetc/predict"), 404),
    "a path with NUL": (post(GOOD, path=b"/v1/models/m%00/predict"), 404),
    "a path with a line end": (post(GOOD, path=PATH + b"%0A"), 404),
    "a path that is no text": (post(GOOD, path=b"/v1/models/\xff/predict"), 400),
    "a path of broken escapes": (post(GOOD, path=b"/v1/models/%ff%zz/predict"), 404),
    "PUT": (post(GOOD, method=b"PUT"), 405),
    "OPTIONS": (post(b"", method=b"OPTIONS"), 405),
    "HEAD": (post(b"", method=b"HEAD"), 405),
    "TRACE": (post(b"", method=b"TRACE"), 405),
    "a method of its own": (post(GOOD, method=b"FOO!"), 501),
    "HTTP/1.0": (post(GOOD, version=b"1.0"), 200),
    "HTTP/3.0": (post(GOOD, version=b"3.0"), 400),
    "a TLS greeting": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", (0, 400)),
    "the preface of HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", (0, 400)),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_request_is_refused_and_the_next_one_is_answered(served, kind):
    data, expected = HOSTILE[kind]
    before = served.client.status().workers
    answer = send(served, data)
    assert status(answer) in (expected if isinstance(expected, tuple) else (expected,)), answer[:300]
    assert len(answer) < 2000, "a refusal must not give back what it was sent"
    for leak in (b"Traceback", b'File "', b"/src/", str(served.root).encode(), b"site-packages"):
        assert leak not in answer
    assert send(served, post(GOOD)).endswith(b'"rows":[{"value":3.0}]}')
    assert served.client.status().workers == before, "the worker was replaced"


def test_who_sends_a_body_slowly_is_sent_away_and_gives_the_place_back(served):
    port = int(served.client.url.rsplit(":", 1)[1])
    slow = [socket.create_connection(("127.0.0.1", port), timeout=10) for _ in range(4)]
    try:
        for connection in slow:
            connection.sendall(HEAD + b"content-length: 20\r\n\r\n{")
        served.until(lambda: status(send(served, post(GOOD))) == 429)
        served.until(lambda: status(send(served, post(GOOD))) == 200, timeout=5)
        for connection in slow:
            assert status(connection.recv(4096)) == 408
    finally:
        for connection in slow:
            connection.close()


def test_requests_on_one_connection_are_answered_each_by_itself(served):
    one = HEAD + b"content-length: %d\r\n\r\n" % len(GOOD) + GOOD
    bad = HEAD + b"content-length: 4\r\n\r\nnope"
    answer = send(served, one + bad + one + post(GOOD))
    assert re.findall(rb"HTTP/1\.1 (\d+)", answer) == [b"200", b"400", b"200", b"200"]


def test_unknown_names_make_no_new_metrics(served):
    for index in range(50):
        send(served, post(GOOD, path=b"/v1/models/stranger-%d/predict" % index))
    text = served.request("GET", "/metrics").body
    assert b"stranger" not in text
    assert text.count(b"modelyard_requests_total{") < 30


def test_no_request_can_write_a_line_of_its_own_into_the_log(served):
    forged = b'{"level":"error","event":"forged"}'
    send(served, post(b"x\n" + b"1\n" + forged, b"content-type: text/csv"))
    send(served, post(GOOD, b"x-request-id: a%0a" + forged, path=b"/v1/models/%0A" + forged.replace(b'"', b"%22")))
    assert all(event["event"] != "forged" for event in served.events)


def test_thousands_of_bad_requests_leave_no_memory_behind(served):
    (worker,) = served.client.status().workers
    chosen = random.Random(7)
    bodies = [data for data, _ in HOSTILE.values() if b"connection: close" in data and len(data) < 5_000]
    for _ in range(500):
        send(served, chosen.choice(bodies))
    before = memory(worker)
    for _ in range(2_500):
        send(served, chosen.choice(bodies))
    assert memory(worker) < before + 8 * 1024 * 1024


def test_who_goes_away_in_the_middle_leaves_the_service_ready(served):
    port = int(served.client.url.rsplit(":", 1)[1])
    chosen = random.Random(11)
    whole = post(GOOD)
    for _ in range(200):
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(whole[: chosen.randrange(len(whole))])
    time.sleep(0.1)
    assert json.loads(served.request("GET", "/readyz").body) == {"status": "ready"}
    served.until(lambda: b"\nmodelyard_in_flight 0.0\n" in served.request("GET", "/metrics").body)
