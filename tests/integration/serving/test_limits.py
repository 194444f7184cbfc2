"""Each limit of a service holds as it was set, and not as it is by default."""

from __future__ import annotations

import http.client
import select
import socket
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet
from real_packages import write_package
from tests.integration.serving.test_acumos_uploads import BOUNDARY, TIMES, onnx_file, send

REAL = "modelyard.serving.packaged"
PREDICT = "/v1/models/m/predict"
PARQUET, ARROW = "application/vnd.apache.parquet", "application/vnd.apache.arrow.stream"


@pytest.fixture
def limited(service):
    """Start a service with limits, and with the model m, which doubles."""

    def start(*, sandbox: dict[str, float] | None = None, **limits: float):
        service.options |= {"loader": REAL, "workers": 1, "limits": limits | ({"sandbox": sandbox} if sandbox else {})}
        (service.root / "store").mkdir()
        service.start()
        service.client.swap("m", "v1", write_package(service.root / "store", 2.0))
        return service

    return start


def table(rows: int, kind: str, value: float = 1.5) -> bytes:
    given = pa.table({"x": pa.array(np.full(rows, value, np.float32))})
    sink = pa.BufferOutputStream()
    if kind == PARQUET:
        parquet.write_table(given, sink, compression="zstd", use_dictionary=False)
    else:
        options = pa.ipc.IpcWriteOptions(compression="zstd")
        with pa.ipc.new_stream(sink, given.schema, options=options) as writer:
            writer.write_table(given)
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize("kind", [ARROW, PARQUET])
def test_a_table_unpacks_to_no_more_than_was_set(limited, kind):
    service = limited(unpacked_bytes=1_000_000, rows=1_000_000)
    assert service.request("POST", PREDICT, table(20_000, kind), content_type=kind).status == 200
    answer = service.request("POST", PREDICT, table(300_000, kind), content_type=kind)
    assert answer.status == 422
    assert answer.json["detail"].endswith("and 1000000 are allowed.")


def test_a_table_unpacks_to_no_more_than_so_many_times_its_length(limited):
    service = limited(decompression_ratio=20, rows=10_000_000)
    large = table(3_000_000, PARQUET)
    assert len(large) * 200 < 12_000_000
    answer = service.request("POST", PREDICT, large, content_type=PARQUET)
    assert (answer.status, answer.json["detail"]) == (422, "The body unpacks to over 20 times its size.")


def test_a_body_must_arrive_in_the_time_that_was_set(limited):
    service = limited(body_seconds=0.2)
    with socket.create_connection(("127.0.0.1", int(service.client.url.rsplit(":", 1)[1])), timeout=10) as client:
        started = time.monotonic()
        client.sendall(f"POST {PREDICT} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\n[".encode())
        response = http.client.HTTPResponse(client)
        response.begin()
        assert response.status == 408
        assert b"within 0.2 s" in response.read()
        assert time.monotonic() - started < 5


def test_a_form_may_take_the_time_that_was_set_and_then_must_not_be_slow(limited):
    """Its pieces come quickly enough, so that only their average is too low."""
    service = limited(body_seconds=0.5)
    with socket.create_connection(("127.0.0.1", int(service.client.url.rsplit(":", 1)[1])), timeout=10) as client:
        head = "PUT /model HTTP/1.1\r\nhost: localhost\r\ncontent-length: 900000\r\n"
        part = f'--{BOUNDARY}\r\ncontent-disposition: form-data; name="model"\r\n\r\n'
        client.sendall(f"{head}content-type: multipart/form-data; boundary={BOUNDARY}\r\n\r\n{part}".encode())
        started = time.monotonic()
        while not select.select([client], [], [], 0.05)[0]:
            client.sendall(b"x" * 20)
        response = http.client.HTTPResponse(client)
        response.begin()
        assert (response.status, b"less than 16384 bytes" in response.read()) == (408, True)
        assert 0.5 <= time.monotonic() - started < 5


