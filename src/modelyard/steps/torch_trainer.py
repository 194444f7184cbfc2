"""The step kind `trainer`, implementation `torch`: train a network that the blueprint describes by its layers."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from modelyard.contracts import Context
from modelyard.data import Dataset, Field, schema_of
from modelyard.errors import DataError, MissingExtraError
from modelyard.packages.assemble import assemble, input_shape
from modelyard.packages.model import read_info, save_model
from modelyard.packages.transform import TransformChain
from modelyard.steps.devices import choose_device
from modelyard.steps.splitting import split_rows
from modelyard.steps.targets import class_positions, regression_values

try:
    import torch

    from modelyard.packages.flavours.torch import build_network, load_network
    from modelyard.packages.flavours.torch_layers import Network
    from modelyard.steps.torch_fit import Part, Recipe, fit, repeatable
except ImportError as error:
    raise MissingExtraError(
        f"Training a network needs PyTorch: {error}.", remedy="Install it with `pip install 'modelyard[torch]'`."
    ) from error

__all__ = ["Parameters", "train"]

_CHECKED = 4096
"""Rows whose finiteness is looked at together: the answers for all would be another array of their size."""


class Parameters(msgspec.Struct, frozen=True, kw_only=True):
    """The step's parameters, named as in the blueprint.

    Args:
        layers: The layers as mappings. Empty: those of `model_path`.
        epochs: How often every row is seen.
        batch: Rows between two steps of the optimizer.
        alpha: Learning rate.
        optimizer: `adam`, `adamw`, `sgd`, `adadelta` or `rmsprop`.
        weight_decay: As the optimizer has it.
        loss: None: `cross_entropy` for classification, `mse` for regression.
        validation: Share of the rows held back; the weights of the epoch with the least loss on them are kept.
        patience: Stop after so many epochs without a lower validation loss.
        device: `auto`, `cpu`, `cuda`, `cuda:<number>` or `mps`.
        threads: CPU threads. None: the step's cores, or all that the process may use.
        seed: Of first weights, order of rows, dropout and held back rows; same seed, same model.
        model_path: A saved model folder to go on from, relative to the project.
        prediction_type: `classification` or `regression`.
    """

    layers: tuple[dict[str, Any], ...] = ()
    epochs: int = 10
    batch: int = 64
    alpha: float = 0.001
    optimizer: str = "adam"
    weight_decay: float = 0.0
    loss: str | None = None
    validation: float = 0.0
    patience: int | None = None
    device: str = "auto"
    threads: int | None = None
    seed: int = 0
    model_path: str | None = None
    prediction_type: str = "classification"


def train(context: Context, *, train: Dataset, transform: Path | None = None, **parameters: Any) -> dict[str, Any]:
    """Train a network, and save it with its transform.

    Args:
        context: Of the task.
        train: The training part: one array column, or scalar columns that are taken as one vector.
        transform: Folder of the transforms that made it from raw data; packed with the model.
        parameters: Those of `Parameters`; others, which are for other implementations, are not looked at.

    Returns:
        `model`: the saved model's folder. `history`: one mapping an epoch.

    Raises:
        DataError: Data, target, layers, device or saved model do not fit each other.
        StepError: The loss became infinite or no number.
    """
    asked = msgspec.convert(parameters, Parameters)
    fields = schema_of(train.features)
    chain = None if transform is None else TransformChain.load(transform)
    targets, classes = _targets(train, asked.prediction_type)
    recipe = Recipe(
        epochs=asked.epochs,
        batch=asked.batch,
        alpha=asked.alpha,
        optimizer=asked.optimizer,
        weight_decay=asked.weight_decay,
        loss=_loss(asked.loss, asked.prediction_type),
        patience=asked.patience,
        seed=asked.seed,
    )
    device, why = choose_device(asked.device, cuda=torch.cuda.device_count(), mps=torch.backends.mps.is_available())
    threads = asked.threads or _cores(context)
    context.log(f"PyTorch {torch.__version__} on {device} ({why}), {threads} CPU threads, seed {asked.seed}")
    inputs = _finite(assemble(fields, train.features), fields, train)
    with repeatable(asked.seed, threads, device):
        network = _network(context, asked, input_shape(fields), classes).to(device)
        context.log(f"{sum(weights.numel() for weights in network.parameters()):,} weights, {len(train):,} rows")
        learn, held = _parts(context, inputs, targets, asked, device)
        history = fit(context, network, learn, held, recipe)
        network = network.to("cpu").eval()
        # Inside, because the check of the ONNX file runs the network with the same threads.
        folder = context.workdir / "model"
        save_model(
            folder, flavour="torch", model=network, inputs=fields, prediction_type=asked.prediction_type,
            classes=classes, transform=chain,
        )  # fmt: skip
    return {"model": folder, "history": history}


def _targets(train: Dataset, prediction_type: str) -> tuple[NDArray[Any], tuple[Any, ...] | None]:
    if prediction_type == "classification":
        positions, classes = class_positions(train)
        return positions, classes
    return regression_values(train).astype(np.float32).reshape(-1, 1), None


def _loss(asked: str | None, prediction_type: str) -> str:
    if asked is None:
        return "cross_entropy" if prediction_type == "classification" else "mse"
    if (asked == "cross_entropy") != (prediction_type == "classification"):
        fits = "cross_entropy" if prediction_type == "classification" else "mse, mae or huber"
        raise DataError(f"The loss {asked} does not fit {prediction_type}.", where="loss", remedy=f"Use {fits}.")
    return asked


def _cores(context: Context) -> int:
    if context.cores is not None:
        return max(1, int(context.cores))
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _finite(inputs: NDArray[np.float32], fields: Sequence[Field], train: Dataset) -> NDArray[np.float32]:
    if all(np.isfinite(inputs[start : start + _CHECKED]).all() for start in range(0, len(inputs), _CHECKED)):
        return inputs
    for field in fields:
        wrong = ~np.isfinite(train.columns[field.name].astype(np.float32))
        if wrong.any():
            raise DataError(
                "The value is missing or infinite.",
                where=f"input train, column {field.name!r}, row {int(np.argwhere(wrong)[0][0]) + 1}",
                remedy="Fill it by a transform of type impute.",
            )
    return inputs


def _network(context: Context, asked: Parameters, shape: tuple[int, ...], classes: tuple[Any, ...] | None) -> Network:
    layers, outputs = asked.layers, 1 if classes is None else len(classes)
    if asked.model_path is None:
        return build_network(layers, shape, outputs)
    where = f"model_path: {asked.model_path}"
    folder = context.project / asked.model_path
    if not folder.is_dir():
        raise DataError(
            "There is no such model folder.",
            where=where,
            remedy=f"Relative paths count from the project folder, {context.project}.",
        )
    saved = load_network(folder)
    if read_info(folder).classes != classes:
        raise DataError(
            f"The saved model's classes are {_some(read_info(folder).classes)}, the data's are {_some(classes)}.",
            where=where,
            remedy="Go on from a model of the same classes, or train from `layers` alone.",
        )
    context.log(f"Going on from the weights of {asked.model_path}")
    if not layers:
        if saved.input_shape != shape:
            raise DataError(
                f"The saved model takes rows of the shape {list(saved.input_shape)}, and the data has {list(shape)}.",
                where=where,
                remedy="Go on from a model that was trained on such data, or train from `layers` alone.",
            )
        return saved
    network = build_network(layers, shape, outputs)
    try:
        network.load_state_dict(saved.state_dict())
    except RuntimeError as error:
        first = str(error).split("\n")[1].strip() if "\n" in str(error) else str(error)
        raise DataError(
            f"The saved weights do not fit the layers: {first}",
            where=where,
            remedy="Leave `layers` out to take the saved model's, or make them equal to those.",
        ) from error
    return network


def _some(classes: tuple[Any, ...] | None) -> str:
    if classes is None:
        return "none (regression)"
    return ", ".join(map(str, classes[:10])) + (" …" if len(classes) > 10 else "")


def _parts(
    context: Context, inputs: NDArray[np.float32], targets: NDArray[Any], asked: Parameters, device: str
) -> tuple[Part, Part | None]:
    place = device if _fits(inputs, device) else "cpu"
    if place != device:
        context.log(f"The rows stay in main memory: {inputs.nbytes:,} bytes are too many for {device}")
    if not asked.validation:
        return _part(inputs, targets, place), None
    learn, held = split_rows(targets.reshape(-1), asked.validation, asked.seed, stratify=True)
    context.log(f"{len(held):,} rows are held back for validation")
    return _part(inputs, targets, place, learn), _part(inputs, targets, place, held)


def _part(inputs: NDArray[np.float32], targets: NDArray[Any], place: str, rows: NDArray[Any] | None = None) -> Part:
    """Copy some rows, or all: the arrays are read-only views of the store's files."""
    # By NumPy, which asks for huge pages, and PyTorch does not: gathering batches from pages of 4 KiB takes one to two
    # percent of a small network's epoch.
    own = (np.array(one, order="C") if rows is None else np.take(one, rows, axis=0) for one in (inputs, targets))
    return Part(*(torch.from_numpy(one).to(place) for one in own))


def _fits(inputs: NDArray[np.float32], device: str) -> bool:
    if not device.startswith("cuda"):
        return True
    free, _ = torch.cuda.mem_get_info(device)
    return bool(inputs.nbytes < free / 2)
