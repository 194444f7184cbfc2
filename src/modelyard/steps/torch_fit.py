"""The training loop: as plain as a script, with nothing between PyTorch and the data."""

from __future__ import annotations

import copy
import inspect
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from modelyard.contracts import Context
from modelyard.errors import DataError, StepError

__all__ = ["LOSSES", "Part", "Recipe", "fit", "repeatable"]

_Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

LOSSES: Mapping[str, _Loss] = {
    "cross_entropy": functional.cross_entropy,
    "mse": functional.mse_loss,
    "mae": functional.l1_loss,
    "huber": functional.huber_loss,
}
"""Loss functions, by the blueprint's name; each gives the mean over a batch."""

_OPTIMIZERS: Mapping[str, type[torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": torch.optim.SGD,
    "adadelta": torch.optim.Adadelta,
    "rmsprop": torch.optim.RMSprop,
}
_FUSED = frozenset({"adam", "adamw", "sgd"})
_CHUNK = 4096
_TELL_EVERY = 0.25


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to train; the fields are the blueprint's."""

    epochs: int
    batch: int
    alpha: float
    optimizer: str
    weight_decay: float
    loss: str
    patience: int | None
    seed: int


@dataclass(frozen=True, slots=True)
class Part:
    """Rows on the device.

    Args:
        inputs: float32, rows first.
        targets: int64 [n] positions of classes, or float32 [n, 1].
    """

    inputs: torch.Tensor
    targets: torch.Tensor

    def __len__(self) -> int:
        return len(self.targets)


@contextmanager
def repeatable(seed: int, threads: int, device: str) -> Iterator[None]:
    """Seed PyTorch, ask it for repeatable algorithms and so many CPU threads; put everything back afterwards.

    The same seed, threads, device and PyTorch give the same bits; another number of threads adds in another order.
    """
    if device.startswith("cuda"):
        # cuBLAS reads it when the first kernel starts, and repeats its results only with a fixed workspace.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.get_num_threads(), torch.get_deterministic_debug_mode()
    switches: Any = torch.utils.deterministic
    filled = switches.fill_uninitialized_memory
    with torch.random.fork_rng():
        try:
            torch.set_num_threads(threads)
            # As torch.use_deterministic_algorithms does, which would also load PyTorch's compiler: another second.
            torch.set_deterministic_debug_mode("warn")
            # It would fill every new tensor with NaN, to catch kernels that read what they have not written.
            switches.fill_uninitialized_memory = False
            torch.manual_seed(seed)
            yield
        finally:
            torch.set_num_threads(before[0])
            torch.set_deterministic_debug_mode(before[1])
            switches.fill_uninitialized_memory = filled


def fit(context: Context, network: nn.Module, train: Part, held: Part | None, recipe: Recipe) -> list[dict[str, Any]]:
    """Train a network in place; the weights of the best validation loss are kept where rows are held back.

    Args:
        context: Is told of each epoch's losses and of progress.
        network: On the same device as the data.
        train: Rows to learn from.
        held: Rows held back for validation, or None.
        recipe: How to train.

    Returns:
        One mapping an epoch: `epoch`, `loss`, and with held rows `validation_loss` and for classes
        `validation_accuracy`. No times: equal training gives an equal history.

    Raises:
        StepError: The loss is no finite number any more.
    """
    sizes = _batch_sizes(network, len(train), recipe.batch)
    optimizer = _optimizer(network, recipe)
    generator = torch.Generator().manual_seed(recipe.seed)
    history: list[dict[str, Any]] = []
    best: tuple[float, int, dict[str, Any]] | None = None
    started = time.monotonic()
    for epoch in range(1, recipe.epochs + 1):
        order = torch.randperm(len(train), generator=generator)
        loss = _epoch(context, network, train, order, sizes, optimizer, recipe, epoch)
        told: dict[str, Any] = {"epoch": epoch, "loss": loss}
        if held is not None:
            told |= _validate(network, held, recipe)
        history.append(told)
        _tell(context, told, recipe.epochs)
        _check(told)
        if held is not None:
            if best is None or told["validation_loss"] < best[0]:
                best = (told["validation_loss"], epoch, copy.deepcopy(network.state_dict()))
            elif recipe.patience is not None and epoch - best[1] >= recipe.patience:
                context.log(f"Stopped: no better validation loss for {recipe.patience} epochs")
                break
    rate = len(history) * len(train) / max(time.monotonic() - started, 1e-9)
    context.log(f"{len(history)} epochs, {rate:,.0f} rows a second")
    if best is not None:
        network.load_state_dict(best[2])
        context.log(f"Kept the weights of epoch {best[1]}, validation loss {best[0]:.6g}")
    return history


def _batch_sizes(network: nn.Module, rows: int, batch: int) -> list[int]:
    sizes = [batch] * (rows // batch) + ([rows % batch] if rows % batch else [])
    if any(isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) for module in network.modules()):
        # A batch of one row has no deviation to normalize by.
        if len(sizes) > 1 and sizes[-1] == 1:
            sizes[-2:] = [sizes[-2] + 1]
        if 1 in sizes:
            raise DataError(
                "batch_norm can't learn from batches of one row.",
                where="batch",
                remedy="Give a larger `batch`, or more data.",
            )
    return sizes


def _optimizer(network: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    parameters = list(network.parameters())
    if not parameters:
        raise DataError("The layers have nothing to learn.", where="layers", remedy="Add a fully_connected layer.")
    options: dict[str, Any] = {"lr": recipe.alpha, "weight_decay": recipe.weight_decay}
    if recipe.optimizer in _FUSED and parameters[0].device.type in ("cpu", "cuda"):
        options["fused"] = True
    return _without_compiler(_OPTIMIZERS[recipe.optimizer])(parameters, **options)


def _without_compiler(kind: type[torch.optim.Optimizer]) -> type[torch.optim.Optimizer]:
    """Return an optimizer that does the same and leaves PyTorch's compiler alone.

    PyTorch wraps these methods to tell `torch.compile` about them, and for that loads the compiler when the first of
    them is called, which takes a second. What is wrapped is the same code; a step must not be recorded for gradients.
    """
    methods: dict[str, Any] = {
        name: inspect.unwrap(getattr(kind, name)) for name in ("add_param_group", "zero_grad", "step")
    }
    return type(kind.__name__, (kind,), methods | {"step": torch.no_grad()(methods["step"])})


def _epoch(
    context: Context,
    network: nn.Module,
    train: Part,
    order: torch.Tensor,
    sizes: list[int],
    optimizer: torch.optim.Optimizer,
    recipe: Recipe,
    epoch: int,
) -> float:
    criterion = LOSSES[recipe.loss]
    inputs, targets = train.inputs, train.targets
    device = next(network.parameters()).device
    order = order.to(inputs.device)
    total = torch.zeros((), device=device)
    rows, done = len(order), 0
    elsewhere = inputs.device != device
    tell_next = time.monotonic() + _TELL_EVERY
    network.train()
    for chosen, size in zip(torch.split(order, sizes), sizes, strict=True):
        values, wanted = inputs[chosen], targets[chosen]
        if elsewhere:
            values, wanted = values.to(device), wanted.to(device)
        optimizer.zero_grad(set_to_none=True)
        loss = criterion(network(values), wanted)
        loss.backward()  # type: ignore[no-untyped-call]  # PyTorch has no type hints for it
        optimizer.step()
        # Summed on the device: asking for the number would make the processor wait for it after each batch.
        total += loss.detach() * size
        done += size
        now = time.monotonic()
        if now >= tell_next:
            tell_next = now + _TELL_EVERY
            context.progress(epoch - 1 + done / rows, recipe.epochs, "epochs")
    return float(total) / rows


def _validate(network: nn.Module, held: Part, recipe: Recipe) -> dict[str, float]:
    device = next(network.parameters()).device
    total, right = 0.0, 0
    network.eval()
    with torch.no_grad():
        for start in range(0, len(held), _CHUNK):
            wanted = held.targets[start : start + _CHUNK].to(device)
            scores = network(held.inputs[start : start + _CHUNK].to(device))
            total += float(LOSSES[recipe.loss](scores, wanted)) * len(wanted)
            if recipe.loss == "cross_entropy":
                right += int((scores.argmax(dim=1) == wanted).sum())
    told = {"validation_loss": total / len(held)}
    if recipe.loss == "cross_entropy":
        told["validation_accuracy"] = right / len(held)
    return told


def _tell(context: Context, told: Mapping[str, Any], epochs: int) -> None:
    numbers = {name: value for name, value in told.items() if name != "epoch"}
    for name, value in numbers.items():
        context.metric(name, value, told["epoch"])
    context.progress(told["epoch"], epochs, "epochs")
    context.log(
        f"epoch {told['epoch']} of {epochs}: "
        + ", ".join(f"{name.replace('_', ' ')} {value:.6g}" for name, value in numbers.items())
    )


def _check(told: Mapping[str, Any]) -> None:
    for name in ("loss", "validation_loss"):
        if not math.isfinite(told.get(name, 0.0)):
            raise StepError(
                f"The {name.replace('_', ' ')} became {told[name]} in epoch {told['epoch']}: the training diverged.",
                where="alpha",
                remedy="Lower `alpha` (ten times, to begin with), or scale or standardize the columns in a transform.",
            )
