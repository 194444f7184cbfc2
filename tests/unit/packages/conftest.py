"""Small trained models of each kind, and packages of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.ensemble import RandomForestClassifier

from modelyard.data import Dataset
from modelyard.packages.assemble import assemble
from modelyard.packages.flavours.torch import build_network
from modelyard.packages.model import save_model
from modelyard.packages.package import Manifest, build_package
from modelyard.packages.transform import TransformChain

PROVENANCE = {
    "run": "20260131-142501-3f9c",
    "blueprint": "digits",
    "commit": "0" * 40,
    "dirty": True,
    "data": {"file:train.csv": "a" * 64},
    "code": {"steps.train": "b" * 64},
    "parameters": {"train": {"alpha": 0.1, "layers": [{"type": "flatten"}]}},
    "environment": {"python": "3.11.7", "platform": "Linux", "pip:numpy": "2.4.6", "pip:onnxruntime": "1.31.1"},
}


def images(rows: int = 60, seed: int = 0) -> Dataset:
    rng = np.random.default_rng(seed)
    return Dataset(
        {
            "image": rng.integers(0, 256, (rows, 4, 4), dtype=np.uint8),
            "label": rng.integers(0, 3, rows, dtype=np.uint8),
        },
        target="label",
        classes=(0, 1, 2),
    )


def customers(rows: int = 120, seed: int = 0) -> Dataset:
    rng = np.random.default_rng(seed)
    age = rng.normal(40, 12, rows)
    age[rng.random(rows) < 0.1] = np.nan
    return Dataset(
        {
            "age": age,
            "visits": rng.integers(0, 9, rows),
            "city": rng.choice(np.array(["Niš", "Belgrade", "Kyiv"]), rows),
            "label": np.where(np.nan_to_num(age) > 40, "yes", "no"),
        },
        target="label",
        classes=("no", "yes"),
    )


def save_network(folder: Path) -> Path:
    """Save a network over scaled images."""
    data = images()
    chain = TransformChain.fit([{"type": "scale", "factor": 1 / 255}], data)
    torch.manual_seed(0)
    network = build_network(
        [{"type": "fully_connected", "units": 8, "activation": "relu"}, {"type": "fully_connected", "units": 3}],
        (4, 4),
        3,
    )
    save_model(
        folder, flavour="torch", model=network, inputs=chain.outputs, prediction_type="classification",
        classes=data.classes, transform=chain,
    )  # fmt: skip
    return folder


def save_forest(folder: Path) -> Path:
    """Save a forest over a table with missing numbers and text."""
    data = customers()
    chain = TransformChain.fit([{"type": "impute", "strategy": "median"}, {"type": "one_hot"}], data)
    rows = assemble(chain.outputs, chain.apply(data.features), flat=True)
    forest = RandomForestClassifier(n_estimators=5, random_state=0).fit(rows, data.labels)
    save_model(
        folder, flavour="sklearn", model=forest, inputs=chain.outputs, prediction_type="classification",
        classes=data.classes, transform=chain,
    )  # fmt: skip
    return folder


@pytest.fixture
def network(tmp_path: Path) -> Path:
    """A saved network over images."""
    return save_network(tmp_path / "network")


@pytest.fixture
def forest(tmp_path: Path) -> Path:
    """A saved forest over customers."""
    return save_forest(tmp_path / "forest")


@pytest.fixture
def pack(tmp_path: Path) -> Callable[..., Manifest]:
    """Build a package with usual arguments."""

    def build(folder: Path, model: Path, samples: Dataset, **more: Any) -> Manifest:
        evidence = tmp_path / "evidence"
        evidence.mkdir(exist_ok=True)
        (evidence / "confusion_matrix.json").write_text("[[1]]")
        usual = {"name": "digits", "evidence": evidence, "metrics": {"accuracy": 0.97}, "provenance": PROVENANCE}
        return build_package(folder, model=model, samples=samples, **(usual | more))

    return build
