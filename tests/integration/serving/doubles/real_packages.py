"""Real packages, small and quick to make: y = factor * x as ONNX, with its golden samples."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from modelyard.data import Dataset, Field
from modelyard.packages.building import build_package
from modelyard.packages.manifest import MANIFEST, make_manifest
from modelyard.packages.model import save_model


def write_package(store: Path, factor: float, column: str = "x", dtype: str = "float32") -> str:
    """Build a package under the store and return the name that stands for its digest."""
    name = f"times-{factor:g}-{column}" + ("" if dtype == "float32" else f"-{dtype}")
    if (store / name).exists():
        return name
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["input", "weight"], ["scores"])],
        "linear",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 1])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 1])],
        [numpy_helper.from_array(np.array([[factor]], dtype=np.float32), "weight")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    folder = store / f".{name}.model"
    save_model(folder, flavour="onnx", model=model, inputs=[Field(column, dtype)], prediction_type="regression")
    samples = Dataset({column: np.arange(8, dtype=dtype)})
    build_package(store / name, model=folder, samples=samples, name="m", metrics={"mae": 0.0}, provenance={})
    return name


def spoil_golden_samples(package: Path) -> None:
    """Change an expected answer, and write a manifest that fits, as a model that answers differently would have it."""
    file = package / "samples" / "outputs.json"
    file.write_bytes(file.read_bytes().replace(b"4.0", b"5.0"))
    (package / MANIFEST).write_bytes(make_manifest(package, "m").to_json())
