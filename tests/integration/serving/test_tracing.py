"""Spans of real requests, decoded by a collector on loopback, and what happens where there is none, or a bad one."""

from __future__ import annotations

import gzip
import json
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from tests.integration.serving import grpc_calls

from modelyard.errors import InputError
from modelyard.serving.grpc.messages import message
from modelyard.serving.logs import Log
from modelyard.serving.tracers import check_tracing, tracer_of
from modelyard.serving.tracing import parse_traceparent

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{SPAN}-01"


class Collector:
    """Takes OTLP over HTTP and keeps the spans."""

    def __init__(self, status: int = 200) -> None:
        self.spans: list = []
        self.resources: list[dict[str, str]] = []
        self.arrived = threading.Event()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                if self.path == "/v1/traces" and status == 200:
                    collector.take(ExportTraceServiceRequest.FromString(body))
                collector.arrived.set()
                self.send_response(status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def take(self, request: ExportTraceServiceRequest) -> None:
        for resource in request.resource_spans:
            self.resources.append(values(resource.resource.attributes))
            for scope in resource.scope_spans:
                self.spans += scope.spans

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


def values(attributes) -> dict:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in attributes}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Spans leave every 0.1 s instead of every 5."""
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
    for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_SDK_DISABLED"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def collector():
    found = Collector()
    yield found
    found.close()


def asked(service, **headers):
    return service.request("POST", "/v1/models/m/predict", json.dumps({"rows": [{"x": 2.0}, {"x": 3.0}]}), **headers)


def test_a_prediction_is_a_span_in_its_client_s_trace(service, collector):
    service.start(workers=1, otel_endpoint=collector.url, log_level="debug")
    service.client.swap("m", "v1", service.package(factor=2))
    assert asked(service, traceparent=PARENT, tracestate="congo=t61", x_request_id="mine").status == 200
    service.until(lambda: collector.spans)
    (span,) = collector.spans
    assert span.name == "POST /v1/models/{name}/predict"
    assert (span.trace_id.hex(), span.parent_span_id.hex(), span.trace_state) == (TRACE, SPAN, "congo=t61")
    told = values(span.attributes)
    assert {name: told[f"modelyard.{name}"] for name in ("model", "version", "generation", "rows", "request_id")} == {
        "model": "m", "version": "v1", "generation": 1, "rows": 2, "request_id": "mine"
    }  # fmt: skip
    assert (told["http.route"], told["http.response.status_code"]) == ("/v1/models/{name}/predict", 200)
    assert span.end_time_unix_nano > span.start_time_unix_nano
    assert collector.resources[0]["service.name"] == "modelyard"
    assert collector.resources[0]["modelyard.service"] == "dev"
    line = next(event for event in service.events if event["event"] == "request")
    assert (line["trace_id"], line["request"]) == (TRACE, "mine")


def test_what_fails_says_so_and_only_a_server_s_fault_is_an_error(service, collector):
    service.start(workers=1, otel_endpoint=collector.url)
    service.client.swap("m", "v1", service.package(factor=2))
    service.client.swap("bad", "v1", service.package(factor=2, fail=True))
    assert service.request("POST", "/v1/models/m/predict", "{", traceparent=PARENT).status == 422
    assert service.predict("nobody").status == 404
    assert service.predict("bad").status == 500
    service.until(lambda: len(collector.spans) == 3)
    found = {values(span.attributes)["http.response.status_code"]: span for span in collector.spans}
    assert {status: span.status.code for status, span in found.items()} == {422: 0, 404: 0, 500: 2}
    assert values(found[500].attributes)["modelyard.model"] == "bad"
    refused = next(event for event in service.events if event["event"] == "request-refused")
    assert refused["trace_id"] == TRACE


def test_health_and_reading_make_no_spans_and_changes_do(service, collector):
    service.start(workers=1, otel_endpoint=collector.url)
    service.client.swap("m", "v1", service.package(factor=2))
    service.client.swap("m", "v2", service.package(factor=3))
    for path in ("/healthz", "/readyz", "/metrics", "/v1/models"):
        assert service.request("GET", path).status == 200
    assert service.request("POST", "/v1/models/m/rollback").status == 200
    service.until(lambda: len(collector.spans) == 2)
    assert {span.name for span in collector.spans} == {"POST /v1/models/{name}/rollback", "modelyard rollback"}


def test_a_change_asked_over_http_is_a_span_of_the_supervisor_below_that_of_the_request(service, collector):
    service.start(workers=1, otel_endpoint=collector.url)
    service.client.swap("m", "v1", service.package(factor=2))
    service.client.swap("m", "v2", service.package(factor=3))
    path = "/v1/models/m/rollback"
    assert service.request("POST", path, traceparent=PARENT, tracestate="congo=t61", x_request_id="mine").status == 200
    service.until(lambda: len(collector.spans) == 2)
    found = {span.name: span for span in collector.spans}
    request, change = found["POST /v1/models/{name}/rollback"], found["modelyard rollback"]
    assert (change.trace_id.hex(), change.trace_state) == (TRACE, "congo=t61")
    assert (request.parent_span_id.hex(), change.parent_span_id) == (SPAN, request.span_id)
    told = values(change.attributes)
    assert (told["modelyard.model"], told["modelyard.version"], told["modelyard.request_id"]) == ("m", "v1", "mine")
    assert change.start_time_unix_nano >= request.start_time_unix_nano
    swapped = [event for event in service.events if event["event"] == "swapped"][-1]
    assert (swapped["trace_id"], swapped["request"], swapped["version"]) == (TRACE, "mine", "v1")


def test_a_change_that_is_refused_is_an_error_of_its_span(service, collector):
    service.start(workers=1, otel_endpoint=collector.url)
    service.client.swap("m", "v1", service.package(factor=2))
    assert service.request("POST", "/v1/models/m/rollback").status == 404
    service.until(lambda: len(collector.spans) == 2)
    (change,) = (span for span in collector.spans if span.name == "modelyard rollback")
    assert (change.status.code, values(change.attributes)["error.type"]) == (2, "not-found")


def test_without_opentelemetry_too_the_supervisor_s_log_names_the_trace_of_a_change(service):
    package = service.package(factor=2)
    service.start(workers=1, grpc_port=0, log_level="info")
    service.client.swap("m", "v1", package)
    service.client.swap("m", "v2", service.package(factor=3))
    assert service.request("POST", "/v1/models/m/rollback", traceparent=PARENT, x_request_id="mine").status == 200
    assert service.request("POST", "/v2/repository/models/m/load", traceparent=PARENT).status == 409
    unload = message("inference.RepositoryModelUnloadRequest")(model_name="m")
    with grpc.insecure_channel(service.client.grpc) as channel:
        grpc_calls.ask(channel, "RepositoryModelUnload", unload, metadata=[("traceparent", PARENT)])
    supervisor = [event for event in service.events if "worker" not in event]
    assert [event["event"] for event in supervisor if event.get("trace_id") == TRACE] == [
        "swapped", "request-failed", "retired"
    ]  # fmt: skip
    assert [event["event"] for event in supervisor if event.get("request") == "mine"] == ["swapped"]
    # What somebody else asks for belongs to no trace.
    service.client.swap("m", "v3", package)
    assert "trace_id" not in [event for event in service.events if event["event"] == "swapped"][-1]


def test_the_workers_too_name_the_request_and_the_trace_that_they_prepare_for(service):
    packages = {"v1": service.package(factor=2), "v2": service.package(factor=3, refuse=True)}
    (service.root / "repository.json").write_text(json.dumps({"m": packages}))
    service.start(workers=2, repository=str(service.root / "repository.json"))
    service.all_accept()
    for version, loads in (("v1", True), ("v2", False)):
        body = json.dumps({"parameters": {"version": version}})
        headers = {"traceparent": PARENT, "x_request_id": f"mine-{version}"}
        answer = service.request("POST", "/v2/repository/models/m/load", body, **headers)
        assert (answer.status == 200) is loads
    service.client.swap("m", "v3", service.package(factor=5))
    told = [event for event in service.events if event["event"] in ("prepared", "load-refused")]
    assert [(event["event"], event.get("request"), event.get("trace_id")) for event in told] == [
        ("prepared", "mine-v1", TRACE), ("prepared", "mine-v1", TRACE), ("load-refused", "mine-v2", TRACE),
        ("prepared", None, None), ("prepared", None, None),
    ]  # fmt: skip
    assert all("worker" in event for event in told)


def test_a_client_that_is_not_sampled_is_not(service, collector):
    service.start(workers=1, otel_endpoint=collector.url)
    service.client.swap("m", "v1", service.package(factor=2))
    asked(service, traceparent=f"00-{TRACE}-{SPAN}-00")
    asked(service, traceparent="00-not-a-trace")
    service.until(lambda: collector.spans)
    (span,) = collector.spans
    assert span.trace_id.hex() != TRACE
    assert span.parent_span_id == b""


def test_grpc_is_traced_alike(service, collector):
    service.start(workers=1, otel_endpoint=collector.url, grpc_port=0)
    service.client.swap("m", "v1", service.package(factor=2))
    with grpc.insecure_channel(service.client.grpc) as channel:
        grpc_calls.predict(channel, metadata=[("traceparent", PARENT)])
    service.until(lambda: collector.spans)
    (span,) = collector.spans
    assert (span.name, span.trace_id.hex()) == ("inference.GRPCInferenceService/ModelInfer", TRACE)
    assert values(span.attributes)["modelyard.version"] == "v1"


def test_spans_that_are_queued_are_sent_before_the_end(service, collector, monkeypatch):
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "600000")
    service.start(workers=1, otel_endpoint=collector.url)
    service.client.swap("m", "v1", service.package(factor=2))
    asked(service)
    assert collector.spans == []
    service.process.terminate()
    assert service.process.wait(20) == 0
    assert len(collector.spans) == 1


@pytest.mark.parametrize("kind", ["refuses", "fails", "hangs"])
def test_a_collector_that_is_no_good_touches_no_request(service, kind):
    if kind == "fails":
        server = Collector(500)
        url, close = server.url, server.close
    else:
        listening = socket.create_server(("127.0.0.1", 0))
        url, close = f"http://127.0.0.1:{listening.getsockname()[1]}", listening.close
        if kind == "refuses":
            close()
    try:
        service.start(workers=1, otel_endpoint=url, log_level="info")
        service.client.swap("m", "v1", service.package(factor=2))
        started = time.perf_counter()
        assert {asked(service).status for _ in range(300)} == {200}
        assert time.perf_counter() - started < 15
        # Every line is the service's own JSON, whatever the exporter had to say.
        assert service.events
        service.process.terminate()
        assert service.process.wait(20) == 0
    finally:
        close()


def test_opentelemetry_s_own_variables_turn_it_on_and_off(service, collector, monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    monkeypatch.setenv("OTEL_SERVICE_NAME", "fraud")
    service.start(workers=1)
    service.client.swap("m", "v1", service.package(factor=2))
    asked(service)
    service.until(lambda: collector.spans)
    assert collector.resources[0]["service.name"] == "fraud"
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    assert tracer_of(None, "dev", Log("info")) is None


def test_without_a_collector_nothing_is_imported_and_logs_still_name_the_trace(service):
    service.start(workers=1)
    service.client.swap("m", "v1", service.package(factor=2))
    answer = asked(service, traceparent=PARENT)
    # The Recommendation has no header for answers.
    assert "traceparent" not in answer.headers
    line = service.until(lambda: next((event for event in service.events if event["event"] == "request"), None))
    assert line["trace_id"] == TRACE
    worker = service.client.status().workers[0]
    with open(f"/proc/{worker}/maps") as maps:  # noqa: PTH123  (not a path of ours)
        assert "opentelemetry" not in maps.read()
    assert tracer_of(None, "dev", Log("info")) is None


def test_an_endpoint_that_is_no_url_is_told_before_anything_starts():
    for wrong in ("collector:4318", "ftp://x", "http://"):
        with pytest.raises(InputError, match="URL of a collector"):
            check_tracing(wrong)


@pytest.mark.parametrize(
    ("text", "valid"),
    [
        (PARENT, True),
        (f"00-{TRACE}-{SPAN}-00", True),
        (f"cc-{TRACE}-{SPAN}-01", True),
        (f"cc-{TRACE}-{SPAN}-01-what-the-future-brings", True),
        (f"00-{TRACE}-{SPAN}-01-more", False),
        (f"cc-{TRACE}-{SPAN}-01.more", False),
        (f"ff-{TRACE}-{SPAN}-01", False),
        (f"00-{'0' * 32}-{SPAN}-01", False),
        (f"00-{TRACE}-{'0' * 16}-01", False),
        (f"00-{TRACE.upper()}-{SPAN}-01", False),
        (f"00-{TRACE}-{SPAN}-1", False),
        (f" {PARENT}", False),
        ("", False),
        (None, False),
    ],
)
def test_a_traceparent_is_read_as_the_recommendation_says(text, valid):
    assert (parse_traceparent(text) is not None) is valid
    if valid:
        assert parse_traceparent(text)[:2] == (TRACE, SPAN)
