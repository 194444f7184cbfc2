"""The step kind `trainer`, implementation `sklearn`: train any classifier or regressor of scikit-learn by its name."""

from __future__ import annotations

import importlib
import inspect
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelyard.contracts import Context
from modelyard.data import Dataset, schema_of
from modelyard.errors import DataError, MissingExtraError
from modelyard.packages.assemble import assemble
from modelyard.packages.model import save_model
from modelyard.packages.transform import TransformChain
from modelyard.steps.hints import nearest
from modelyard.steps.targets import class_positions, regression_values

try:
    import sklearn
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin, is_classifier
    from sklearn.utils import all_estimators
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # it has no type hints
except ImportError as error:
    raise MissingExtraError(
        f"Training an estimator needs scikit-learn: {error}.",
        remedy="Install it with `pip install 'modelyard[sklearn]'`.",
    ) from error

__all__ = ["train"]


_FLAVOURS = {"skops": "sklearn", "pickle": "pickle"}


def train(
    context: Context,
    *,
    train: Dataset,
    transform: Path | None = None,
    estimator: str,
    arguments: Mapping[str, Any] | None = None,
    format: str = "skops",  # noqa: A002  (the blueprint's word)
    threads: int | None = None,
    seed: int = 0,
    prediction_type: str = "classification",
    **_: Any,
) -> dict[str, Any]:
    """Fit an estimator, and save it with its transform.

    Args:
        context: Of the task.
        train: The training part; its columns are flattened and joined into one vector a row.
        transform: Folder of the transforms that made it from raw data; packed with the model.
        estimator: Name under `sklearn.`, such as `sklearn.ensemble.RandomForestClassifier`.
        arguments: Of its constructor.
        format: `skops`; or `pickle`, for what skops and ONNX can't keep: it is refused by default everywhere.
        threads: CPU threads. None: the step's cores, or all that the process may use.
        seed: Its `random_state`, where it has one and `arguments` do not give it.
        prediction_type: `classification` or `regression`.

    Returns:
        `model`: the saved model's folder. `history`: the loss of each iteration, where the estimator tells it.

    Raises:
        DataError: The estimator or an argument does not exist, or does not fit the data.
    """
    chain = None if transform is None else TransformChain.load(transform)
    fields = schema_of(train.features)
    model = _estimator(estimator, arguments or {}, seed, prediction_type)
    inputs = assemble(fields, train.features, flat=True)
    targets, classes = _targets(model, train, prediction_type)
    used = threads or _cores(context)
    context.log(f"scikit-learn {sklearn.__version__}, {used} CPU threads, seed {seed}: {model}".replace("\n", ""))
    context.log(f"{len(inputs):,} rows of {inputs.shape[1]:,} numbers")
    with _side_by_side(model, used), threadpool_limits(limits=used):
        _fit(context, model, inputs, targets)
    history = []
    for epoch, loss in enumerate(_losses(model), start=1):
        context.metric("loss", loss, epoch)
        history.append({"epoch": epoch, "loss": loss})
    folder = context.workdir / "model"
    info = save_model(
        folder, flavour=_FLAVOURS[format], model=model, inputs=fields, prediction_type=prediction_type, classes=classes,
        transform=chain,
    )  # fmt: skip
    if info.onnx_missing:
        context.log(f"The model has no ONNX form, and needs scikit-learn where it is served: {info.onnx_missing}")
    return {"model": folder, "history": history}


def _estimator(name: str, arguments: Mapping[str, Any], seed: int, prediction_type: str) -> Any:
    found = _find(name)
    if found is None:
        public = _public_names()
        raise DataError(
            f"scikit-learn has no classifier or regressor {name!r}.", where="estimator", remedy=nearest(name, public)
        )
    known = inspect.signature(found).parameters
    for argument in arguments:
        if argument not in known:
            raise DataError(
                f"{found.__name__} has no argument {argument!r}.",
                where=f"arguments.{argument}",
                remedy=nearest(argument, known),
            )
    given = dict(arguments)
    if "random_state" in known:
        given.setdefault("random_state", seed)
    try:
        model = found(**given)
    except TypeError as error:
        raise DataError(
            f"{found.__name__} can't be made: {error}.",
            where="arguments",
            remedy="Give the argument that it asks for, or choose an estimator that needs no other one.",
        ) from error
    if (prediction_type == "classification") != is_classifier(model):
        kind = "classifier" if is_classifier(model) else "regressor"
        raise DataError(
            f"{found.__name__} is a {kind}, and the pipeline's prediction type is {prediction_type}.",
            where="estimator",
            remedy=f"Choose a {'regressor' if kind == 'classifier' else 'classifier'}, or change `prediction_type`.",
        )
    return model


def _find(name: str) -> type[Any] | None:
    module, _, last = name.rpartition(".")
    # Only scikit-learn's own: a blueprint must not be able to import and call whatever is installed.
    if module.split(".")[0] != "sklearn" or not all(part.isidentifier() for part in name.split(".")):
        return None
    try:
        found = getattr(importlib.import_module(module), last, None)
    except ImportError:
        return None
    if not (inspect.isclass(found) and issubclass(found, BaseEstimator) and not inspect.isabstract(found)):
        return None
    return found if issubclass(found, ClassifierMixin | RegressorMixin) else None


def _public_names() -> list[str]:
    names = []
    for name, found in all_estimators(type_filter=["classifier", "regressor"]):
        public = [part for part in found.__module__.split(".") if not part.startswith("_")]
        names.append(".".join([*public, name]))
    return names


def _targets(model: Any, train: Dataset, prediction_type: str) -> tuple[NDArray[Any], tuple[Any, ...] | None]:
    if prediction_type == "regression":
        return regression_values(train), None
    positions, classes = class_positions(train)
    # An estimator with probabilities is asked for those alone; one without gives the label itself.
    return (positions if hasattr(model, "predict_proba") else np.asarray(classes)[positions]), classes


def _cores(context: Context) -> int:
    if context.cores is not None:
        return max(1, int(context.cores))
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _side_by_side(model: Any, threads: int) -> Iterator[None]:
    """Let an ensemble train its members side by side, and forget how many: they must not change the model's digest."""
    parallel = type(model).__module__.startswith("sklearn.ensemble.") and model.get_params().get("n_jobs", 1) is None
    if parallel:
        model.set_params(n_jobs=threads)
    try:
        yield
    finally:
        if parallel:
            model.set_params(n_jobs=None)


def _fit(context: Context, model: Any, inputs: NDArray[Any], targets: NDArray[Any]) -> None:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            model.fit(inputs, targets)
        except (ValueError, TypeError) as error:
            text = " ".join(str(error).split()).rstrip(".")
            remedy = "Correct `arguments`."
            if "NaN" in text or "infinity" in text:
                text = text.split(" does not accept missing values")[0]
                remedy = "Fill missing values by a transform of type impute."
            raise DataError(
                f"{type(model).__name__} can't learn: {text}.", where="input train", remedy=remedy
            ) from error
    for line in dict.fromkeys(" ".join(str(each.message).split()) for each in told):
        context.log(f"Warning: {line}")


def _losses(model: Any) -> list[float]:
    """Return the training loss of each iteration: of perceptrons and of gradient boosting."""
    for name in ("loss_curve_", "train_score_"):
        values = getattr(model, name, None)
        if (
            values is not None
            and np.ndim(values) == 1
            and np.all(np.isfinite(values))
            and np.all(np.asarray(values) >= 0)
        ):
            return [float(value) for value in values]
    return []
