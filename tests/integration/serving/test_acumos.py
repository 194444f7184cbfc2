"""What Acumos clients send, over HTTP to a real service: golden bytes, negotiation, and every failure told."""

from __future__ import annotations

import http.client
import json
import socket

import pytest
from google.protobuf import message_factory
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from real_packages import write_package

from modelyard.packages.codecs.proto_schema import parse

REAL = "modelyard.serving.packaged"
ROWS = 'syntax = "proto3"; message Row { int64 operand = 1; } message In { repeated Row rows = 1; } '
ROWS += "message Out { repeated string prediction = 1; } service S { rpc add (In) returns (Out); }"
PACKED = (
    'syntax = "proto3"; package a.b; message M { repeated int64 value = 1; } service S { rpc same (M) returns (M); }'
)
HEAD = "Content-Disposition: form-data; name=csvFile\r\n\r\n"
TIMES = """syntax = "proto3";
message DataFrameRow { double x = 1; string note = 2; }
message DataFrame { repeated DataFrameRow rows = 1; }
message Prediction { repeated string prediction = 1; }
service Model { rpc transform (DataFrame) returns (Prediction); }
"""


def form(*parts: tuple[str, bytes | str], boundary: str = "3f1b", names: bool = True) -> tuple[bytes, dict[str, str]]:
    """Return the body and the header that requests would send for `files={part: (part, content)}`."""
    lines = []
    for name, content in parts:
        told = f'; filename="../../{name}"' if names else ""
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"{told}\r\n\r\n'
        lines += [head.encode(), content.encode() if isinstance(content, str) else content, b"\r\n"]
    return b"".join((*lines, f"--{boundary}--\r\n".encode())), {
        "content_type": f"multipart/form-data; boundary={boundary}"
    }


@pytest.fixture(scope="module")
def served(shared):
    shared.options["loader"] = REAL
    (shared.root / "store").mkdir()
    shared.start(workers=1)
    shared.client.swap("m", "v1.0.0", write_package(shared.root / "store", 2.0))
    return shared


def send(service, path, *parts, method="POST", **headers):
    body, kind = form(*parts)
    return service.request(method, path, body, **kind, **headers)


def messages(service):
    """The messages of the service's own proto file, as a client would generate them."""
    text = service.request("GET", "/model/artifacts/protobuf")
    assert text.headers["content-type"].startswith("text/plain")
    operation = parse(text.body).operation("predict")
    return [message_factory.GetMessageClass(kind) for kind in (operation.input, operation.output)]


@pytest.mark.parametrize("prefix", ["", "/modelrunner"])
@pytest.mark.parametrize(
    ("proto", "operation", "csv", "golden"),
    [
        (ROWS, "add", "operand\n2\n7\n8\n", "0a0208020a0208070a020808"),
        (ROWS, "add", 'other,operand\r\nx,2\r\n,7\r\n"a,b",8', "0a0208020a0208070a020808"),
        (PACKED, "same", "value\n6666\n10\n16\n", "0a048a340a10"),
        (PACKED, "S.same", "value,value,value\n6666,10,16\n", "0a048a340a10"),
    ],
)
def test_csv_becomes_the_golden_bytes(served, prefix, proto, operation, csv, golden):
    answer = send(served, f"{prefix}/getBinary?operation={operation}", ("csvFile", csv), ("proto", proto))
    assert (answer.status, answer.headers["content-type"]) == (200, "application/octet-stream")
    assert answer.body.hex() == golden


def test_json_becomes_the_golden_bytes(served):
    text = json.dumps({"rows": [{"operand": 2}, {"operand": "7"}, {"operand": 8}]})
    answer = send(served, "/getBinaryJSON", ("jsonFile", text), ("proto", ROWS), ("operation", "add"))
    assert answer.body.hex() == "0a0208020a0208070a020808"


def test_the_messages_of_the_package_go_in_and_out(served):
    """A client written as Acumos' own: it reads the proto file, sends messages, and parses messages."""
    given_kind, result_kind = messages(served)
    asked = given_kind(rows=[{"x": 3.0}, {"x": 4.5}]).SerializeToString()
    for path in ("/model/methods/predict", "/modelrunner/model/methods/predict", "/operation/predict",
                 "/v1/models/m/methods/predict"):  # fmt: skip
        for kind in ("application/x-protobuf", "application/vnd.google.protobuf; charset=utf-8"):
            answer = served.request("POST", path, asked, content_type=kind, accept="*/*")
            assert answer.headers["content-type"] == kind.partition(";")[0]
            assert [row.value for row in result_kind.FromString(answer.body).rows] == [6.0, 9.0]
            assert answer.headers["x-model-version"] == "v1.0.0"
    for path, part, text in (
        ("/transformCSVDefault", "csvFile", "x\n3\n4.5\n"),
        ("/transformDefault", "csvFile", "x\n3\n4.5\n"),
        ("/transformJSONDefault", "jsonFile", '{"rows":[{"x":3},{"x":4.5}]}'),
    ):
        answer = send(served, f"{path}?operation=predict&model=m", (part, text))
        assert [row.value for row in result_kind.FromString(answer.body).rows] == [6.0, 9.0]
        same = send(served, path.replace("transformCSV", "getBinary").replace("transformJSON", "getBinaryJSON")
                    .replace("transformDefault", "getBinaryDefault"), (part, text))  # fmt: skip
        assert same.body == asked


