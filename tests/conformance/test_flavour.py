"""The Flavour contract, over every flavour that comes with Modelyard."""

from __future__ import annotations

import copy
import functools
import warnings
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import GradientBoostingRegressor, RandomForestClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from modelyard.contracts import Flavour
from modelyard.packages.flavours.onnx import OnnxFlavour
from modelyard.packages.flavours.sklearn import SklearnFlavour
from modelyard.packages.flavours.torch import TorchFlavour, build_network
from modelyard.packages.flavours.torch_graph import to_onnx
from modelyard.testing.flavour import FlavourConformance


def network() -> Any:
    torch.manual_seed(3)
    layers = [
        {"type": "convolutional", "units": 4, "kernel": 3, "activation": "relu"},
        {"type": "batch_norm"},
        {"type": "max_pooling", "kernel": 2},
        {"type": "fully_connected", "units": 3, "activation": "softmax"},
    ]
    return build_network(layers, (8, 8), 3)


class TestTorch(FlavourConformance):
    def new_flavour(self) -> Flavour:
        return TorchFlavour()

    def model(self) -> Any:
        return network()

    def rows(self, count: int) -> NDArray[np.float32]:
        return np.random.default_rng(count).standard_normal((count, 8, 8)).astype(np.float32)

    def scores(self, model: Any, rows: NDArray[np.float32]) -> NDArray[Any]:
        with torch.inference_mode():
            result: NDArray[Any] = model.eval()(torch.from_numpy(rows)).numpy()
        return result


class TestTorchRecurrent(TestTorch):
    def model(self) -> Any:
        torch.manual_seed(4)
        layers = [
            {"type": "recurrent", "units": 5, "cell": "lstm", "bidirectional": True},
            {"type": "fully_connected", "units": 2},
        ]
        return build_network(layers, (6, 3), 2)

    def rows(self, count: int) -> NDArray[np.float32]:
        return np.random.default_rng(count).standard_normal((count, 6, 3)).astype(np.float32)


class TestOnnx(TestTorch):
    def new_flavour(self) -> Flavour:
        return OnnxFlavour()

    def model(self) -> Any:
        return to_onnx(network().eval())

    def scores(self, model: Any, rows: NDArray[np.float32]) -> NDArray[Any]:
        return super().scores(network(), rows)


@functools.cache
def fitted(kind: Any, classify: bool, **arguments: Any) -> Any:
    rng = np.random.default_rng(5)
    rows = rng.standard_normal((200, 4)).astype(np.float32)
    numbers = rows[:, 0] - rows[:, 1] + rng.normal(0, 0.1, 200)
    targets = np.array(["low", "middle", "high"])[np.digitize(numbers, [-0.7, 0.7])] if classify else numbers
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return kind(**arguments).fit(rows, targets)


class Sklearn(FlavourConformance):
    kind: Any
    classify = True
    arguments: dict[str, Any] = {}  # noqa: RUF012  (never changed)

    def new_flavour(self) -> Flavour:
        return SklearnFlavour()

    def model(self) -> Any:
        # A neighbours tree counts its queries, so one that has predicted is not as it was.
        return copy.deepcopy(fitted(self.kind, self.classify, **self.arguments))

    def rows(self, count: int) -> NDArray[np.float32]:
        return np.random.default_rng(count).standard_normal((count, 4)).astype(np.float32)

    def scores(self, model: Any, rows: NDArray[np.float32]) -> NDArray[Any]:
        if not self.classify:
            return np.asarray(model.predict(rows)).astype(np.float32)
        if hasattr(model, "predict_proba"):
            return np.asarray(model.predict_proba(rows)).astype(np.float32)
        return np.asarray(model.predict(rows))


class TestForest(Sklearn):
    kind = RandomForestClassifier
    arguments = {"n_estimators": 5, "random_state": 0}  # noqa: RUF012  (nobody changes it)


class TestPipeline(Sklearn):
    kind = staticmethod(lambda: make_pipeline(StandardScaler(), LogisticRegression()))


class TestNeighbours(Sklearn):
    kind = KNeighborsClassifier


class TestDiscriminant(Sklearn):
    kind = LinearDiscriminantAnalysis


class TestLabelsAlone(Sklearn):
    kind = LinearSVC


class TestWithoutConverter(Sklearn):
    kind = DummyClassifier
    has_onnx = False


class TestLinearRegression(Sklearn):
    kind = LinearRegression
    classify = False


class TestGradientBoosting(Sklearn):
    kind = GradientBoostingRegressor
    classify = False
    arguments = {"n_estimators": 5, "random_state": 0}  # noqa: RUF012  (nobody changes it)
