"""Bodies that clients compress: answered as if they were not, on every surface, and never unpacked past the limits."""

from __future__ import annotations

import gzip
import http.client
import json
import struct
import time
import zlib
from pathlib import Path

import pyarrow as pa
import pytest
from real_packages import write_package

PREDICT = "/v1/models/m/predict"
INFER = "/v2/models/m/infer"
PACK = {"gzip": gzip.compress, "deflate": zlib.compress}


@pytest.fixture(scope="module")
def served(shared):
    shared.options["loader"] = "modelyard.serving.packaged"
    (shared.root / "store").mkdir()
    shared.start(workers=1, limits={"body_bytes": 8_000_000, "decompression_ratio": 50})
    shared.client.swap("m", "v1", write_package(shared.root / "store", 2.0))
    return shared


@pytest.mark.parametrize("coding", PACK)
def test_json_csv_and_arrow_are_answered(served, coding):
    def ask(body: bytes, kind: str):
        return served.request("POST", PREDICT, PACK[coding](body), content_type=kind, content_encoding=coding)

    assert ask(b'{"rows":[{"x":1.5}]}', "application/json").json["rows"] == [{"value": 3.0}]
    assert ask(b"x\n1.5\n", "text/csv").body == b"value\r\n3.0\r\n"
    sink = pa.BufferOutputStream()
    table = pa.table({"x": pa.array([1.5], pa.float32())})
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    answer = ask(sink.getvalue().to_pybytes(), "application/vnd.apache.arrow.stream")
    assert pa.ipc.open_stream(answer.body).read_all().to_pydict() == {"value": [3.0]}


@pytest.mark.parametrize("coding", PACK)
def test_raw_tensors_are_answered_and_the_header_counts_unpacked_bytes(served, coding):
    raw = {"name": "x", "datatype": "FP32", "shape": [2], "parameters": {"binary_data_size": 8}}
    head = json.dumps({"inputs": [raw]}).encode()
    body = PACK[coding](head + struct.pack("<2f", 1.5, 2.0))
    answer = served.request(
        "POST", INFER, body, content_encoding=coding, inference_header_content_length=str(len(head))
    )
    assert answer.json["outputs"][0]["data"] == [3.0, 4.0]


def test_a_large_body_is_unpacked_beside_the_event_loop(served):
    body = gzip.compress(json.dumps({"rows": [{"x": i + 0.25} for i in range(100_000)]}).encode())
    assert len(body) > 100_000
    answer = served.request("POST", PREDICT, body, content_encoding="gzip")
    assert answer.status == 200
    assert answer.json["rows"][99_999] == {"value": 2 * 99_999.25}


@pytest.mark.parametrize("kind", ["application/json", "text/csv"])
def test_a_chunked_compressed_body_says_itself_where_it_ends(served, kind):
    body = gzip.compress(b'{"rows":[{"x":1}]}' if kind == "application/json" else b"x\n1\n")
    connection = http.client.HTTPConnection("127.0.0.1", int(served.client.url.rsplit(":", 1)[1]), timeout=10)
    for whole in (True, False):
        pieces = [body[:10], body[10:]] if whole else [body[:10]]
        headers = {"transfer-encoding": "chunked", "content-type": kind, "content-encoding": "gzip"}
        connection.request("POST", PREDICT, iter(pieces), encode_chunked=True, headers=headers)
        response = connection.getresponse()
        assert (response.status, bool(response.read())) == (200 if whole else 400, True)
    connection.close()


def test_a_bomb_is_refused_at_once_and_takes_no_memory(served):
    (worker,) = served.client.status().workers

    def resident() -> int:
        return 4096 * int(Path(f"/proc/{worker}/statm").read_text().split()[1])

    bomb = gzip.compress(bytes(2_000_000_000), compresslevel=1)
    assert len(bomb) < 10_000_000
    before = resident()
    for body, status in ((bomb[:7_900_000], 413), (gzip.compress(bytes(7_000_000)), 413)):
        begun = time.monotonic()
        answer = served.request("POST", PREDICT, body, content_encoding="gzip")
        assert (answer.status, answer.json["type"]) == (status, "urn:modelyard:problem:too-large")
        assert time.monotonic() - begun < 5
    assert resident() < before + 64 * 1024 * 1024


def test_answers_are_sent_as_they_are_whatever_is_accepted(served):
    body = json.dumps({"rows": [{"x": 1.0}] * 5_000})
    answer = served.request("POST", PREDICT, body, accept_encoding="gzip, deflate, br")
    assert "content-encoding" not in answer.headers
    assert len(answer.json["rows"]) == 5_000


def test_a_path_that_is_no_prediction_takes_a_compressed_body_too(served):
    answer = served.request("POST", "/v2/repository/index", zlib.compress(b"{}"), content_encoding="deflate")
    assert answer.status == 200