def test_accept_is_negotiated(served):
    body = json.dumps({"rows": [{"x": 3}]})
    wanted = {
        "application/json": "application/json",
        "text/html, application/*;q=0.1, application/json;q=0.9": "application/json",
        "application/vnd.google.protobuf;q=1.0, */*;q=0.1": "application/vnd.google.protobuf",
    }
    for accept, kind in wanted.items():
        answer = served.request(
            "POST", "/model/methods/predict", body, content_type="application/json;charset=UTF-8", accept=accept
        )
        assert answer.headers["content-type"] == kind
    assert served.request("POST", "/model/methods/predict", body, content_type="application/json").json == {
        "rows": [{"value": 6.0}]
    }
    refused = served.request("POST", "/model/methods/predict", body, content_type="application/json", accept="text/css")
    assert refused.status == 406
    assert send(served, "/transformCSVDefault", ("csvFile", "x\n3\n"), accept="application/json").json == {
        "rows": [{"value": 6.0}]
    }


def test_metadata_is_served(served):
    for path in ("/model/artifacts/metadata", "/modelrunner/model/artifacts/metadata"):
        metadata = served.request("GET", path).json
        assert (metadata["schema"], list(metadata["methods"])) == ("acumos.schema.model:0.6.0", ["predict"])


@pytest.mark.parametrize(
    ("path", "parts", "status", "told"),
    [
        ("/transformCSVDefault?operation=nope", [("csvFile", "x\n1\n")], 404, "nope"),
        ("/transformCSVDefault", [("csvFile", "x\n1\nbad\n")], 422, "row 1"),
        ("/transformCSVDefault", [("csvFile", "x\n")], 422, "no row"),
        ("/transformCSVDefault", [("csvFile", "")], 422, ""),
        ("/transformCSVDefault", [("csvFile", b"\xff\n1\n")], 422, ""),
        ("/transformCSVDefault", [], 400, "csvFile"),
        ("/transformCSVDefault", [("jsonFile", "{}")], 400, "csvFile"),
        ("/transformCSVDefault", [("csvFile", "x\n1\n"), ("csvFile", "x\n2\n")], 400, "twice"),
        ("/transformCSVDefault?model=other", [("csvFile", "x\n1\n")], 404, "model"),
        ("/transformCSVDefault?errors=maybe", [("csvFile", "x\n1\n")], 400, "errors"),
        ("/transformCSVDefault?operation=a&operation=b", [("csvFile", "x\n1\n")], 400, "twice"),
        ("/transformJSONDefault", [("jsonFile", '{"rows":[{"x":1},{"x":"y"}]}')], 422, "rows[1].x"),
        ("/transformJSONDefault", [("jsonFile", "{")], 422, ""),
        ("/getBinary", [("csvFile", "operand\n2\nx\n"), ("proto", ROWS)], 422, "column 'operand'"),
        ("/getBinary", [("csvFile", "operand\n2\n")], 400, "proto"),
        ("/getBinary", [("csvFile", "operand\n2\n"), ("proto", "message {")], 400, "line 1"),
        ("/getBinary", [("csvFile", "operand\n2\n"), ("proto", b"\x80\x04cos\nsystem\n")], 400, ""),
        ("/getBinary?operation=sub", [("csvFile", "operand\n2\n"), ("proto", ROWS)], 404, "add"),
    ],
)  # fmt: skip
def test_a_failure_is_a_problem_that_names_its_place(served, path, parts, status, told):
    answer = send(served, path, *parts)
    assert (answer.status, answer.headers["content-type"]) == (status, "application/problem+json")
    assert told in json.dumps(answer.json)
    assert answer.json["request_id"]


def test_a_body_of_another_kind_is_refused(served):
    assert served.request("POST", "/model/methods/predict", b"x=1", content_type="text/plain").status == 415
    broken = served.request("POST", "/model/methods/predict", b"\xff\xff", content_type="application/x-protobuf")
    assert broken.status in (400, 422)
    assert served.request("POST", "/transformCSVDefault", b"x\n1\n", content_type="text/csv").status == 415
    assert served.request("GET", "/transformCSVDefault").status == 405


def test_bad_rows_are_left_out_where_that_is_asked(served):
    csv = "x\n1\nbad\n3\n4,more\n5\n"
    answer = send(served, "/transformCSVDefault?errors=rows", ("csvFile", csv), accept="application/json")
    assert answer.headers["x-rows-refused"] == "1,3"
    assert answer.json["rows"] == [{"value": 2.0}, {"value": 6.0}, {"value": 10.0}]
    assert [told["row"] for told in answer.json["@refused"]] == [1, 3]
    assert "row 1" in answer.json["@refused"][0]["where"]
    binary = send(served, "/transformCSVDefault?errors=rows", ("csvFile", csv))
    assert [row.value for row in messages(served)[1].FromString(binary.body).rows] == [2.0, 6.0, 10.0]
    assert binary.headers["x-rows-refused"] == "1,3"
    assert send(served, "/transformCSVDefault?errors=rows", ("csvFile", "x\n1\n")).headers["x-rows-refused"] == ""
    assert send(served, "/transformCSVDefault?errors=rows", ("csvFile", "x\nbad\n")).status == 422


