"""What the servers serve: a forest of 100 trees, a network of 784 pixels, and a model that gives back what it takes.

Forest and network are trained on data that scikit-learn brings along, so that their weights are real. Each is kept as a
package of Modelyard, as the ONNX file of that package, and the forest also as scikit-learn keeps it.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
import numpy as np
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_diabetes, load_digits
from sklearn.ensemble import RandomForestRegressor
from sklearn.neural_network import MLPClassifier

from modelyard.data import Dataset, Field
from modelyard.packages.building import build_package
from modelyard.packages.model import save_model

__all__ = ["SUBJECTS", "Subject", "make_subject"]

SUBJECTS = ("forest", "digits", "noop")
PIXELS, HIDDEN, CLASSES = 784, 128, 10


@dataclass(frozen=True)
class Subject:
    """A model that every contender serves.

    Args:
        name: Of the model.
        folder: With `package`, `model.onnx`, `subject.json`, and of the forest `model.joblib`.
        columns: Names of the input's scalars; empty where it is one tensor, `image`.
        row: What is asked.
    """

    name: str
    folder: Path
    columns: tuple[str, ...]
    row: tuple[float, ...]

    @property
    def onnx(self) -> Path:
        """The ONNX file, the same for all."""
        return self.folder / "model.onnx"

    @property
    def named(self) -> dict[str, Any]:
        """The row with its names."""
        return dict(zip(self.columns, self.row, strict=True)) if self.columns else {"image": list(self.row)}


def make_subject(name: str, folder: Path) -> Subject:
    """Train and write a model."""
    folder.mkdir(parents=True)
    made = {"forest": _forest, "digits": _digits, "noop": _noop}[name](folder)
    shutil.copyfile(_onnx_of(folder / "package"), folder / "model.onnx")
    described = {"name": name, "columns": made.columns, "row": made.row}
    (folder / "subject.json").write_text(json.dumps(described), encoding="utf-8")
    return made


def _forest(folder: Path) -> Subject:
    data = load_diabetes()
    names = tuple(str(name) for name in data.feature_names)
    values = data.data.astype(np.float32)
    forest = RandomForestRegressor(100, min_samples_leaf=5, random_state=0, n_jobs=1).fit(values, data.target)
    joblib.dump(forest, folder / "model.joblib")
    fields = [Field(name, "float32", ()) for name in names]
    save_model(folder / "saved", flavour="sklearn", model=forest, inputs=fields, prediction_type="regression")
    _package(folder, "forest", {name: values[:, place] for place, name in enumerate(names)})
    return Subject("forest", folder, names, tuple(round(float(value), 6) for value in data.data[7]))


def _digits(folder: Path) -> Subject:
    images, labels = load_digits(return_X_y=True)
    # From 8 x 8 to 28 x 28: each pixel becomes three or four.
    places = np.arange(28) * 8 // 28
    large = (images.reshape(-1, 8, 8)[:, places][:, :, places].reshape(-1, PIXELS) / 16).astype(np.float32)
    network = MLPClassifier((HIDDEN,), early_stopping=True, n_iter_no_change=2, tol=1e-2, random_state=0).fit(
        large, labels
    )
    weights = [np.asarray(value, np.float32) for value in (*network.coefs_, *network.intercepts_)]
    names = ("first", "second", "first-bias", "second-bias")
    nodes = [
        helper.make_node("Gemm", ["input", "first", "first-bias"], ["hidden"]),
        helper.make_node("Relu", ["hidden"], ["active"]),
        helper.make_node("Gemm", ["active", "second", "second-bias"], ["scores"]),
    ]
    tensors = [numpy_helper.from_array(value, name) for value, name in zip(weights, names, strict=True)]
    graph = _graph("digits", nodes, PIXELS, CLASSES, tensors)
    save_model(
        folder / "saved", flavour="onnx", model=graph, inputs=[Field("image", "float32", (PIXELS,))],
        prediction_type="classification", classes=list(range(CLASSES)),
    )  # fmt: skip
    _package(folder, "digits", {"image": large})
    return Subject("digits", folder, (), tuple(round(float(value), 4) for value in large[3]))


def _noop(folder: Path) -> Subject:
    graph = _graph("noop", [helper.make_node("Identity", ["input"], ["scores"])], 1, 1, [])
    save_model(
        folder / "saved", flavour="onnx", model=graph, inputs=[Field("x", "float32", ())], prediction_type="regression"
    )
    _package(folder, "noop", {"x": np.arange(16, dtype=np.float32)})
    return Subject("noop", folder, ("x",), (1.5,))


def _graph(name: str, nodes: list[Any], width: int, outputs: int, tensors: list[Any]) -> Any:
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", width])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", outputs])],
        tensors,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def _package(folder: Path, name: str, columns: dict[str, Any]) -> None:
    build_package(
        folder / "package", model=folder / "saved", samples=Dataset(columns), name=name, metrics={}, provenance={}
    )


def _onnx_of(package: Path) -> Path:
    (found,) = package.glob("model/**/*.onnx")
    return found
