"""Models that clients of Acumos bring: staged as one candidate, or for one request alone; and what must never run."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import socket
import stat
import zipfile
from pathlib import Path

import httpx
import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from real_packages import write_package

from modelyard.packages.manifest import MANIFEST, make_manifest

REAL = "modelyard.serving.packaged"
TIMES = """syntax = "proto3";
package of.a.client;
message DataFrameRow { double x = 1; }
message DataFrame { repeated DataFrameRow rows = 1; }
message Prediction { repeated string prediction = 1; }
service Model { rpc transform (DataFrame) returns (Prediction); }
"""
OTHER = TIMES.replace("double x", "double y")
TWO = TIMES.replace("double x = 1;", "double a = 1; int64 b = 2;").replace("repeated string", "repeated double")
BOUNDARY = "5f2c"


def onnx_file(weights: list[list[float]], *, names: tuple[str, str] = ("input", "scores"), **attributes) -> bytes:
    """y = rows x weights, as an ONNX file."""
    matrix = np.array(weights, dtype=np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", [names[0], "weight"], [names[1]], **attributes)],
        "linear",
        [helper.make_tensor_value_info(names[0], TensorProto.FLOAT, ["n", matrix.shape[0]])],
        [helper.make_tensor_value_info(names[1], TensorProto.FLOAT, ["n", matrix.shape[1]])],
        [numpy_helper.from_array(matrix, "weight")],
    )
    opsets = [helper.make_opsetid("", 17)]
    if attributes.get("domain"):
        opsets.append(helper.make_opsetid(attributes["domain"], 1))
    return helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()


def zipped(folder: Path, prefix: str = "") -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, prefix + file.relative_to(folder).as_posix())
    return sink.getvalue()


def packed(entries) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        for entry, content in entries:
            archive.writestr(entry, content)
    return sink.getvalue()


def send(service, method, path, **parts):
    """Send a form as the library requests does."""
    lines = []
    for name, content in parts.items():
        head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"; filename="{name}.bin"\r\n\r\n'
        lines += [head.encode(), content.encode() if isinstance(content, str) else content, b"\r\n"]
    body = b"".join((*lines, f"--{BOUNDARY}--\r\n".encode()))
    accept = {"accept": "application/json"} if "/transform" in path else {}
    return service.request(method, path, body, content_type=f"multipart/form-data; boundary={BOUNDARY}", **accept)


def predicted(service, csv="x\n3\n", path="/transformCSVDefault"):
    answer = send(service, "POST", path, csvFile=csv)
    return answer.json.get("prediction", answer.json)


@pytest.fixture
def explicit(service):
    service.options |= {"loader": REAL, "workers": 1}
    (service.root / "store").mkdir()
    service.start()
    return service


@pytest.fixture(scope="module")
def served(shared):
    shared.options |= {"loader": REAL, "workers": 1}
    (shared.root / "store").mkdir()
    shared.start()
    shared.client.swap("m", "v1.0.0", write_package(shared.root / "store", 2.0))
    return shared


def package(service, factor: float) -> bytes:
    return zipped(service.root / "store" / write_package(service.root / "store", factor))


@pytest.mark.parametrize("text", ["", "// nothing\n", 'syntax = "proto3"; message A { int32 a = 1; }'])
def test_a_proto_file_without_an_operation_is_refused_before_it_waits(explicit, text):
    put = send(explicit, "PUT", "/proto", proto=text)
    assert (put.status, put.json["where"]) == (422, "part 'proto'")


def test_three_puts_make_a_service(explicit):
    """A service of nothing takes a model, a proto file and a configuration, and serves them by the client's names."""
    put = send(explicit, "PUT", "/modelrunner/model", model=onnx_file([[2.0], [0.5]]))
    assert (put.status, put.json) == (200, {"status": "ok", "staged": ["model"], "missing": ["proto"]})
    configured = "# of the client\nmodelName=times\nmodelMethod = transform\nmodelInputType: csv\nmodelClassName=a.B\n"
    put = send(explicit, "PUT", "/model/configuration", modelConfig=configured)
    assert put.json == {
        "status": "ok", "staged": ["configuration", "model"], "missing": ["proto"], "ignored": ["modelClassName"]
    }  # fmt: skip
    assert explicit.client.status().slots == {}
    put = send(explicit, "PUT", "/proto", proto=TWO)
    assert {name: put.json[name] for name in ("status", "model", "version", "generation")} == {
        "status": "ok", "model": "times", "version": "v0.0.1+staged", "generation": 1
    }  # fmt: skip
    assert predicted(explicit, "b,a\n4,3\n") == [8.0]
    assert explicit.request("GET", "/model/artifacts/protobuf").body.decode() == TWO
    metadata = explicit.request("GET", "/model/artifacts/metadata").json
    assert metadata["methods"]["transform"]["input"]["name"] == "DataFrame"
    assert metadata["methods"]["transform"]["input"]["metadata"] == {"modelInputType": "CSV"}
    answer = explicit.request("POST", "/v1/models/times/predict", '{"rows":[{"a":1,"b":2}]}')
    assert answer.json["rows"] == [{"value": 3.0}]


