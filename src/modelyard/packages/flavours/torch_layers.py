"""A blueprint's layers as a PyTorch network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from modelyard.errors import DataError

__all__ = ["AddChannel", "ChannelsFirst", "Network", "Recurrent", "build_network"]

_FINAL = ("softmax", "log_softmax")

_ACTIVATIONS: Mapping[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "softmax": lambda: nn.Softmax(dim=1),
    "log_softmax": lambda: nn.LogSoftmax(dim=1),
}


class AddChannel(nn.Module):
    """Turns images without channels (n, rows, columns) into (n, 1, rows, columns)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Insert a dimension of size one after the batch."""
        return x.unsqueeze(1)


class ChannelsFirst(nn.Module):
    """Turns (n, rows, columns, channels), as image files have it, into (n, channels, rows, columns)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Move the last dimension behind the batch."""
        return x.permute(0, 3, 1, 2)


class Recurrent(nn.Module):
    """An LSTM, GRU or plain recurrent layer over (n, time, features).

    Args:
        cell: `lstm`, `gru` or `rnn` (tanh).
        features: Size of one time step.
        units: Size of the hidden state.
        bidirectional: Read the sequence from both ends; the output is the two directions side by side.
        sequence: Pass on the hidden state of every time step (for a recurrent layer after it), not the last one alone.
    """

    def __init__(self, cell: str, features: int, units: int, bidirectional: bool, sequence: bool) -> None:
        super().__init__()
        kind = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}[cell]
        self.kind = cell
        self.sequence = sequence
        self.cell = kind(features, units, batch_first=True, bidirectional=bidirectional)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (n, time, directions * units) or (n, directions * units)."""
        states, last = self.cell(x)
        if self.sequence:
            return torch.as_tensor(states)
        hidden = last[0] if self.kind == "lstm" else last
        return torch.as_tensor(hidden).transpose(0, 1).flatten(1)


