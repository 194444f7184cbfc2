from __future__ import annotations

import http.client
import json
import socket
import time

import pytest

from modelyard.testing.load import LoadGenerator

PATH = "/v1/models/m/predict"


@pytest.fixture(scope="module")
def served(shared):
    shared.start(limits={"body_bytes": 4000, "rows": 20, "in_flight": 3})
    shared.client.swap("m", "v1.2.3", shared.package(factor=2))
    shared.all_accept()
    return shared


def problem(answer, status: int, code: str) -> dict:
    assert answer.status == status, answer
    assert answer.headers["content-type"] == "application/problem+json"
    document = answer.json
    assert document["type"] == f"urn:modelyard:problem:{code}"
    assert document["status"] == status
    assert document["request_id"] == answer.headers["x-request-id"]
    assert document["title"]
    assert document["detail"]
    return document


def test_rows_are_answered_by_rows(served):
    assert served.request("POST", PATH, '{"rows":[{"x":1},{"x":2}]}').json["rows"] == [{"value": 2.0}, {"value": 4.0}]


def test_an_answer_names_model_version_and_generation_in_body_and_head(served):
    answer = served.predict(x=1.0)
    assert answer.json == {"model": "m", "version": "v1.2.3", "generation": 1, "rows": [{"value": 2.0}]}
    assert [answer.headers[name] for name in ("x-model", "x-model-version", "x-model-generation")] == [
        "m",
        "v1.2.3",
        "1",
    ]


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("text/csv", "text/csv"),
        ("application/json", "application/json"),
        ("*/*", "text/csv"),
        ("text/*", "text/csv"),
        ("application/json;q=0.4, text/csv;q=0.9", "text/csv"),
        ("text/csv;q=0, */*", "application/json"),
        ("image/png, */*;q=0.1", "text/csv"),
    ],
)
def test_the_answer_has_the_media_type_that_accept_prefers(served, accept, expected):
    answer = served.request("POST", PATH, "x\n1\n2\n", content_type="text/csv; charset=utf-8", accept=accept)
    assert (answer.status, answer.headers["content-type"]) == (200, expected)
    if expected == "text/csv":
        assert answer.body == b"value\n2.0\n4.0\n"
    else:
        assert answer.json["rows"] == [{"value": 2.0}, {"value": 4.0}]


def test_an_answer_that_can_not_be_accepted_is_406(served):
    problem(served.request("POST", PATH, "{}", accept="image/png"), 406, "not-acceptable")


def test_values_that_do_not_fit_are_422_and_name_the_generation_that_says_so(served):
    answer = served.request("POST", PATH, '{"rows":[{"y":1}]}')
    problem(answer, 422, "contract")
    assert answer.headers["x-model-generation"] == "1"


def test_an_unknown_model_and_an_unknown_path_are_404(served):
    problem(served.predict("nobody"), 404, "not-found")
    problem(served.request("GET", "/v1/models/nobody"), 404, "not-found")
    problem(served.request("GET", "/etc/passwd"), 404, "not-found")


def test_a_method_that_is_not_allowed_is_405_and_says_which_is(served):
    answer = served.request("GET", PATH)
    problem(answer, 405, "method")
    assert answer.headers["allow"] == "POST"
    answer = served.request("POST", "/healthz", "{}")
    problem(answer, 405, "method")
    assert answer.headers["allow"] == "GET, HEAD"


def test_an_unknown_media_type_charset_or_compression_is_415(served):
    problem(served.request("POST", PATH, "{}", content_type="application/x-tar"), 415, "media-type")
    problem(served.request("POST", PATH, "x\n1\n", content_type="text/csv; charset=utf-16"), 415, "charset")
    problem(served.request("POST", PATH, "{}", content_encoding="br"), 415, "content-encoding")


def test_a_body_over_the_limit_is_413_whether_its_length_is_announced_or_not(served):
    problem(served.request("POST", PATH, b"x" * 4001), 413, "too-large")
    problem(served.request("POST", PATH, b"x" * 5_000_000), 413, "too-large")
    port = int(served.client.url.rsplit(":", 1)[1])
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request(
        "POST", PATH, iter([b"x" * 1000] * 6), encode_chunked=True, headers={"transfer-encoding": "chunked"}
    )
    assert connection.getresponse().status == 413
    connection.close()


def test_a_chunked_body_within_the_limit_is_answered(served):
    port = int(served.client.url.rsplit(":", 1)[1])
    connection = http.client.HTTPConnection("127.0.0.1", port)
    pieces = [b'{"rows":', b'[{"x":', b"3}]}"]
    connection.request("POST", PATH, iter(pieces), encode_chunked=True, headers={"transfer-encoding": "chunked"})
    assert json.loads(connection.getresponse().read())["rows"] == [{"value": 6.0}]
    connection.close()


HEAD = f"POST {PATH} HTTP/1.1\r\nhost: localhost\r\n".encode()
CHUNKED = b"transfer-encoding: chunked\r\n"


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (HEAD + b"content-type: text/csv\r\n" + CHUNKED + b"\r\n6\r\nx\n1\n2\n\r\n", 400),
        (HEAD + CHUNKED + b'\r\n6\r\n{"rows\r\n', 400),
        (HEAD + b"content-length: 100\r\ncontent-type: text/csv\r\n\r\nx\n1\n2\n", 400),
    ],
)
def test_a_body_that_was_cut_off_is_never_answered_as_if_it_were_whole(served, request_bytes, status):
    port = int(served.client.url.rsplit(":", 1)[1])
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(request_bytes)
        connection.shutdown(socket.SHUT_WR)
        answer = connection.recv(4096)
    assert answer.startswith(b"HTTP/1.1 %d" % status), answer