def test_a_package_is_swapped_in_and_rolled_back(served):
    assert send(served, "POST", "/putModel", model=package(served, 5.0)).json["missing"] == ["proto"]
    put = send(served, "POST", "/putProto", proto=TIMES)
    assert (put.status, put.json["model"]) == (200, "m")
    assert predicted(served) == ["15.0"]
    served.client.rollback("m")
    assert served.client.status().slots["m"].current.version == "v1.0.0"
    assert send(served, "POST", "/transformCSVDefault", csvFile="x\n3\n").json == {"rows": [{"value": 6.0}]}
    again = send(served, "PUT", "/model?proto=own", model=package(served, 7.0))
    assert again.json["status"] == "ok"
    assert send(served, "POST", "/transformCSVDefault", csvFile="x\n3\n").json == {"rows": [{"value": 21.0}]}
    served.client.rollback("m")


def test_a_set_that_does_not_fit_is_refused_as_a_whole(served):
    before = served.client.status().slots["m"].current
    assert send(served, "PUT", "/model", model=package(served, 9.0)).status == 200
    put = send(served, "PUT", "/proto", proto=OTHER)
    assert (put.status, put.headers["content-type"]) == (409, "application/problem+json")
    assert "'x'" in put.json["detail"]
    assert served.client.status().slots["m"].current == before
    assert send(served, "PUT", "/proto", proto=OTHER).json["missing"] == ["model"]
    assert send(served, "PUT", "/model", model=onnx_file([[1.0], [2.0]])).status == 409
    put = send(served, "PUT", "/model/configuration", modelConfig='{"operation": "nope", "unknown": [1]}')
    assert put.json["ignored"] == ["unknown"]
    assert send(served, "PUT", "/proto", proto=TIMES).status == 200
    assert send(served, "PUT", "/model", model=package(served, 9.0)).status == 409
    assert served.client.status().slots["m"].current == before


def test_parts_survive_a_kill_and_so_does_what_they_became(explicit):
    assert send(explicit, "PUT", "/model", model=onnx_file([[4.0]])).status == 200
    explicit.kill()
    explicit.start()
    assert send(explicit, "PUT", "/proto", proto=TIMES).json["version"] == "v0.0.1+staged"
    explicit.kill()
    explicit.start()
    assert predicted(explicit) == ["12.0"]
    kept = explicit.folder / "staged"
    assert [len(list((kept / name).iterdir())) for name in ("incoming", "parts", "work", "packages")] == [0, 0, 0, 1]
    for factor in (5.0, 6.0, 7.0):
        assert send(explicit, "PUT", "/model", model=onnx_file([[factor]])).status == 200
        assert send(explicit, "PUT", "/proto", proto=TIMES).status == 200
    assert predicted(explicit) == ["21.0"]
    explicit.until(lambda: len(list((kept / "packages").iterdir())) <= 2)
    explicit.client.rollback("model")
    assert predicted(explicit) == ["18.0"]


