"""Every kind of tensor through the REST surface of the Open Inference Protocol, in JSON, raw, and mixed."""

from __future__ import annotations

import json

import numpy as np
import pytest
from echo_loader import write_echo

from modelyard.packages.codecs.tensor_data import to_raw

INFER = "/v2/models/echo/infer"
VALUES = {
    "text": np.array(["", "ä", "three"]),
    "half": np.array([0.5, -65504, np.nan], dtype=np.float16),
    "grid": np.arange(-9, 9, dtype=np.int16).reshape(3, 2, 3),
    "flag": np.array([True, False, True]),
    "big": np.array([0, 2**53 + 1, 2**64 - 1], dtype=np.uint64),
}
DATATYPES = {"text": "BYTES", "half": "FP16", "grid": "INT16", "flag": "BOOL", "big": "UINT64"}


@pytest.fixture(scope="module")
def served(shared):
    shared.options["loader"] = "echo_loader"
    package = write_echo(shared.root / "store")
    shared.start(workers=1)
    shared.client.swap("echo", "v1", package)
    return shared


def infer(served, raw: set[str], **request):
    """Send all tensors, some of them raw, and return the answer's head and raw part."""
    inputs, behind = [], []
    for name, values in VALUES.items():
        tensor = {"name": name, "datatype": DATATYPES[name], "shape": list(values.shape)}
        if name in raw:
            behind.append(to_raw(values))
            inputs.append(tensor | {"parameters": {"binary_data_size": len(behind[-1])}})
        else:
            data = [None if value != value else value for value in values.reshape(-1).tolist()]
            inputs.append(tensor | {"data": data})
    head = json.dumps({"inputs": inputs, **request}).encode()
    headers = {"inference_header_content_length": str(len(head))} if behind else {}
    answer = served.request("POST", INFER, head + b"".join(behind), **headers)
    assert answer.status == 200, answer.body
    length = answer.headers.get("inference-header-content-length")
    if length is None:
        assert answer.headers["content-type"] == "application/json"
        return answer.json, b""
    assert answer.headers["content-type"] == "application/octet-stream"
    return json.loads(answer.body[: int(length)]), answer.body[int(length) :]


def outputs(told, behind: bytes) -> dict[str, np.ndarray]:
    found = {}
    for tensor in told["outputs"]:
        name = tensor["name"]
        assert tensor["datatype"] == DATATYPES[name]
        size = tensor.get("parameters", {}).get("binary_data_size")
        if size is None:
            data = [np.nan if value is None else value for value in tensor["data"]]
            found[name] = np.array(data, dtype=VALUES[name].dtype).reshape(tensor["shape"])
            continue
        raw, behind = behind[:size], behind[size:]
        if name == "text":
            texts = []
            while raw:
                length = int.from_bytes(raw[:4], "little")
                texts.append(raw[4 : 4 + length].decode())
                raw = raw[4 + length :]
            found[name] = np.array(texts)
        else:
            found[name] = np.frombuffer(raw, VALUES[name].dtype.newbyteorder("<")).reshape(tensor["shape"])
    assert behind == b""
    return found


@pytest.mark.parametrize(
    "raw",
    [set(), set(VALUES), {"text"}, {"half", "grid"}, {"big", "flag"}],
    ids=lambda raw: "-".join(sorted(raw)) or "none",
)
@pytest.mark.parametrize("raw_answer", [True, False])
def test_every_tensor_comes_back_however_it_is_sent(served, raw, raw_answer):
    told, behind = infer(served, raw, parameters={"binary_data_output": raw_answer})
    assert bool(behind) == raw_answer
    found = outputs(told, behind)
    assert found.keys() == VALUES.keys()
    for name, values in VALUES.items():
        np.testing.assert_array_equal(found[name], values)


def test_some_outputs_in_the_order_that_is_asked_for_and_only_some_of_them_raw(served):
    asked = [{"name": "big", "parameters": {"binary_data": True}}, {"name": "text"}]
    told, behind = infer(served, {"half"}, outputs=asked)
    assert [tensor["name"] for tensor in told["outputs"]] == ["big", "text"]
    assert len(behind) == 24
    found = outputs(told, behind)
    for name in found:
        np.testing.assert_array_equal(found[name], VALUES[name])


def test_nested_data_is_the_same_as_flat_data(served):
    inputs = [
        {"name": name, "datatype": DATATYPES[name], "shape": list(values[:2].shape), "data": values[:2].tolist()}
        for name, values in VALUES.items()
    ]
    told = served.request("POST", INFER, json.dumps({"inputs": inputs})).json
    np.testing.assert_array_equal(outputs(told, b"")["grid"], VALUES["grid"][:2])


def test_the_metadata_names_every_tensor(served):
    described = served.request("GET", "/v2/models/echo").json
    expected = [
        {"name": name, "datatype": DATATYPES[name], "shape": [-1, *values.shape[1:]]} for name, values in VALUES.items()
    ]
    assert described["inputs"] == described["outputs"] == expected


@pytest.mark.parametrize(
    ("name", "change", "where"),
    [
        ("text", {"parameters": {"binary_data_size": 3}}, "text"),
        ("half", {"shape": [3, 2]}, "half"),
        ("grid", {"shape": [3, 6]}, "grid"),
        ("grid", {"shape": [2**40, 2**40]}, "grid"),
        ("flag", {"datatype": "FP32"}, "flag"),
        ("big", {"datatype": "STRING"}, "big"),
    ],
)
def test_what_does_not_fit_is_told_by_the_tensors_name(served, name, change, where):
    inputs, behind = [], b""
    for other, values in VALUES.items():
        raw = to_raw(values)
        tensor = {"name": other, "datatype": DATATYPES[other], "shape": list(values.shape)}
        tensor["parameters"] = {"binary_data_size": len(raw)}
        if other == name:
            tensor |= change
        inputs.append(tensor)
        behind += raw
    head = json.dumps({"inputs": inputs}).encode()
    answer = served.request("POST", INFER, head + behind, inference_header_content_length=str(len(head)))
    assert answer.status == 422
    assert where in answer.json["where"]
    assert answer.json["error"] == answer.json["detail"]