def test_a_short_announced_length_does_not_let_a_long_chunked_body_pass_the_limit(served):
    port = int(served.client.url.rsplit(":", 1)[1])
    body = b"1388\r\n" + b" " * 0x1388 + b"\r\n0\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(HEAD + CHUNKED + b"content-length: 4\r\n\r\n" + body)
        answer = connection.recv(4096)
    assert answer[9:12] in (b"400", b"413"), answer


def test_too_many_rows_are_413(served):
    problem(served.request("POST", PATH, json.dumps({"rows": [{"x": 1}] * 21})), 413, "too-many-rows")
    assert served.request("POST", PATH, json.dumps({"rows": [{"x": 1}] * 20})).status == 200


def test_more_requests_in_flight_than_allowed_are_429_and_say_when_to_retry(served):
    port = int(served.client.url.rsplit(":", 1)[1])
    head = f"POST {PATH} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 20\r\n\r\n".encode()
    slow = [socket.create_connection(("127.0.0.1", port)) for _ in range(3)]
    try:
        for connection in slow:
            connection.sendall(head)
        # Asked too early, our own request would take a place, and one of the slow ones would be sent away.
        served.until(lambda: b"\nmodelyard_in_flight 3.0\n" in served.request("GET", "/metrics").body)
        answer = served.until(lambda: refused if (refused := served.predict()).status == 429 else None)
        problem(answer, 429, "busy")
        assert answer.headers["retry-after"] == "1"
    finally:
        for connection in slow:
            connection.close()
    served.until(lambda: served.predict().status == 200)


def test_a_client_that_goes_away_in_the_middle_leaves_nothing_in_flight(served):
    port = int(served.client.url.rsplit(":", 1)[1])
    for _ in range(8):
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(f"POST {PATH} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 20\r\n\r\n{{".encode())
    served.until(lambda: b"\nmodelyard_in_flight 0.0\n" in served.request("GET", "/metrics").body)
    assert served.predict().status == 200


def test_a_request_id_is_given_back_and_one_that_could_spoil_a_log_is_replaced(served):
    assert served.request("GET", "/healthz", x_request_id="abc-1").headers["x-request-id"] == "abc-1"
    assert served.request("GET", "/healthz", x_request_id='"}{').headers["x-request-id"] != '"}{'


def test_the_models_are_listed_with_contract_version_and_generation(served):
    listed = served.request("GET", "/v1/models").json["models"]
    assert listed == [served.request("GET", "/v1/models/m").json]
    assert (listed[0]["name"], listed[0]["version"], listed[0]["generation"]) == ("m", "v1.2.3", 1)
    assert listed[0]["contract"]["outputs"] == [{"name": "value", "dtype": "float64", "shape": []}]


def test_metrics_count_over_all_workers(service):
    service.start()
    service.client.swap("m", "v1.2.3", service.package(factor=2))
    service.all_accept()
    for _ in range(20):
        assert service.predict().status == 200
    service.request("POST", PATH, '{"rows":[{"y":1}]}')
    service.client.swap("m", "v2", service.package(factor=3))

    def text_with_all() -> str | None:
        text = service.request("GET", "/metrics").body.decode()
        return text if 'modelyard_requests_total{model="m",status="200",version="v1.2.3"} 20.0' in text else None

    text = service.until(text_with_all)
    assert 'modelyard_requests_total{model="m",status="422",version="v1.2.3"} 1.0' in text
    assert 'modelyard_request_seconds_count{model="m"} 21.0' in text
    assert 'modelyard_generation{model="m"} 2.0' in text
    assert 'modelyard_swaps_total{model="m"} 2.0' in text
    assert 'modelyard_swaps_failed_total{model="m"} 0.0' in text
    service.client.rollback("m")
    text = service.request("GET", "/metrics").body.decode()
    assert 'modelyard_prepare_seconds{model="m"} 0.0' in text
    assert 'modelyard_rollbacks_total{model="m"} 1.0' in text


def test_a_failure_inside_the_model_is_500_and_tells_no_particulars(service):
    service.start()
    service.client.swap("m", "v1", service.package(factor="text"))
    answer = service.predict()
    document = problem(answer, 500, "internal")
    assert "factor" not in json.dumps(document)
    assert "Traceback" not in json.dumps(document)
    assert any(event["event"] == "predict-failed" for event in service.events)


def test_no_body_stands_in_the_log_and_every_line_is_json(served):
    served.request("POST", PATH, '{"rows":[{"x":123456789.5}]}')
    served.request("POST", PATH, '{"rows":[{"password123":1}]}')
    served.until(lambda: sum(event["event"] == "request" for event in served.events) >= 2)
    assert "123456789" not in served.log
    assert "password123" not in served.log
    assert {"time", "level", "event", "service", "pid"} <= served.events[-1].keys()


def test_a_large_request_does_not_keep_the_others_waiting(service):
    service.start(workers=1)
    service.client.swap("m", "v1", service.package(factor=2, predict_seconds=0.0))
    service.client.swap("slow", "v1", service.package(factor=2, predict_seconds=1.0))
    body = json.dumps({"rows": [{"x": 1.0}] * 30_000}).encode()
    with LoadGenerator(f"{service.client.url}/v1/models/slow/predict", body, connections=1) as load:
        time.sleep(0.5)
        begun = time.monotonic()
        assert service.request("GET", "/healthz").status == 200
        assert service.predict("m").status == 200
        assert time.monotonic() - begun < 0.5
    assert load.report().failures == []
