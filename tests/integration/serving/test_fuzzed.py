"""A service fuzzed by schemathesis from its own description: what is described is what happens."""

from __future__ import annotations

import json

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from real_packages import write_package
from tests.foreign import PINS, foreign

from modelyard.data import Dataset, Field
from modelyard.packages.building import build_package
from modelyard.packages.model import save_model
from modelyard.serving.auth.keys import KeyFile

CHECKS = ",".join((
    "not_a_server_error", "status_code_conformance", "content_type_conformance", "response_headers_conformance",
    "response_schema_conformance", "negative_data_rejection", "missing_required_header", "unsupported_method",
    "allow_header_conformance",
))  # fmt: skip
CHANGES = r"/(unload|load|rollback|canary|shadow|promote|labels/\{label\})$"


def write_wide_package(store) -> str:
    """Build a package of several dtypes: score = small + 2 flag + 3 big + 4 real + 5 wide."""
    fields = [Field("small", "int8"), Field("flag", "bool"), Field("big", "uint32"), Field("real", "float32"),
              Field("wide", "float64")]  # fmt: skip
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["input", "weight"], ["scores"])], "linear",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 5])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 1])],
        [numpy_helper.from_array(np.arange(1, 6, dtype=np.float32).reshape(5, 1), "weight")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    save_model(store / ".wide", flavour="onnx", model=model, inputs=fields, prediction_type="regression")
    samples = Dataset({field.name: np.arange(4).astype(field.dtype) for field in fields})
    build_package(store / "wide", model=store / ".wide", samples=samples, name="w", metrics={"mae": 0}, provenance={})
    return "wide"


def start(service) -> None:
    store = service.root / "store"
    store.mkdir()
    first, second, wide = write_package(store, 2.0), write_package(store, 3.0), write_wide_package(store)
    known = {"m": {"v1": first, "v2": second}, "wide": {"v1": wide}}
    (service.root / "repository.json").write_text(json.dumps(known))
    service.options |= {
        "loader": "modelyard.serving.packaged", "workers": 1, "repository": str(service.root / "repository.json"),
    }  # fmt: skip
    service.start()
    service.client.swap("wide", "v1", wide)
    service.client.swap("m", "v1", first)
    service.client.swap("m", "v2", second)


def fuzz(service, folder, cases: int, checks: str = CHECKS, *options: str):
    folder.mkdir()
    (worker,) = service.client.status().workers
    said = foreign("schemathesis").run(
        PINS / "fuzz.py", service.client.url, str(folder), str(cases), checks, *options, timeout=280
    )
    assert said["failures"] == said["errors"] == [], said["text"]
    assert said["code"] == 0, said["text"]
    assert service.client.status().workers == (worker,), "the worker was replaced"
    assert '"status":500' not in service.log
    return said


@pytest.mark.slow
def test_nothing_is_found_in_what_only_asks(service, tmp_path):
    start(service)
    said = fuzz(service, tmp_path / "fuzz", 20, CHECKS, "--exclude-path-regex", CHANGES)
    assert said["tested"] >= 30
    assert said["cases"] > 1500
    assert service.predict().json["rows"] == [{"value": 3.0}]


@pytest.mark.slow
def test_nothing_is_found_in_what_changes_the_service(service, tmp_path):
    start(service)
    said = fuzz(service, tmp_path / "fuzz", 20, CHECKS, "--include-path-regex", CHANGES)
    assert said["tested"] >= 18
    assert said["cases"] > 500
    # Whatever was done to it: it still takes what it is given.
    service.client.swap("m", "v3", "times-2-x")
    assert service.predict().json["rows"] == [{"value": 2.0}]


@pytest.mark.slow
def test_nothing_is_answered_without_credentials(service, tmp_path):
    keys = service.root / "keys.json"
    key, _ = KeyFile(keys).add(["read", "infer", "load", "promote"])
    service.options["auth"] = {"keys": str(keys)}
    start(service)
    fuzz(service, tmp_path / "fuzz", 5, f"ignored_auth,{CHECKS}", "--header", f"Authorization:Bearer {key}")
