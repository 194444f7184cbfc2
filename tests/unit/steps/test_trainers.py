"""Trainers and evaluator: repeatable, stopped in time, and clear where things do not fit."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from modelyard.data import Dataset
from modelyard.errors import DataError, MinimumNotMetError, StepError
from modelyard.packages.model import load_model
from modelyard.packages.transform import TransformChain
from modelyard.steps import plots, sklearn_trainer, torch_trainer
from modelyard.steps.devices import choose_device
from modelyard.steps.evaluator import evaluate
from modelyard.steps.transform import transform
from modelyard.testing.context import RecordedContext

DENSE = [
    {"type": "fully_connected", "units": 16, "activation": "relu"},
    {"type": "fully_connected", "units": 3, "activation": "softmax"},
]
ONE = [{"type": "fully_connected", "units": 8, "activation": "tanh"}, {"type": "fully_connected", "units": 1}]


def blobs(rows: int = 240, seed: int = 0) -> Dataset:
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, 3, rows)
    points = draw.normal(0, 0.5, (rows, 2)) + np.array([[0, 0], [3, 0], [0, 3]])[labels]
    names = np.array(["ash", "birch", "cedar"])
    columns = {"height": points[:, 0], "width": points[:, 1].astype("f4"), "tree": names[labels]}
    return Dataset(columns, "tree", ("ash", "birch", "cedar"))


def line(rows: int = 200) -> Dataset:
    x = np.linspace(-1, 1, rows, dtype=np.float32)
    return Dataset({"x": x, "y": 3 * x + 1}, "y")


def fresh(tmp_path: Path, name: str) -> RecordedContext:
    folder = tmp_path / name
    folder.mkdir()
    return RecordedContext(project=tmp_path, workdir=folder)


def weights(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


class TestTorch:
    def test_a_classifier_learns_and_evaluates(self, context: RecordedContext) -> None:
        result = torch_trainer.train(context, train=blobs(), layers=DENSE, epochs=20, batch=16, alpha=0.01)
        assert [each["epoch"] for each in result["history"]] == list(range(1, 21))
        assert result["history"][-1]["loss"] < result["history"][0]["loss"] / 3
        told = evaluate(context, model=result["model"], test=blobs(seed=1), history=result["history"],
                        metrics=["log_loss", "f1_macro"], minimum={"accuracy": 0.95})  # fmt: skip
        assert list(told["metrics"]) == ["accuracy", "log_loss", "f1_macro"]
        assert told["metrics"]["accuracy"] > 0.95

    def test_a_regression_learns_and_evaluates(self, context: RecordedContext) -> None:
        result = torch_trainer.train(
            context, train=line(), layers=ONE, epochs=60, batch=20, alpha=0.02, prediction_type="regression"
        )
        told = evaluate(context, model=result["model"], test=line(50), metric="rmse", metrics=["r2"],
                        prediction_type="regression", minimum={"rmse": 0.3})  # fmt: skip
        assert told["metrics"]["r2"] > 0.97
        names = {path.name for path in told["evidence"].iterdir()}
        assert {"metrics.json", "predicted_vs_true.svg", "residuals.png"} <= names

    def test_another_seed_gives_another_model(self, tmp_path: Path) -> None:
        def trained(name: str, seed: int) -> str:
            context = fresh(tmp_path, name)
            return weights(torch_trainer.train(context, train=blobs(), layers=DENSE, epochs=1, seed=seed)["model"])

        assert trained("a", 0) == trained("b", 0) != trained("c", 1)

    def test_training_leaves_pytorch_as_it_was(self, context: RecordedContext) -> None:
        torch.manual_seed(7)
        expected = torch.rand(1)
        torch.manual_seed(7)
        before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
        torch_trainer.train(context, train=blobs(), layers=DENSE, epochs=1, threads=1)
        assert (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()) == before
        assert torch.equal(torch.rand(1), expected)

    def test_patience_stops_and_the_best_weights_are_kept(self, context: RecordedContext) -> None:
        noise = np.random.default_rng(0)
        data = Dataset({"x": noise.random((60, 10), dtype=np.float32), "y": noise.integers(0, 3, 60)}, "y", (0, 1, 2))
        layers = [{"type": "fully_connected", "units": 64, "activation": "relu"}, DENSE[-1]]
        result = torch_trainer.train(
            context, train=data, layers=layers, epochs=300, batch=10, alpha=0.01, validation=0.3, patience=3
        )
        history = result["history"]
        best = min(history, key=lambda each: each["validation_loss"])
        assert len(history) == best["epoch"] + 3 < 300
        assert any("Stopped" in text for text in context.lines)
        assert any(f"Kept the weights of epoch {best['epoch']}," in text for text in context.lines)

    def test_every_epoch_is_told(self, context: RecordedContext) -> None:
        torch_trainer.train(context, train=blobs(), layers=DENSE, epochs=3, validation=0.25)
        assert [step for name, _, step in context.metrics if name == "loss"] == [1, 2, 3]
        assert {name for name, _, _ in context.metrics} == {"loss", "validation_loss", "validation_accuracy"}
        assert context.progressed[-1] == (3, 3, "epochs")
        assert any(text.startswith("PyTorch") and "on cpu (auto: " in text for text in context.lines)

    def test_the_transform_is_packed_with_the_model(self, context: RecordedContext) -> None:
        operations = [{"type": "standardize"}, {"type": "stack", "columns": ["height", "width"], "into": "size"}]
        done = transform(context, train=blobs(), test=blobs(seed=1), operations=operations)
        result = torch_trainer.train(
            context, train=done["train"], transform=done["transform"], layers=DENSE, epochs=10, batch=16, alpha=0.02
        )
        model = load_model(result["model"])
        assert [field.name for field in model.contract.inputs] == ["height", "width"]
        raw = {name: values[:20] for name, values in blobs(seed=1).features.items()}
        whole = model.predict(raw)["probabilities"]
        ready = {name: values[:20] for name, values in done["test"].features.items()}
        np.testing.assert_allclose(whole, model.predict_transformed(ready)["probabilities"], atol=1e-6)

    def test_training_goes_on_from_a_saved_model(self, tmp_path: Path) -> None:
        first = torch_trainer.train(fresh(tmp_path, "a"), train=blobs(), layers=DENSE, epochs=15, batch=16, alpha=0.01)
        saved = str(first["model"].relative_to(tmp_path))
        for layers in (DENSE, []):
            context = fresh(tmp_path, f"b{len(layers)}")
            second = torch_trainer.train(context, train=blobs(), layers=layers, model_path=saved, epochs=1, batch=16)
            assert second["history"][0]["loss"] < first["history"][0]["loss"] / 2
            assert any("Going on from" in text for text in context.lines)

    def test_a_saved_model_that_does_not_fit_is_told(self, tmp_path: Path) -> None:
        first = torch_trainer.train(fresh(tmp_path, "a"), train=blobs(), layers=DENSE, epochs=1)
        saved = str(first["model"].relative_to(tmp_path))
        other = [{"type": "fully_connected", "units": 9}, DENSE[-1]]
        with pytest.raises(DataError, match="saved weights do not fit the layers"):
            torch_trainer.train(fresh(tmp_path, "b"), train=blobs(), layers=other, model_path=saved)
        data = Dataset({"x": np.zeros((9, 2)), "y": np.arange(9) % 3}, "y", (0, 1, 2))
        with pytest.raises(DataError, match="classes are ash, birch, cedar, the data's are 0, 1, 2"):
            torch_trainer.train(fresh(tmp_path, "c"), train=data, model_path=saved)
        with pytest.raises(DataError, match="no such model folder"):
            torch_trainer.train(fresh(tmp_path, "d"), train=blobs(), model_path="nowhere")

    def test_wrong_final_units_name_the_right_ones(self, context: RecordedContext) -> None:
        with pytest.raises(DataError, match="3 units"):
            torch_trainer.train(context, train=blobs(), layers=[{"type": "fully_connected", "units": 4}])

    def test_a_diverging_training_is_told(self, context: RecordedContext) -> None:
        data = Dataset({"x": np.linspace(-1e6, 1e6, 50), "y": np.linspace(0, 1e6, 50)}, "y")
        with pytest.raises(StepError, match="diverged") as told:
            torch_trainer.train(context, train=data, layers=ONE[1:], epochs=30, alpha=10.0, optimizer="sgd",
                                prediction_type="regression")  # fmt: skip
        assert "alpha" in (told.value.remedy or "")

    @pytest.mark.parametrize(
        ("data", "more", "match"),
        [
            (line(), {}, "classes are integers"),
            (blobs(), {"prediction_type": "regression"}, "regression needs one number a row"),
            (blobs(), {"loss": "mse"}, "loss mse does not fit classification"),
            (line(), {"loss": "cross_entropy", "prediction_type": "regression"}, "does not fit regression"),
            (blobs(), {"device": "cuda:99"}, "device cuda:99 is not there"),
            (
                Dataset({"x": np.array([1.0, np.nan, 2.0]), "y": np.array([0, 1, 2])}, "y", (0, 1, 2)),
                {},
                "missing or inf",
            ),
            (Dataset({"x": np.zeros(3), "y": np.zeros(3, int)}, "y", (0,)), {}, "nothing to learn"),
            (Dataset({"x": np.zeros(0), "y": np.zeros(0, int)}, "y", (0, 1, 2)), {}, "no rows to train on"),
            (Dataset({"y": np.arange(3)}, "y", (0, 1, 2)), {}, "no column to learn from"),
            (Dataset({"x": np.array(["a", "b"]), "y": np.arange(2)}, "y", (0, 1, 2)), {}, "text"),
            (Dataset({"x": np.zeros(3)}), {}, "no target"),
        ],
    )
    def test_what_does_not_fit_is_one_clear_error(
        self, context: RecordedContext, data: Dataset, more: dict[str, Any], match: str
    ) -> None:
        with pytest.raises(DataError, match=match) as told:
            torch_trainer.train(context, train=data, layers=DENSE, epochs=1, **more)
        assert told.value.remedy or told.value.where

    def test_batch_norm_meets_no_batch_of_one_row(self, context: RecordedContext) -> None:
        layers = [DENSE[0], {"type": "batch_norm"}, DENSE[1]]
        torch_trainer.train(context, train=blobs(33), layers=layers, epochs=1, batch=16)
        with pytest.raises(DataError, match="batches of one row"):
            torch_trainer.train(context, train=blobs(33), layers=layers, epochs=1, batch=1)

    @pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd", "adadelta", "rmsprop"])
    def test_every_optimizer_lowers_the_loss(self, context: RecordedContext, optimizer: str) -> None:
        alpha = 1.0 if optimizer == "adadelta" else 0.01
        history = torch_trainer.train(
            context, train=blobs(), layers=DENSE, epochs=8, batch=16, alpha=alpha, optimizer=optimizer
        )["history"]
        assert history[-1]["loss"] < history[0]["loss"]


class TestDevice:
    @pytest.mark.parametrize(
        ("asked", "cuda", "mps", "expected"),
        [
            ("auto", 0, False, "cpu"), ("auto", 2, True, "cuda:0"), ("auto", 0, True, "mps"), ("cpu", 2, True, "cpu"),
            ("cuda", 1, False, "cuda:0"), ("cuda:1", 2, False, "cuda:1"), ("mps", 0, True, "mps"),
        ],
    )  # fmt: skip
    def test_the_device_asked_for_or_the_best_there_is(self, asked: str, cuda: int, mps: bool, expected: str) -> None:
        device, why = choose_device(asked, cuda=cuda, mps=mps)
        assert device == expected
        assert why

    @pytest.mark.parametrize(("asked", "cuda"), [("cuda", 0), ("cuda:2", 2), ("mps", 3)])
    def test_a_device_that_is_not_there_is_refused(self, asked: str, cuda: int) -> None:
        with pytest.raises(DataError, match="is not there") as told:
            choose_device(asked, cuda=cuda, mps=False)
        assert "auto" in (told.value.remedy or "")


class TestSklearn:
    def test_a_forest_learns_text_classes_and_repeats(self, tmp_path: Path) -> None:
        digests = set()
        for name in ("a", "b"):
            context = fresh(tmp_path, name)
            context.cores = 1 if name == "a" else 2
            result = sklearn_trainer.train(
                context,
                train=blobs(),
                estimator="sklearn.ensemble.RandomForestClassifier",
                arguments={"n_estimators": 9},
            )
            digests.add(hashlib.sha256((result["model"] / "model.skops").read_bytes()).hexdigest())
            assert evaluate(context, model=result["model"], test=blobs(seed=1))["metrics"]["accuracy"] > 0.95
        assert len(digests) == 1

    def test_an_estimator_without_probabilities_gives_labels(self, context: RecordedContext) -> None:
        result = sklearn_trainer.train(context, train=blobs(), estimator="sklearn.svm.LinearSVC")
        assert evaluate(context, model=result["model"], test=blobs(seed=1))["metrics"]["accuracy"] > 0.9
        with pytest.raises(DataError, match="gives no probabilities"):
            evaluate(context, model=result["model"], test=blobs(seed=1), metric="log_loss")

    def test_a_class_that_training_lacks_keeps_its_place(self, context: RecordedContext) -> None:
        data = blobs()
        known = data.labels != "birch"
        part = Dataset({name: values[known] for name, values in data.columns.items()}, "tree", data.classes)
        result = sklearn_trainer.train(context, train=part, estimator="sklearn.linear_model.LogisticRegression")
        answer = load_model(result["model"]).predict_transformed(data.features)
        assert set(answer["label"]) <= {"ash", "cedar"}
        assert answer["probabilities"].shape == (240, 3)

    def test_a_regression_learns(self, context: RecordedContext) -> None:
        result = sklearn_trainer.train(
            context, train=line(), estimator="sklearn.linear_model.LinearRegression", prediction_type="regression"
        )
        told = evaluate(context, model=result["model"], test=line(30), metric="r2", prediction_type="regression")
        assert told["metrics"]["r2"] > 0.999

    def test_a_loss_that_the_estimator_keeps_is_its_history(self, context: RecordedContext) -> None:
        result = sklearn_trainer.train(
            context, train=blobs(), estimator="sklearn.neural_network.MLPClassifier", arguments={"max_iter": 5}
        )
        assert [each["epoch"] for each in result["history"]] == [1, 2, 3, 4, 5]
        assert any(text.startswith("Warning: ") for text in context.lines)

    @pytest.mark.parametrize(
        ("estimator", "arguments", "match"),
        [
            ("sklearn.ensemble.RandomForestClasifier", {}, "Did you mean 'sklearn.ensemble.RandomForestClassifier'"),
            ("os.system", {}, "no classifier or regressor 'os.system'"),
            ("sklearn.base.clone", {}, "no classifier or regressor"),
            ("sklearn.preprocessing.StandardScaler", {}, "no classifier or regressor"),
            ("sklearn.svm.SVR", {}, "SVR is a regressor, and the pipeline's prediction type is classification"),
            ("sklearn.svm.SVC", {"kernal": "rbf"}, "Did you mean 'kernel'"),
            ("sklearn.svm.SVC", {"C": -1}, "'C' parameter of SVC must be"),
            ("sklearn.ensemble.StackingClassifier", {}, "can't be made: .*estimators"),
        ],
    )
    def test_what_scikit_learn_has_not_is_told(
        self, context: RecordedContext, estimator: str, arguments: dict[str, Any], match: str
    ) -> None:
        with pytest.raises(DataError, match=match):
            sklearn_trainer.train(context, train=blobs(), estimator=estimator, arguments=arguments)

    def test_a_missing_value_is_told_with_its_remedy(self, context: RecordedContext) -> None:
        data = Dataset({"x": np.array([1.0, np.nan, 2.0, 3.0]), "y": np.array([0, 1, 0, 1])}, "y", (0, 1))
        with pytest.raises(DataError, match="NaN") as told:
            sklearn_trainer.train(context, train=data, estimator="sklearn.svm.SVC")
        assert "impute" in (told.value.remedy or "")


class TestEvaluator:
    @pytest.fixture
    def model(self, context: RecordedContext) -> Path:
        return sklearn_trainer.train(context, train=blobs(), estimator="sklearn.naive_bayes.GaussianNB")["model"]

    def test_evidence_holds_what_was_measured(self, context: RecordedContext, model: Path) -> None:
        test = blobs(seed=1)
        told = evaluate(context, model=model, test=test, history=[{"epoch": 1, "loss": 0.5}], minimum={"accuracy": 0.5})
        names = {path.name for path in told["evidence"].iterdir()}
        assert names == {
            "metrics.json", "confusion_matrix.json", "confusion_matrix.svg", "confusion_matrix.png", "history.json",
            "loss_curve.svg", "loss_curve.png",
        }  # fmt: skip
        matrix = json.loads((told["evidence"] / "confusion_matrix.json").read_text())
        assert matrix["classes"] == ["ash", "birch", "cedar"]
        assert sum(map(sum, matrix["rows_true_columns_predicted"])) == len(test)
        content = json.loads((told["evidence"] / "metrics.json").read_text())
        assert content["metrics"] == told["metrics"]
        assert content["minimum"] == {"accuracy": 0.5}

    def test_a_missed_minimum_names_metric_value_and_minimum_and_carries_the_evidence(
        self, context: RecordedContext, model: Path
    ) -> None:
        with pytest.raises(MinimumNotMetError, match=r"Accuracy is 0\.\d+, and at least 0\.9999 is asked for") as told:
            evaluate(context, model=model, test=blobs(2000, seed=1), minimum={"accuracy": 0.9999, "log_loss": 5.0})
        assert set(told.value.outputs["metrics"]) == {"accuracy", "log_loss"}
        assert (told.value.outputs["evidence"] / "confusion_matrix.json").exists()
        assert any("NOT MET" in text for text in context.lines)
        assert any(text.startswith("log_loss") and "at most 5: met" in text for text in context.lines)

    def test_of_a_loss_the_minimum_is_the_most(self, context: RecordedContext, model: Path) -> None:
        with pytest.raises(MinimumNotMetError, match=r"Log_loss is .* and at most 1e-09"):
            evaluate(context, model=model, test=blobs(seed=1), minimum={"log_loss": 1e-9})

    def test_a_class_that_the_model_does_not_know_is_told(self, context: RecordedContext, model: Path) -> None:
        columns = {**blobs(5).columns, "tree": np.array(["oak"] * 5)}
        with pytest.raises(DataError, match="label oak is none of the model's 3 classes"):
            evaluate(context, model=model, test=Dataset(columns, "tree", ("oak",)))

    @pytest.mark.parametrize(
        ("more", "match"),
        [
            ({"metric": "rmse"}, "classification has no metric 'rmse'"),
            ({"metrics": ["acuracy"]}, "Did you mean 'accuracy'"),
        ],
    )
    def test_a_metric_of_another_kind_is_told(
        self, context: RecordedContext, model: Path, more: dict[str, Any], match: str
    ) -> None:
        with pytest.raises(DataError, match=match):
            evaluate(context, model=model, test=blobs(), **more)

    def test_no_rows_are_told(self, context: RecordedContext, model: Path) -> None:
        with pytest.raises(DataError, match="no rows to evaluate on"):
            evaluate(context, model=model, test=blobs(0))

    def test_without_matplotlib_the_numbers_are_the_evidence(
        self, context: RecordedContext, model: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(plots, "AVAILABLE", False)
        told = evaluate(context, model=model, test=blobs(), history=[{"epoch": 1, "loss": 0.5}])
        names = {path.name for path in told["evidence"].iterdir()}
        assert names == {"metrics.json", "confusion_matrix.json", "history.json"}
        assert any("modelyard[plots]" in text for text in context.lines)


class TestTransform:
    def test_it_learns_from_the_training_part_alone(self, context: RecordedContext) -> None:
        train, test = blobs(), blobs(seed=1)
        shifted = Dataset({**test.columns, "height": test.columns["height"] + 1000}, "tree", test.classes)
        first = transform(context, train=train, test=test, operations=[{"type": "standardize"}])
        other = RecordedContext(context.project, context.workdir / "other")
        other.workdir.mkdir()
        second = transform(other, train=train, test=shifted, operations=[{"type": "standardize"}])
        for name, values in first["train"].columns.items():
            np.testing.assert_array_equal(values, second["train"].columns[name])
        assert (first["transform"] / "transform.json").read_bytes() == (
            second["transform"] / "transform.json"
        ).read_bytes()

    def test_target_and_classes_pass_unchanged(self, context: RecordedContext) -> None:
        done = transform(context, train=blobs(), test=blobs(seed=1), operations=[{"type": "standardize"}])
        assert done["test"].classes == ("ash", "birch", "cedar")
        np.testing.assert_array_equal(done["test"].labels, blobs(seed=1).labels)

    def test_a_second_transform_holds_the_first(self, context: RecordedContext, tmp_path: Path) -> None:
        one = transform(context, train=blobs(), test=blobs(seed=1), operations=[{"type": "standardize"}])
        stack = [{"type": "stack", "columns": ["height", "width"], "into": "size"}]
        two = transform(
            fresh(tmp_path, "two"), train=one["train"], test=one["test"], operations=stack, transform=one["transform"]
        )
        whole = TransformChain.load(two["transform"]).apply(blobs(seed=1).features)
        np.testing.assert_array_equal(whole["size"], two["test"].columns["size"])
