"""Real data, from a file to evidence: scikit-learn's handwritten digits, 1,797 images of 8 x 8 pixels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_diabetes, load_digits

from modelyard.packages.model import load_model
from modelyard.steps import sklearn_trainer, torch_trainer
from modelyard.steps.evaluator import evaluate
from modelyard.steps.importer import import_data
from modelyard.steps.transform import transform
from modelyard.testing.context import RecordedContext


class Project:
    """Calls one step after the other, each in a work folder of its own, as the engine does."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.context = RecordedContext(folder, folder)

    def step(self, name: str) -> RecordedContext:
        workdir = self.folder / name
        workdir.mkdir()
        self.context = RecordedContext(self.folder, workdir)
        return self.context


@pytest.fixture
def project(tmp_path: Path) -> Project:
    images, labels = load_digits(return_X_y=True)
    np.savez(tmp_path / "digits.npz", image=images.reshape(-1, 8, 8).astype(np.uint8), label=labels.astype(np.int64))
    return Project(tmp_path)


def prepared(project: Project) -> dict[str, Any]:
    parts = import_data(project.step("load"), format="npz", local_data="digits.npz", target="label")
    return transform(project.step("scale"), **parts, operations=[{"type": "scale", "factor": 1 / 16}])


NETWORKS = {
    "perceptron": [
        {"type": "flatten"},
        {"type": "fully_connected", "units": 128, "activation": "relu"},
        {"type": "fully_connected", "units": 10},
    ],
    "convolutional": [
        {"type": "convolutional", "units": 16, "kernel": 3, "padding": 1, "activation": "relu"},
        {"type": "max_pooling", "kernel": 2},
        {"type": "flatten"},
        {"type": "fully_connected", "units": 10},
    ],
    "recurrent": [{"type": "recurrent", "units": 48, "cell": "gru"}, {"type": "fully_connected", "units": 10}],
}


@pytest.mark.parametrize(
    ("name", "epochs", "least"), [("perceptron", 25, 0.97), ("convolutional", 15, 0.97), ("recurrent", 10, 0.9)]
)
def test_a_network_reads_digits(project: Project, name: str, epochs: int, least: float) -> None:
    data = prepared(project)
    trained = torch_trainer.train(
        project.step("train"), train=data["train"], transform=data["transform"], layers=NETWORKS[name], epochs=epochs,
        batch=32, alpha=0.004, validation=0.1, patience=5,
    )  # fmt: skip
    told = evaluate(
        project.step("evaluate"), model=trained["model"], test=data["test"], history=trained["history"],
        metrics=["f1_macro", "log_loss"], minimum={"accuracy": least},
    )  # fmt: skip
    assert told["metrics"]["accuracy"] >= least
    matrix = json.loads((told["evidence"] / "confusion_matrix.json").read_text())
    assert matrix["classes"] == list(range(10))


def test_a_forest_reads_digits(project: Project) -> None:
    data = prepared(project)
    trained = sklearn_trainer.train(
        project.step("train"), train=data["train"], transform=data["transform"],
        estimator="sklearn.ensemble.ExtraTreesClassifier", arguments={"n_estimators": 60},
    )  # fmt: skip
    told = evaluate(project.step("evaluate"), model=trained["model"], test=data["test"], minimum={"accuracy": 0.97})
    assert told["metrics"]["accuracy"] >= 0.97


def test_a_saved_network_answers_raw_images_as_it_was_evaluated(project: Project) -> None:
    data = prepared(project)
    trained = torch_trainer.train(
        project.step("train"), train=data["train"], transform=data["transform"], layers=NETWORKS["perceptron"], epochs=5
    )
    told = evaluate(project.step("evaluate"), model=trained["model"], test=data["test"])
    raw = import_data(project.step("again"), format="npz", local_data="digits.npz", target="label")["test"]
    for runtime in ("native", "onnx"):
        answer = load_model(trained["model"], runtime).predict(raw.features)
        assert (answer["label"] == raw.labels).mean() == pytest.approx(told["metrics"]["accuracy"], abs=0.003)


def test_a_regression_from_csv_beats_the_mean(tmp_path: Path) -> None:
    project = Project(tmp_path)
    table = load_diabetes(as_frame=True, scaled=False).frame
    table.to_csv(tmp_path / "diabetes.csv", index=False)
    parts = import_data(project.step("load"), format="csv", local_data="diabetes.csv", target="target")
    data = transform(project.step("scale"), **parts, operations=[{"type": "standardize"}])
    assert data["train"].classes is None
    trained = torch_trainer.train(
        project.step("train"), train=data["train"], transform=data["transform"], prediction_type="regression",
        layers=[
            {"type": "fully_connected", "units": 32, "activation": "relu"},
            {"type": "fully_connected", "units": 1},
        ],
        epochs=100, batch=32, alpha=0.01, loss="huber",
    )  # fmt: skip
    told = evaluate(
        project.step("evaluate"), model=trained["model"], test=data["test"], history=trained["history"],
        metrics=["mae", "rmse", "r2"], prediction_type="regression", minimum={"r2": 0.3},
    )  # fmt: skip
    assert list(told["metrics"]) == ["mean_relative_error", "mae", "rmse", "r2"]
