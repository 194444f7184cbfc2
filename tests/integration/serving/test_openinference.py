from __future__ import annotations

import json
import struct

import numpy as np
import pytest
from real_packages import write_package

REAL = "modelyard.serving.packaged"
INFER = "/v2/models/m/infer"


@pytest.fixture(scope="module")
def served(shared):
    shared.options["loader"] = REAL
    (shared.root / "store").mkdir()
    shared.start(workers=1)
    shared.client.swap("m", "v1.0.0", write_package(shared.root / "store", 2.0))
    return shared


def tensor(*values, **more):
    return {"name": "x", "datatype": "FP32", "shape": [len(values)], "data": list(values), **more}


def test_health_and_metadata_say_what_the_protocol_asks_for(served):
    assert served.request("GET", "/v2/health/live").json == {"live": True}
    assert served.request("GET", "/v2/health/ready").json == {"ready": True}
    server = served.request("GET", "/v2").json
    assert (server["name"], set(server)) == ("modelyard", {"name", "version", "extensions"})
    for path in ("/v2/models/m", "/v2/models/m/versions/v1.0.0"):
        model = served.request("GET", path).json
        assert (model["name"], model["versions"], model["platform"]) == ("m", ["v1.0.0"], "onnx_onnxv1")
        assert model["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1]}]
        assert model["outputs"] == [{"name": "value", "datatype": "FP32", "shape": [-1]}]
        assert served.request("GET", f"{path}/ready").json == {"name": "m", "ready": True}


def test_tensors_in_json_are_answered_in_json(served):
    answer = served.request("POST", INFER, json.dumps({"id": "a", "inputs": [tensor(1.5, 2.0)]}))
    assert answer.status == 200
    assert answer.json == {
        "model_name": "m", "model_version": "v1.0.0", "id": "a", "parameters": {"generation": 1},
        "outputs": [{"name": "value", "datatype": "FP32", "shape": [2], "data": [3.0, 4.0]}],
    }  # fmt: skip
    assert answer.headers["x-model-version"] == "v1.0.0"


def test_raw_tensors_are_answered_raw_where_asked(served):
    head = json.dumps({
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [2], "parameters": {"binary_data_size": 8}}],
        "outputs": [{"name": "value", "parameters": {"binary_data": True}}],
    }).encode()  # fmt: skip
    answer = served.request(
        "POST", INFER, head + struct.pack("<2f", 1.5, 2.0), inference_header_content_length=str(len(head))
    )
    assert answer.status == 200, answer.body
    length = int(answer.headers["inference-header-content-length"])
    assert json.loads(answer.body[:length])["outputs"][0]["parameters"] == {"binary_data_size": 8}
    np.testing.assert_array_equal(np.frombuffer(answer.body[length:], "<f4"), [3.0, 4.0])


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        (INFER, {"inputs": []}, 422),
        (INFER, {"inputs": [{**tensor(1.0), "name": "y"}]}, 422),
        (INFER, {"inputs": [{**tensor(1.0), "shape": [2**62, 2**62]}]}, 422),
        (INFER, {"inputs": [{**tensor(1.0), "shape": [-1]}]}, 422),
        ("/v2/models/other/infer", {"inputs": [tensor(1.0)]}, 404),
        ("/v2/models/m/versions/v9/infer", {"inputs": [tensor(1.0)]}, 404),
        ("/v2/repository/models/m/load", {"parameters": {"url": "http://elsewhere"}}, 400),
        ("/v2/repository/models/m/load", {"parameters": {"version": 3}}, 400),
    ],
)
def test_what_can_not_be_done_is_told_as_the_protocol_has_it(served, path, body, status):
    answer = served.request("POST", path, json.dumps(body))
    assert answer.status == status, answer.body
    assert answer.json["error"] == answer.json["detail"]
    assert answer.headers["content-type"] == "application/json"


@pytest.mark.parametrize("length", ["-1", "1e3", "9" * 30, "5000"])
def test_a_header_length_that_can_not_be_is_refused(served, length):
    answer = served.request(
        "POST", INFER, json.dumps({"inputs": [tensor(1.0)]}), inference_header_content_length=length
    )
    assert answer.status in (400, 422)