def test_a_damaged_account_of_what_waits_is_told_and_begun_anew(explicit):
    assert send(explicit, "PUT", "/model", model=onnx_file([[4.0]])).status == 200
    explicit.kill()
    (explicit.folder / "staged" / "candidate.json").write_bytes(b"\x00{")
    (explicit.folder / "staged" / "incoming" / "half").write_bytes(b"of an upload")
    explicit.start()
    assert any(event["event"] == "staged-unreadable" for event in explicit.events)
    assert send(explicit, "PUT", "/proto", proto=TIMES).json["missing"] == ["model"]
    assert send(explicit, "PUT", "/model", model=onnx_file([[5.0]])).status == 200
    assert predicted(explicit) == ["15.0"]
    again = [send(explicit, "PUT", "/model", model=onnx_file([[5.0]])), send(explicit, "PUT", "/proto", proto=TIMES)]
    assert again[1].json["generation"] == 1, "what is served already changes nothing"


def test_a_kill_between_the_swap_and_its_account_is_no_second_swap(service):
    service.options |= {"loader": REAL, "workers": 1}
    service.start(kill_at="word-stored")
    assert send(service, "PUT", "/model", model=onnx_file([[4.0]])).status == 200
    with pytest.raises(ConnectionError):
        send(service, "PUT", "/proto", proto=TIMES)
    assert service.process is not None
    service.process.wait(10)
    service.start()
    assert service.client.status().slots["model"].current.version == "v0.0.1+staged"
    assert predicted(service) == ["12.0"]
    assert send(service, "PUT", "/proto", proto=TIMES).json["missing"] == ["model"]


def test_clients_of_the_operation_before_have_their_grace(explicit):
    """Another contract with another operation: who calls the old one is answered by the old model, for a while."""
    for text, weights in ((TIMES, [[2.0]]), (TWO.replace("transform", "other"), [[1.0], [1.0]])):
        assert send(explicit, "PUT", "/model", model=onnx_file(weights)).status == 200
        assert send(explicit, "PUT", "/proto", proto=text).status == 200
    answers = {
        operation: explicit.request(
            "POST", f"/model/methods/{operation}", json.dumps({"rows": [row]}), content_type="application/json"
        )
        for operation, row in (("other", {"a": 1, "b": "2"}), ("transform", {"x": 3}), ("nope", {}))
    }
    assert (answers["other"].json, answers["transform"].json) == ({"prediction": [3.0]}, {"prediction": ["6.0"]})
    assert answers["transform"].headers["x-model-version"] == "v0.0.1+staged"
    assert (answers["nope"].status, "other" in answers["nope"].json["remedy"]) == (404, True)


def test_a_service_that_follows_releases_takes_none(service):
    service.options |= {"loader": REAL, "workers": 1, "follow": True}
    (service.root / "store").mkdir()
    service.live(m=("v1.0.0", write_package(service.root / "store", 2.0)))
    service.start()
    for path, part in (("/model", "model"), ("/proto", "proto"), ("/model/configuration", "modelConfig")):
        put = send(service, "PUT", path, **{part: "x"})
        assert (put.status, "Release" in put.json["remedy"]) == (409, True)
    with zipfile.ZipFile(io.BytesIO(package(service, 3.0))):
        answer = send(service, "POST", "/transformCSV", csvFile="x\n1\n", model=package(service, 3.0), proto=TIMES)
    assert answer.json == {"prediction": ["3.0"]}


def test_a_request_that_brings_its_model_is_counted_as_that_and_not_as_the_slot_s(service):
    service.options["loader"] = REAL
    service.start()
    service.client.swap("m", "v1.0.0", write_package(service.root / "store", 2.0))
    assert send(service, "POST", "/transformCSVDefault", csvFile="x\n1\n").status == 200
    model = package(service, 3.0)
    assert send(service, "POST", "/transformCSV", csvFile="x\n1\n", model=model, proto=TIMES).status == 200
    assert send(service, "POST", "/transformCSV", csvFile="x\nbad\n", model=model, proto=TIMES).status == 422

    def counted() -> list[str]:
        text = service.request("GET", "/metrics").body.decode()
        return sorted(line for line in text.splitlines() if line.startswith("modelyard_requests_total"))

    expected = [
        'modelyard_requests_total{model="(brought)",status="200",version=""} 1.0',
        'modelyard_requests_total{model="(brought)",status="422",version=""} 1.0',
        'modelyard_requests_total{model="m",status="200",version="v1.0.0"} 1.0',
    ]
    service.until(lambda: counted() == expected)