def test_only_so_many_uploads_are_taken_side_by_side(limited):
    service = limited(uploads=1)
    with socket.create_connection(("127.0.0.1", int(service.client.url.rsplit(":", 1)[1])), timeout=10) as client:
        head = "PUT /model HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9000\r\n"
        client.sendall(f"{head}content-type: multipart/form-data; boundary={BOUNDARY}\r\n\r\n--{BOUNDARY}".encode())
        refused = service.until(
            lambda: answer if (answer := send(service, "PUT", "/model", model=b"no model")).status == 429 else None
        )
        assert refused.json["detail"] == "More than 1 uploads are in flight."
        assert service.predict().status == 200
    service.until(lambda: send(service, "PUT", "/model", model=onnx_file([[2.0]])).status == 200)


def test_a_larger_upload_than_was_set_is_refused(limited):
    service = limited(upload_bytes=1000)
    assert send(service, "PUT", "/model", model=onnx_file([[2.0]])).status == 200
    answer = send(service, "PUT", "/model", model=b"x" * 1001)
    assert (answer.status, answer.json["detail"]) == (413, "The part 'model' is larger than 1000 bytes.")


def test_a_part_waits_only_so_long_for_the_others(limited):
    service = limited(staged_seconds=0.3)
    assert "model" in send(service, "PUT", "/model", model=onnx_file([[2.0]])).json["staged"]
    service.until(
        lambda: send(service, "PUT", "/model/configuration", modelConfig="a=b").json["staged"] == ["configuration"]
    )


def sandboxes(service) -> list[int]:
    (worker,) = service.client.status().workers
    children = []
    for task in Path(f"/proc/{worker}/task").iterdir():
        children += [int(word) for word in (task / "children").read_text().split()]
    return children


def brought(service, weight: float = 3.0, proto: str = TIMES):
    return send(service, "POST", "/transformCSV", model=onnx_file([[weight]]), proto=proto, csvFile="x\n2\n")


def test_the_process_of_an_upload_has_the_limits_that_were_set(limited):
    service = limited(sandbox={"memory": 700 << 20, "cpu_seconds": 33, "file_bytes": 5 << 20, "idle_seconds": 60.0})
    assert brought(service).json == {"prediction": ["6.0"]}
    (process,) = sandboxes(service)
    lines = Path(f"/proc/{process}/limits").read_text().splitlines()
    found = {line[:26].strip(): line[26:].split()[0] for line in lines}
    assert [found[name] for name in ("Max data size", "Max cpu time", "Max file size")] == [
        str(700 << 20), "33", str(5 << 20)
    ]  # fmt: skip


def test_too_little_memory_for_an_upload_is_told(limited):
    service = limited(sandbox={"memory": 40 << 20})
    answer = brought(service)
    assert answer.status == 422, answer.body
    assert send(service, "PUT", "/model", model=onnx_file([[2.0]])).status == 422
    assert service.predict().status == 200


def test_an_upload_that_takes_longer_than_was_set_is_ended(limited):
    service = limited(sandbox={"seconds": 0.01})
    answer = brought(service)
    assert answer.status == 422
    assert answer.json["detail"] == "The process of the upload took longer than 0.01 s."
    assert sandboxes(service) == []


def test_an_upload_may_write_no_larger_file_than_was_set(limited):
    service = limited(sandbox={"file_bytes": 50})
    assert brought(service).status == 422
    assert send(service, "PUT", "/model", model=onnx_file([[2.0]])).status == 422


def test_only_so_many_processes_stay_and_each_only_so_long(limited):
    service = limited(sandbox={"processes": 1, "idle_seconds": 0.5})
    for weight in (3.0, 4.0):
        assert brought(service, weight).json == {"prediction": [str(2 * weight)]}
        assert len(sandboxes(service)) <= 1
    service.until(lambda: sandboxes(service) == [])


@pytest.mark.parametrize("given", ["soon", "nan", "-1", "0", "3601", ""])
def test_a_deadline_that_is_none_is_refused_and_takes_nothing(limited, given):
    service = limited(in_flight=2)
    body = b'{"rows": [{"x": 1.5}]}'
    for _ in range(4):
        answer = service.request("POST", PREDICT, body, x_request_timeout=given)
        assert (answer.status, answer.json["detail"]) == (400, "The header x-request-timeout is no number of seconds.")
    answer = service.request("POST", PREDICT, body, x_request_timeout="5")
    assert (answer.status, answer.json["rows"]) == (200, [{"value": 3.0}])
    assert b"\nmodelyard_in_flight 0.0\n" in service.request("GET", "/metrics").body
