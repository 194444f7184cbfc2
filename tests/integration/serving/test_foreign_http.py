"""The REST surface of the Open Inference Protocol asked by clients that nobody here wrote, with real ONNX packages."""

from __future__ import annotations

import json

import pytest
from echo_loader import write_echo
from real_packages import write_package
from tests.foreign import PINS, foreign

REFUSED = "can't be followed"


@pytest.fixture(scope="module")
def served(shared):
    store = shared.root / "store"
    store.mkdir()
    package = write_package(store, 2.0)
    file = shared.root / "repository.json"
    file.write_text(json.dumps({"m": {"v1.0.0": package}, "other": {"v1": package}}))
    shared.options |= {"loader": "modelyard.serving.packaged", "repository": str(file), "workers": 1}
    shared.start()
    shared.client.swap("m", "v1.0.0", package)
    return shared


@pytest.fixture
def address(served):
    # What one client loads and unloads, the next one finds as it was.
    served.client.swap("other", "v1", "times-2-x")
    return served.client.url.removeprefix("http://")


def test_tritons_client_is_answered_in_all_that_it_asks(served, address):
    said = foreign("tritonclient-http").run(PINS / "triton_http_infer.py", address)
    assert (said["live"], said["ready"], said["model_ready"]) == (True, True, [True, False, False])
    assert said["server"]["name"] == "modelyard"
    assert said["model"]["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1]}]
    answers = ("infer", "pinned", "gzip", "deflate", "aio gzip", *(f"raw {a} {b}" for a in (0, 1) for b in (0, 1)))
    for name in answers:
        assert said[name.replace("0", "False").replace("1", "True")] == [2.0, 5.0], name
    assert (said["response"]["model_version"], said["response"]["id"]) == ("v1.0.0", "one")
    assert said["large"] is True
    assert said["async"] == [2.0 * i for i in range(20)]
    assert said["aio"] == [2.0 * i for i in range(50)]
    assert said["missing"][1] == "No model of that name is served here."
    assert said["unfit"][1].startswith("The tensor has the shape [2, 3]")
    known = [("m", "v1.0.0", "READY"), ("other", "v1", "READY")]
    assert [(entry["name"], entry["version"], entry["state"]) for entry in said["index"]] == known
    assert (said["loaded"], said["unloaded"], said["aio index"]) == ("v1.0.0", False, 2)
    assert REFUSED in said["config"][1]
    assert said["unknown"] is not None


def test_every_kind_of_tensor_goes_to_tritons_client_and_back(service):
    service.options |= {"loader": "echo_loader", "workers": 1}
    package = write_echo(service.root / "store")
    service.start()
    service.client.swap("echo", "v1", package)
    address = service.client.url.removeprefix("http://")
    said = foreign("tritonclient-http").run(PINS / "triton_http_tensors.py", address)
    assert all(said["raw"].values()), said
    assert all(said["json"].values()), said


def test_kserves_client_is_answered(served):
    said = foreign("kserve").run(PINS / "kserve_http_infer.py", served.client.url)
    assert (said["live"], said["ready"], said["model_ready"]) == (True, True, True)
    assert said["raw"] == said["json"] == [2.0, 4.0, 6.0]
    # It reads no version from the body.
    assert (said["id"], said["header"]) == ("one", "v1.0.0")
    # It reads the member `error` only of application/json.
    assert said["missing"] == 404
    assert said["why"].startswith("No model of that name is served here., '404 Not Found'")


def test_the_client_generated_from_the_protocol_is_answered(served):
    said = foreign("open-inference-openapi").run(PINS / "open_inference_http_infer.py", served.client.url)
    assert said["server"]["name"] == "modelyard"
    assert said["model"] == said["pinned model"]
    assert said["model"]["outputs"] == [{"name": "value", "datatype": "FP32", "shape": [-1]}]
    assert said["infer"] == said["pinned"]
    assert (said["infer"]["id"], said["infer"]["outputs"][0]["data"]) == ("one", [2.0, 5.0])
    assert said["missing"] == [404, "No model of that name is served here."]
    assert said["missing version"] == 404
    assert said["aio"] == ["v1.0.0"]
