"""A number that the contract allows and float32, in which models compute, does not: refused on every surface alike."""

from __future__ import annotations

import json
import struct
import sys
from pathlib import Path

import grpc
import pyarrow as pa
import pytest
from pyarrow import parquet
from real_packages import write_package
from tests.integration.serving.test_acumos import form

sys.path.insert(0, str(Path(__file__).parent))

from grpc_calls import channel, infer, predict

PREDICT, INFER = "/v1/models/m/predict", "/v2/models/m/infer"
ARROW, PARQUET = "application/vnd.apache.arrow.stream", "application/vnd.apache.parquet"
TOO_LARGE = [1.0, 2.0, -1e39]


@pytest.fixture(scope="module")
def served(shared):
    shared.options |= {"loader": "modelyard.serving.packaged", "grpc_port": 0}
    (shared.root / "store").mkdir()
    shared.start(workers=1)
    shared.client.swap("m", "v1.0.0", write_package(shared.root / "store", 2.0, dtype="float64"))
    return shared


def table(values, kind: str) -> bytes:
    given = pa.table({"x": pa.array(values, pa.float64())})
    sink = pa.BufferOutputStream()
    if kind == PARQUET:
        parquet.write_table(given, sink)
    else:
        with pa.ipc.new_stream(sink, given.schema) as writer:
            writer.write_table(given)
    return sink.getvalue().to_pybytes()


def tensor(values, **more):
    return {"inputs": [{"name": "x", "datatype": "FP64", "shape": [len(values)], **more}]}


def raw(values):
    head = json.dumps(tensor(values, parameters={"binary_data_size": 8 * len(values)})).encode()
    return head + struct.pack(f"<{len(values)}d", *values), {"inference_header_content_length": str(len(head))}


def asked(values):
    """Return the same rows in every form: path, body and headers."""
    rows = [{"x": value} for value in values]
    lines = "x\n" + "".join(f"{value!r}\n" for value in values)
    csv_form, json_form = form(("csvFile", lines)), form(("jsonFile", json.dumps({"rows": rows})))
    yield PREDICT, json.dumps({"rows": rows}), {}
    yield PREDICT, json.dumps({"columns": {"x": values}}), {}
    yield PREDICT, lines, {"content_type": "text/csv"}
    yield PREDICT, table(values, ARROW), {"content_type": ARROW}
    yield PREDICT, table(values, PARQUET), {"content_type": PARQUET}
    yield INFER, json.dumps(tensor(values, data=values)), {}
    yield INFER, *raw(values)
    yield "/transformCSVDefault", *csv_form
    yield "/transformJSONDefault", *json_form
    yield "/model/methods/predict", json.dumps({"rows": rows}), {"content_type": "application/json"}


FORMS = ["rows", "columns", "csv", "arrow", "parquet", "tensors", "raw tensors", "csvFile", "jsonFile", "message"]


@pytest.mark.parametrize("index", range(len(FORMS)), ids=FORMS)
def test_it_is_refused_by_row_and_field_in_every_form(served, index):
    path, body, headers = list(asked([1.0, 2.0, 1e38]))[index]
    assert served.request("POST", path, body, **headers).status == 200
    path, body, headers = list(asked(TOO_LARGE))[index]
    answer = served.request("POST", path, body, **headers)
    assert (answer.status, answer.json["where"]) == (422, "row 2, field 'x'")
    assert answer.json["detail"] == "Expected a number that the model can compute with in float32; got -1e+39."


def test_it_is_refused_over_grpc(served):
    with channel(served.client.grpc) as opened:
        assert predict(opened, infer(1e38)).model_name == "m"
        with pytest.raises(grpc.RpcError) as caught:
            predict(opened, infer(-1e39))
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "row 0, field 'x'" in caught.value.details()


def test_a_tensor_of_float32_is_taken_as_it_is(served):
    values = [1.0, float("inf"), float("-inf")]
    head = json.dumps({
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [3], "parameters": {"binary_data_size": 12}}],
        "outputs": [{"name": "value", "parameters": {"binary_data": True}}],
    }).encode()  # fmt: skip
    body = head + struct.pack("<3f", *values)
    answer = served.request("POST", INFER, body, inference_header_content_length=str(len(head)))
    assert answer.status == 200, answer.body
    start = int(answer.headers["inference-header-content-length"])
    assert struct.unpack("<3f", answer.body[start:]) == (2.0, values[1], values[2])


def test_the_log_has_no_line_that_is_not_json(served):
    for line in served.log.splitlines():
        json.loads(line)
