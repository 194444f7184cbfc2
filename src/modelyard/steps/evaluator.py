"""The step kind `evaluator`: measure a model on the test part, keep the evidence, hold it to the minimum."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from modelyard.contracts import Context
from modelyard.data import Dataset
from modelyard.errors import DataError, MinimumNotMetError, StepError
from modelyard.files import write_atomically
from modelyard.packages.golden import ANSWERS, OUTPUTS, SAMPLES, sample_texts
from modelyard.packages.model import Model, load_model, read_info
from modelyard.packages.pickles import pickle_digest
from modelyard.steps import metrics as measures
from modelyard.steps import plots
from modelyard.steps.hints import nearest

__all__ = ["evaluate"]

_BATCH = 2048


def evaluate(
    context: Context,
    *,
    model: Path,
    test: Dataset,
    history: Sequence[Mapping[str, Any]] | None = None,
    metric: str | None = None,
    metrics: Sequence[str] = (),
    minimum: Mapping[str, float] | None = None,
    allow_pickle: str | None = None,
    prediction_type: str = "classification",
    **_: Any,
) -> dict[str, Any]:
    """Predict the test part, compute the metrics, write evidence, and fail where a minimum is not met.

    Args:
        context: Of the task.
        model: A saved model's folder.
        test: The test part, transformed as the training part was.
        history: What the trainer told by epoch; drawn as a loss curve.
        metric: The one that matters. None: `accuracy`, for regression `mean_relative_error`.
        metrics: Further ones.
        minimum: Metric to the value it must reach; for errors and losses it is the most it may be.
        allow_pickle: `own`: the model may be a pickle, as a step of this run has written it. None: it may not.
        prediction_type: `classification` or `regression`.

    Returns:
        `metrics`: name to value, the one that matters first. `evidence`: a folder with `metrics.json`, for
        classification `confusion_matrix.json`, with a history `history.json`, of a pickled model `answers.json`, and
        where matplotlib is installed each picture as SVG and PNG.

    Raises:
        DataError: The test part has no rows, no target, or a class that the model does not know.
        MinimumNotMetError: It names metric, value and minimum, and carries the outputs.
        RefusedError: The model is a pickle, and `allow_pickle` does not say `own`.
    """
    classification = prediction_type == "classification"
    bounds = dict(minimum or {})
    first = metric or ("accuracy" if classification else "mean_relative_error")
    names = list(dict.fromkeys((first, *metrics, *bounds)))
    _check_known(names, prediction_type)
    if len(test) == 0:
        raise DataError("There are no rows to evaluate on.", where="test", remedy="Give the test part some rows.")
    folder = context.workdir / "evidence"
    loaded = _loaded(model, allow_pickle)
    values = (_measure_classes if classification else _measure_values)(context, loaded, test, names, folder)
    content = {
        "prediction_type": prediction_type, "rows": len(test), "metric": first, "metrics": values, "minimum": bounds,
    }  # fmt: skip
    _write(folder / "metrics.json", content)
    if loaded.info.is_pickled:
        first_rows = {name: column[:SAMPLES] for name, column in test.features.items()}
        write_atomically(folder / ANSWERS, sample_texts({}, loaded.predict_transformed(first_rows))[OUTPUTS])
    if history:
        _keep_history(history, folder)
    if not plots.AVAILABLE:
        context.log("matplotlib is not installed: the evidence has no pictures. `pip install 'modelyard[plots]'`")
    outputs = {"metrics": values, "evidence": folder}
    _check(context, values, bounds, outputs)
    return outputs


def _check_known(names: Sequence[str], prediction_type: str) -> None:
    known = measures.CLASSIFICATION if prediction_type == "classification" else tuple(measures.REGRESSION)
    for name in names:
        if name not in known:
            raise DataError(f"{prediction_type} has no metric {name!r}.", where="metrics", remedy=nearest(name, known))


def _keep_history(history: Sequence[Mapping[str, Any]], folder: Path) -> None:
    _write(folder / "history.json", list(history))
    if plots.AVAILABLE and all(each.get("loss") is not None for each in history):
        plots.draw_loss_curve(history, folder / "loss_curve")


def _loaded(folder: Path, allow_pickle: str | None) -> Model:
    pickled = allow_pickle == "own" and read_info(folder).is_pickled
    return load_model(folder, runtime="auto", trusted_pickle=pickle_digest(folder) if pickled else None)


def _measure_classes(
    context: Context, model: Model, test: Dataset, names: Sequence[str], folder: Path
) -> dict[str, float]:
    classes = model.contract.classes
    if classes is None:
        raise DataError("The model knows no classes.", where="model", remedy="Evaluate it as regression.")
    answer = _predicted(context, model, test, ("label", *(["probabilities"] if "log_loss" in names else [])))
    matrix = measures.confusion_matrix(test.labels, answer["label"], classes)
    values: dict[str, float] = {}
    for name in names:
        if name == "log_loss":
            values[name] = measures.log_loss(test.labels, answer["probabilities"], classes)
        else:
            values[name] = {"accuracy": measures.accuracy, "f1_macro": measures.f1_macro}[name](matrix)
    _write(folder / "confusion_matrix.json", {"classes": list(classes), "rows_true_columns_predicted": matrix.tolist()})
    if plots.AVAILABLE:
        plots.draw_confusion_matrix(matrix, classes, folder / "confusion_matrix")
    return values


def _measure_values(
    context: Context, model: Model, test: Dataset, names: Sequence[str], folder: Path
) -> dict[str, float]:
    if test.labels.dtype.kind not in "biuf":
        raise DataError(
            f"The target {test.target!r} is text, and regression predicts numbers.",
            where="test",
            remedy="Set `prediction_type: classification`, or name another target.",
        )
    answer = _predicted(context, model, test, ("value",))
    true = test.labels.astype(np.float64)
    predicted = answer["value"].astype(np.float64).reshape(true.shape)
    values = {name: measures.REGRESSION[name](true, predicted) for name in names}
    if plots.AVAILABLE:
        folder.mkdir(parents=True, exist_ok=True)
        plots.draw_regression(true.ravel(), predicted.ravel(), str(test.target), folder)
    return values


def _predicted(context: Context, model: Model, test: Dataset, wanted: Sequence[str]) -> dict[str, NDArray[Any]]:
    features, parts = test.features, []
    for start in range(0, len(test), _BATCH):
        answer = model.predict_transformed({name: values[start : start + _BATCH] for name, values in features.items()})
        for name in wanted:
            if name not in answer:
                raise DataError(
                    f"The model gives no {name}.",
                    where="model",
                    remedy="Leave log_loss out of the metrics, or train an estimator that has predict_proba.",
                )
        parts.append({name: np.asarray(answer[name]) for name in wanted})
        context.progress(min(start + _BATCH, len(test)), len(test), "rows")
    joined = {name: np.concatenate([part[name] for part in parts]) for name in wanted}
    for name, values in joined.items():
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            row = int(np.argwhere(~np.isfinite(values))[0][0])
            raise StepError(
                f"The model's {name} is no finite number.",
                where=f"test, row {row + 1}",
                remedy="Impute missing values in a transform, or train with a smaller `alpha`.",
            )
    return joined


def _write(path: Path, value: Any) -> None:
    write_atomically(path, msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n")


def _check(
    context: Context, values: Mapping[str, float], bounds: Mapping[str, float], outputs: Mapping[str, Any]
) -> None:
    """Log every metric beside its bound; raise MinimumNotMetError where one is missed."""
    missed = []
    for name, value in values.items():
        line = f"{name:<20} {value:.6g}"
        if name in bounds:
            at_most = name in measures.LOWER_IS_BETTER
            met = value <= bounds[name] if at_most else value >= bounds[name]
            line += f"   {'at most' if at_most else 'at least'} {bounds[name]:.6g}: {'met' if met else 'NOT MET'}"
            if not met:
                missed.append(f"{name} is {value:.6g}, and {'at most' if at_most else 'at least'} {bounds[name]:.6g} "
                              "is asked for")  # fmt: skip
        context.log(line)
    if missed:
        text = "; ".join(missed)
        raise MinimumNotMetError(
            f"{text[0].upper()}{text[1:]}.",
            where="minimum",
            remedy="Train longer or otherwise, or ask for less.",
            outputs=outputs,
        )