class Marks:
    """A pickle of this leaves a mark where it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return (os.mkdir, (str(self.mark),))


def payloads(mark: Path) -> dict[str, bytes]:
    evil = [pickle.dumps(Marks(mark), protocol) for protocol in range(6)]
    found = {f"protocol {number}": content for number, content in enumerate(evil)}
    found["torch"] = packed([("archive/data.pkl", evil[2]), ("archive/version", "3")])
    found["jar"] = packed([("META-INF/MANIFEST.MF", "Main-Class: Evil"), ("Evil.class", b"\xca\xfe\xba\xbe")])
    found["mojo"] = packed([("model.ini", "[info]\n"), ("domains/d00.txt", "a")])
    found["npz"] = packed([("a.npy", b"\x93NUMPY" + evil[2])])
    return found


def test_a_pickle_never_runs_wherever_a_model_is_taken(served, tmp_path):
    mark = tmp_path / "mark"
    for name, content in payloads(mark).items():
        for method, path, parts in (
            ("PUT", "/model", {"model": content}),
            ("POST", "/modelrunner/putModel", {"model": content}),
            ("POST", "/transformCSV", {"csvFile": "x\n1\n", "model": content, "proto": TIMES}),
            ("POST", "/transform", {"csvFile": "x\n1\n", "model": content, "proto": TIMES}),
            ("POST", "/transformJSON", {"jsonFile": "{}", "model": content, "proto": TIMES}),
        ):
            answer = send(served, method, path, **parts)
            assert (answer.status, "ONNX" in answer.json["remedy"]) == (415, True), (name, path, answer.json)
        for path, part in (("/proto", "proto"), ("/model/configuration", "modelConfig")):
            answer = send(served, "PUT", path, **{part: content})
            assert answer.status == 400 or "ignored" in answer.json, (name, path, answer.json)
    hidden = served.root / "hidden"
    shutil.copytree(served.root / "store" / write_package(served.root / "store", 2.0), hidden)
    (hidden / "model" / "model.skops").write_bytes(pickle.dumps(Marks(mark)))
    (hidden / "evidence" / "extra.pkl").write_bytes(pickle.dumps(Marks(mark)))
    assert send(served, "PUT", "/model", model=zipped(hidden)).status == 422
    (hidden / MANIFEST).write_bytes(make_manifest(hidden, "m").to_json())
    answer = send(served, "POST", "/transformCSV", csvFile="x\n1\n", model=zipped(hidden), proto=TIMES)
    assert answer.json == {"prediction": ["2.0"]}
    (hidden / "model" / "model.onnx").write_bytes(pickle.dumps(Marks(mark)))
    (hidden / MANIFEST).write_bytes(make_manifest(hidden, "m").to_json())
    assert send(served, "PUT", "/model", model=zipped(hidden)).status == 422
    assert not mark.exists()
    try:
        pickle.loads(payloads(mark)["protocol 4"])
    finally:
        assert mark.exists(), "the payload would leave a mark"


def link(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name)
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    return entry


def overlapping() -> bytes:
    """An archive whose entries share their bytes."""
    plain = packed([("manifest.json", "{}"), ("b", "0" * 100_000)])
    return plain.replace(b"PK\x01\x02", b"PK\x01\x02", 1)[:-40]


HOSTILE = {
    "no zip at all": b"PK\x03\x04 and nothing else",
    "cut": packed([("manifest.json", "{}" * 9999)])[:-60],
    "traversal": packed([("manifest.json", "{}"), ("../evil", "x")]),
    "absolute": packed([("manifest.json", "{}"), ("/tmp/evil", "x")]),
    "backslash": packed([("manifest.json", "{}"), ("..\\evil", "x")]),
    "link": packed([("manifest.json", "{}"), (link("model"), "/etc/passwd")]),
    "twice": packed([("manifest.json", "{}"), ("A", "x"), ("a", "y")]),
    "file and folder": packed([("manifest.json", "{}"), ("a", "x"), ("a/b", "y")]),
    "bomb": packed([("manifest.json", "{}"), ("zeros", bytes(64 << 20))]),
    "many": packed([("manifest.json", "{}"), *((f"f{number}", "") for number in range(2500))]),
    "nul": packed([("manifest.json", "{}"), ("evilX.txt", "x")]).replace(b"evilX", b"evil\0"),
    "empty": packed([]),
    "no manifest": packed([("readme", "x")]),
    "no package": packed([("manifest.json", "{}")]),
    "deep": packed([("manifest.json", "{}"), ("a/" * 40 + "b", "x")]),
    "onnx, cut": onnx_file([[1.0]])[:40],
    "foreign operators": onnx_file([[1.0]], domain="evil.example"),
    "text": b"hello",
    "nothing": b"",
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_hostile_upload_is_refused_and_nothing_stays(served, name):
    before = served.client.status().slots["m"].current
    for method, path, parts in (
        ("PUT", "/model", {"model": HOSTILE[name]}),
        ("POST", "/transformCSV", {"csvFile": "x\n1\n", "model": HOSTILE[name], "proto": TIMES}),
    ):
        answer = send(served, method, path, **parts)
        assert answer.status in (415, 422), answer.json
        assert answer.json["remedy"]
        assert str(served.root) not in json.dumps(answer.json)
    assert served.client.status().slots["m"].current == before
    assert list((served.folder / "staged" / "incoming").iterdir()) == []


def test_external_data_is_refused(served):
    model = helper.make_model(helper.make_graph([], "g", [], []))
    tensor = model.graph.initializer.add(name="w", data_type=1, dims=[1], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="/etc/passwd")
    model.opset_import[0].version = 17
    answer = send(served, "PUT", "/model", model=model.SerializeToString())
    assert answer.status == 422


def test_a_request_is_answered_by_what_it_brought(served):
    """The slot's model, counters and generation are as before, and the worker is the same."""
    before, workers = served.client.status().slots["m"], served.client.status().workers
    for factor in (3.0, 4.0, 3.0):
        for model in (package(served, factor), onnx_file([[factor]])):
            parts = {"csvFile": "x\n1\n2\n", "model": model, "proto": TIMES}
            answer = send(served, "POST", "/transformCSV?operation=transform", **parts)
            assert answer.json == {"prediction": [f"{factor}", f"{2 * factor}"]}
            assert "x-model" not in answer.headers
    answer = send(
        served, "POST", "/transformJSON", jsonFile='{"rows":[{"x":2}]}', model=onnx_file([[5.0]]), proto=TIMES
    )
    assert answer.json == {"prediction": ["10.0"]}
    refused = send(
        served, "POST", "/transformCSV?errors=rows", csvFile="x\n1\nz\n", model=onnx_file([[3.0]]), proto=TIMES
    )
    assert (refused.headers["x-rows-refused"], refused.json["prediction"]) == ("1", ["3.0"])
    for parts, status in (
        ({"csvFile": "x\nbad\n", "model": onnx_file([[3.0]]), "proto": TIMES}, 422),
        ({"csvFile": "x\n1\n", "model": onnx_file([[3.0], [1.0]]), "proto": TIMES}, 422),
        ({"csvFile": "x\n1\n", "model": onnx_file([[3.0]]), "proto": "syntax"}, 400),
        ({"csvFile": "x\n1\n", "model": onnx_file([[3.0]])}, 400),
        ({"csvFile": "x\n1\n", "proto": TIMES}, 400),
    ):
        answer = send(served, "POST", "/transformCSV", **parts)
        assert (answer.status, answer.headers["content-type"]) == (status, "application/problem+json")
    assert served.client.status().slots["m"] == before
    assert served.client.status().workers == workers


