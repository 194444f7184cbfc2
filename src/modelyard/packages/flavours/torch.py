"""Networks of PyTorch: `model.safetensors` and `layers.json`, and `model.onnx` for every other place."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError

from modelyard.contracts import Columns
from modelyard.errors import DataError, IntegrityError
from modelyard.files import write_atomically
from modelyard.packages.flavours.heads import INPUT, SCORES, Head, close, probe
from modelyard.packages.flavours.onnx_runtime import OnnxPredictor
from modelyard.packages.flavours.torch_graph import OUTPUT, to_onnx
from modelyard.packages.flavours.torch_layers import Network, build_network

__all__ = ["TorchFlavour", "build_network", "load_network"]

_WEIGHTS = "model.safetensors"
_LAYERS = "layers.json"
_ONNX = "model.onnx"


class _File(msgspec.Struct, frozen=True):
    layers: list[dict[str, Any]]
    input_shape: tuple[int, ...]
    outputs: int


class TorchFlavour:
    """Keeps a `Network` of `build_network`: its layers, its weights, and the same as ONNX."""

    name: ClassVar[str] = "torch"

    def save(self, model: Any, folder: Path) -> Mapping[str, Any]:
        """Write the network, and see that the ONNX file gives the scores that PyTorch gives.

        Raises:
            DataError: The model was not made by `build_network`.
            IntegrityError: The two runtimes differ.
        """
        if not isinstance(model, Network):
            raise DataError(
                f"The torch flavour keeps networks of build_network, and this is a {type(model).__name__}.",
                remedy="Export it with torch.onnx.export and save it with the flavour onnx.",
            )
        state = {name: values.detach().cpu().contiguous() for name, values in model.state_dict().items()}
        content = _File(model.layers, model.input_shape, model.outputs)
        write_atomically(folder / _WEIGHTS, safetensors.torch.save(state))
        write_atomically(folder / _LAYERS, msgspec.json.encode(content, order="sorted") + b"\n")
        write_atomically(folder / _ONNX, to_onnx(model).SerializeToString(deterministic=True))
        predictor = OnnxPredictor(folder / _ONNX)
        for rows in (1, 3):
            given = probe(model.input_shape, rows)
            if not close(_scores(model, given), predictor.predict({INPUT: given})[SCORES]):
                raise IntegrityError(
                    "The ONNX file gives other scores than the network.",
                    where=str(folder / _ONNX),
                    remedy="See whether the weights are finite; if they are, please report this.",
                )
        return {
            "head": Head.LOGITS,
            "onnx": {"file": _ONNX, "input": INPUT, "output": OUTPUT},
            "input_shape": list(model.input_shape),
            "outputs": model.outputs,
        }

    def load(self, folder: Path) -> TorchPredictor:
        """Load the network for predictions; raises IntegrityError where its files are damaged."""
        return TorchPredictor(load_network(folder))


class TorchPredictor:
    """A network in evaluation mode."""

    def __init__(self, network: Network) -> None:
        self._network = network.eval()

    def predict(self, columns: Columns) -> Columns:
        """Return `scores` for the rows of `input`."""
        return {SCORES: _scores(self._network, columns[INPUT])}


def load_network(folder: Path) -> Network:
    """Load a saved network, to go on training it for example.

    Args:
        folder: A model folder of the torch flavour.

    Raises:
        IntegrityError: A file is missing or damaged, or weights and layers do not fit each other.
    """
    try:
        content = msgspec.json.decode((folder / _LAYERS).read_bytes(), type=_File)
        state = safetensors.torch.load((folder / _WEIGHTS).read_bytes())
        network = build_network(content.layers, content.input_shape, content.outputs)
        network.load_state_dict(state)
    except (OSError, msgspec.DecodeError, SafetensorError, RuntimeError, DataError, KeyError, ValueError) as error:
        raise IntegrityError(f"The network can't be read: {error}.", where=str(folder)) from error
    return network


def _scores(network: Network, values: np.ndarray[Any, np.dtype[Any]]) -> np.ndarray[Any, np.dtype[Any]]:
    training = network.training
    device = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
    network.eval()
    try:
        with torch.inference_mode():
            scores: np.ndarray[Any, np.dtype[Any]] = network(torch.tensor(values).to(device)).cpu().numpy()
    finally:
        network.train(training)
    return scores