class Network(nn.Module):
    """A network made by `build_network`; it gives logits or regression values, one row of `outputs` numbers each.

    Args:
        layers: The layers as given.
        input_shape: Of one row.
        outputs: Numbers for each row.
        body: The modules, in order.
    """

    def __init__(
        self, layers: Sequence[Mapping[str, Any]], input_shape: tuple[int, ...], outputs: int, body: Sequence[nn.Module]
    ) -> None:
        super().__init__()
        self.layers = [dict(layer) for layer in layers]
        self.input_shape = input_shape
        self.outputs = outputs
        self.body = nn.Sequential(*body)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (n, outputs) for a float32 batch (n, *input_shape)."""
        return torch.as_tensor(self.body(x))


def build_network(layers: Sequence[Mapping[str, Any]], input_shape: Sequence[int], outputs: int) -> Network:
    """Build the network that a blueprint's layers describe, with freshly drawn weights.

    The input size of each layer follows from the one before it. Where a layer needs it, this is put in by itself: a
    channel for images without one, channels moved to the front where the last dimension is 1, 3 or 4 and the first is
    not, a flattening before a fully connected layer, a feature dimension for a recurrent layer over plain vectors. A
    recurrent layer passes on its last hidden state, or every one where another recurrent layer follows it.

    The network gives logits: a `softmax` or `log_softmax` of the last layer is left out, because the cross-entropy loss
    and the predictor each apply their own.

    Args:
        layers: `blueprint.model.Layer`s as mappings; keys left out have that class's defaults.
        input_shape: Of one row, such as (28, 28), (3, 32, 32), (20, 7) for 20 time steps of 7 features, or (19,).
        outputs: How many numbers the network must give for a row: the number of classes, or 1 for a regression.

    Raises:
        DataError: A layer does not fit what comes before it, or the last one does not give `outputs` numbers.
    """
    body: list[nn.Module] = []
    shape = tuple(int(size) for size in input_shape)
    for index, layer in enumerate(layers):
        place = f"layers[{index}] ({layer['type']})"
        last = index == len(layers) - 1
        try:
            modules = _adapters(layer, shape, first=not body)
            for module in modules:
                shape = _shape_after(module, shape)
            main = _module(layer, shape, _feeds_recurrent(layers, index))
            activation = layer.get("activation", "none")
            modules += main
            if activation != "none" and not (last and activation in _FINAL):
                main = [*main, _ACTIVATIONS[activation]()]
                modules.append(main[-1])
            for module in main:
                shape = _shape_after(module, shape)
        except (RuntimeError, ValueError, IndexError, KeyError, TypeError) as error:
            raise DataError(
                f"The layer does not fit rows of the shape {list(shape)}: {error}.",
                where=place,
                remedy="Change its size, or the layers before it.",
            ) from error
        body += modules
    if shape != (outputs,):
        raise DataError(
            f"The last layer gives rows of the shape {list(shape)}, and the data needs [{outputs}].",
            where=f"layers[{len(layers) - 1}]",
            remedy=f"End with a fully_connected layer of {outputs} units.",
        )
    return Network(layers, tuple(int(size) for size in input_shape), outputs, body)


def _feeds_recurrent(layers: Sequence[Mapping[str, Any]], index: int) -> bool:
    """Say whether the layers after this one lead to a recurrent one with nothing but dropout between."""
    for following in layers[index + 1 :]:
        if following["type"] != "dropout":
            return bool(following["type"] == "recurrent")
    return False


def _adapters(layer: Mapping[str, Any], shape: tuple[int, ...], *, first: bool) -> list[nn.Module]:
    kind = layer["type"]
    if kind in ("convolutional", "max_pooling", "average_pooling"):
        if len(shape) == 2:
            return [AddChannel()]
        if first and len(shape) == 3 and shape[2] in (1, 3, 4) and shape[0] not in (1, 3, 4):
            return [ChannelsFirst()]
    if kind == "fully_connected" and len(shape) > 1:
        return [nn.Flatten()]
    if kind == "recurrent" and len(shape) == 1:
        return [nn.Unflatten(1, (shape[0], 1))]
    return []


def _module(layer: Mapping[str, Any], shape: tuple[int, ...], sequence: bool) -> list[nn.Module]:
    match layer["type"]:
        case "fully_connected":
            return [nn.Linear(shape[0], layer["units"])]
        case "convolutional":
            _ask_rank(shape, 3)
            return [
                nn.Conv2d(shape[0], layer["units"], layer["kernel"], layer.get("stride") or 1, layer.get("padding", 0))
            ]
        case "max_pooling" | "average_pooling" as kind:
            _ask_rank(shape, 3)
            pooling = nn.MaxPool2d if kind == "max_pooling" else nn.AvgPool2d
            return [pooling(layer["kernel"], layer.get("stride") or layer["kernel"], layer.get("padding", 0))]
        case "dropout":
            return [nn.Dropout(layer["rate"])]
        case "batch_norm":
            if len(shape) == 1:
                return [nn.BatchNorm1d(shape[0])]
            _ask_rank(shape, 3)
            return [nn.BatchNorm2d(shape[0])]
        case "flatten":
            return [nn.Flatten()]
        case "recurrent":
            _ask_rank(shape, 2)
            cell = layer.get("cell") or "lstm"
            return [Recurrent(cell, shape[1], layer["units"], bool(layer.get("bidirectional", False)), sequence)]
        case other:
            raise ValueError(f"there is no layer of type {other}")


def _ask_rank(shape: tuple[int, ...], rank: int) -> None:
    if len(shape) != rank:
        raise ValueError(f"it needs {rank} dimensions, and here are {len(shape)}")


def _shape_after(module: nn.Module, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Run one row of zeros through a module in evaluation mode; nothing is learnt and no random number is drawn."""
    training = module.training
    module.eval()
    with torch.inference_mode():
        after = tuple(module(torch.zeros(1, *shape)).shape[1:])
    module.train(training)
    if 0 in after:
        raise ValueError("nothing would be left of the row")
    return after