def children(service) -> list[int]:
    """Processes that the worker has started for uploads."""
    [worker] = service.client.status().workers
    return [int(pid) for pid in Path(f"/proc/{worker}/task/{worker}/children").read_text().split()] + [
        int(pid)
        for task in Path(f"/proc/{worker}/task").iterdir() if task.name != str(worker)
        for pid in (task / "children").read_text().split()
    ]  # fmt: skip


def test_the_death_of_an_upload_is_its_own(served):
    """Its process is kept for the next request, is one of a few, and may be killed: the worker starts another."""
    parts = {"csvFile": "x\n1\n", "model": onnx_file([[6.0]]), "proto": TIMES}
    assert send(served, "POST", "/transformCSV", **parts).status == 200
    first = set(children(served))
    assert send(served, "POST", "/transformCSV", **parts).status == 200
    kept = first & set(children(served))
    assert 1 <= len(kept) <= len(first) <= 2
    for pid in kept:
        names = {str(descriptor.readlink()) for descriptor in Path(f"/proc/{pid}/fd").iterdir()}
        own = str(Path(f"/proc/{pid}/cwd").readlink())
        inherited = {name for name in names if not name.startswith(("pipe:", own)) and name != "/dev/null"}
        assert not inherited
        assert b"MODELYARD" not in Path(f"/proc/{pid}/environ").read_bytes()
        os.kill(pid, 9)
    workers = served.client.status().workers
    assert send(served, "POST", "/transformCSV", **parts).json == {"prediction": ["6.0"]}
    assert served.client.status().workers == workers