def test_a_name_of_a_file_leads_nowhere(served, tmp_path):
    before = {*served.root.iterdir(), *served.folder.iterdir()}
    assert send(served, "/transformCSVDefault", ("csvFile", "x\n1\n")).status == 200
    assert {*served.root.iterdir(), *served.folder.iterdir()} == before


def test_a_form_that_ends_too_early_is_refused(served):
    body, kind = form(("csvFile", "x\n1\n"))
    for cut in range(0, len(body) - 4, 7):
        assert served.request("POST", "/transformCSVDefault", body[:cut], **kind).status == 400
    wrong = {"content_type": "multipart/form-data; boundary=other"}
    assert served.request("POST", "/transformCSVDefault", body, **wrong).status == 400
    assert served.request("POST", "/transformCSVDefault", body, content_type="multipart/form-data").status == 400


def test_ten_thousand_parts_are_refused(served):
    answer = send(served, "/transformCSVDefault", *[(f"p{number}", "x") for number in range(10_000)])
    assert (answer.status, answer.json["type"]) == (413, "urn:modelyard:problem:too-large")


def test_more_rows_than_allowed_are_refused_in_json(served):
    body = '{"rows":[' + ",".join(["{}"] * 100_001) + "]}"
    answer = served.request("POST", "/model/methods/predict", body, content_type="application/json")
    assert (answer.status, answer.json["type"]) == (413, "urn:modelyard:problem:too-many-rows")
    assert send(served, "/getBinaryJSONDefault", ("jsonFile", body)).status == 413


def test_a_part_larger_than_allowed_is_refused_and_told(served):
    answer = send(served, "/getBinary", ("csvFile", "operand\n1\n"), ("proto", b"/" * 300_000))
    assert answer.status == 413
    assert "proto" in answer.json["detail"]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=400), st.sampled_from(["", "--b\r\n", "--b\r\n" + HEAD]))
def test_whatever_comes_is_answered(served, noise, before):
    answer = served.request(
        "POST", "/transformCSVDefault", before.encode() + noise, content_type="multipart/form-data; boundary=b"
    )
    assert 400 <= answer.status < 500
    assert answer.json["type"].startswith("urn:modelyard:problem:")


def test_an_upload_in_pieces_is_read_as_one(served):
    body, kind = form(("csvFile", "x\n1\n2\n"), boundary="a-b=c")
    head = f"POST /transformCSVDefault HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind['content_type']}\r\n"
    head += f"Content-Length: {len(body)}\r\nAccept: application/json\r\nConnection: close\r\n\r\n"
    port = int(served.client.url.rsplit(":", 1)[1])
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(head.encode())
        for place in range(len(body)):
            connection.sendall(body[place : place + 1])
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert b'{"rows":[{"value":2.0},{"value":4.0}]}' in answer


def test_a_form_in_chunks_is_read_as_one(served):
    """As Java's clients send it: of unknown length, and whole by its last boundary."""
    body, kind = form(("csvFile", "x\n1\n2\n"))
    port = int(served.client.url.rsplit(":", 1)[1])
    for pieces, status in (((body[:40], body[40:]), 200), ((body[:40],), 400)):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        headers = {"content-type": kind["content_type"], "transfer-encoding": "chunked"}
        connection.request("POST", "/transformCSVDefault", iter(pieces), headers, encode_chunked=True)
        assert connection.getresponse().status == status
        connection.close()


def test_several_models_must_be_told_apart(served):
    served.client.swap("n", "v1.0.0", write_package(served.root / "store", 3.0))
    try:
        answer = send(served, "/transformCSVDefault", ("csvFile", "x\n1\n"))
        assert (answer.status, "m, n" in answer.json["remedy"]) == (400, True)
        answer = send(served, "/transformCSVDefault?model=n", ("csvFile", "x\n1\n"), accept="application/json")
        assert answer.json == {"rows": [{"value": 3.0}]}
        answer = served.request(
            "POST", "/v1/models/n/methods/predict", '{"rows":[{"x":1}]}', content_type="application/json"
        )
        assert answer.json == {"rows": [{"value": 3.0}]}
    finally:
        assert served.request("POST", "/v2/repository/models/n/unload", "").status == 200


def test_what_the_compiler_finds_unwise_is_a_line_of_the_log_and_the_log_is_json(served):
    unused = ROWS.replace('"proto3";', '"proto3"; import "google/protobuf/any.proto";')
    answer = send(served, "/getBinary", ("csvFile", "operand\n2\n"), ("proto", unused), x_request_id="unwise")
    assert answer.status == 200
    (line,) = [event for event in served.events if event["event"] == "proto-warnings"]
    assert (line["request"], line["level"]) == ("unwise", "info")
    assert line["warnings"] == ["line 1, column 20: Import google/protobuf/any.proto is unused."]