def test_uploads_leave_room_for_predictions(served):
    """Eight uploads that dawdle are all that a worker takes; it says so at once, and goes on predicting."""
    port = int(served.client.url.rsplit(":", 1)[1])
    head = (
        "PUT /model HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n"
        f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n\r\n--"
    )
    slow = [socket.create_connection(("127.0.0.1", port), timeout=20) for _ in range(8)]
    try:
        for connection in slow:
            connection.sendall(head.encode())
        answer = served.until(lambda: (put := send(served, "PUT", "/model", model=b"x")).status == 429 and put)
        assert answer.headers["retry-after"] == "1"
        assert served.predict().json["rows"] == [{"value": 2.0}]
    finally:
        for connection in slow:
            connection.close()
    served.until(lambda: send(served, "PUT", "/model", model=b"x").status == 415)


def test_a_client_library_is_understood(served):
    """httpx writes its forms itself, with names and types of files."""
    files = {
        "csvFile": ("../rows.csv", b"x\n1\n", "text/csv"), "model": ("m.onnx", onnx_file([[2.5]])),
        "proto": ("p.proto", TIMES, "text/plain"),
    }  # fmt: skip
    with httpx.Client(base_url=f"{served.client.url}/modelrunner", timeout=20) as client:
        answer = client.post("/transformCSV", params={"operation": "transform"}, files=files)
        assert (answer.status_code, answer.headers["content-type"]) == (200, "application/octet-stream")
        assert answer.content == b"\n\x032.5"
        assert client.put("/proto", files={"proto": TIMES.encode()}).json()["status"] == "ok"


def test_a_model_that_wants_all_memory_is_refused_and_nobody_else_pays(served):
    """Forty bytes of ONNX that ask for 40 GB of ones."""
    size = numpy_helper.from_array(np.array([100_000, 100_000], dtype=np.int64), "size")
    graph = helper.make_graph(
        [
            helper.make_node("ConstantOfShape", ["size"], ["ones"]),
            helper.make_node("ReduceSum", ["ones"], ["sum"], keepdims=0),
            helper.make_node("Add", ["input", "sum"], ["scores"]),
        ],
        "greedy",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 1])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 1])],
        [size],
    )
    greedy = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()
    workers = served.client.status().workers
    assert send(served, "PUT", "/model", model=greedy).status == 422
    answer = send(served, "POST", "/transformCSV", csvFile="x\n1\n", model=greedy, proto=TIMES)
    assert answer.status == 422
    assert served.client.status().workers == workers
    assert served.predict().json["rows"] == [{"value": 2.0}]


def test_a_larger_model_than_allowed_is_not_kept(service):
    service.options |= {"loader": REAL, "workers": 1, "limits": {"upload_bytes": 10_000}}
    service.start()
    assert send(service, "PUT", "/model", model=b"\0" * 200_000).status == 413
    assert list((service.folder / "staged" / "incoming").iterdir()) == []


def test_several_models_must_be_told_apart(served):
    served.client.swap("n", "v1.0.0", write_package(served.root / "store", 3.0))
    try:
        assert send(served, "PUT", "/proto", proto=TIMES).status == 200
        put = send(served, "PUT", "/model", model=onnx_file([[8.0]]))
        assert (put.status, "m, n" in put.json["remedy"]) == (409, True)
        assert send(served, "PUT", "/model?model=n", model=onnx_file([[8.0]])).status == 200
        assert send(served, "PUT", "/proto", proto=TIMES).json["model"] == "n"
        assert predicted(served, path="/transformCSVDefault?model=n") == ["24.0"]
        assert send(served, "PUT", "/model?model=../x", model=onnx_file([[8.0]])).status == 400
    finally:
        assert served.request("POST", "/v2/repository/models/n/unload", "").status == 200
