"""A network of ours as an ONNX graph, written node by node.

PyTorch's own exporter takes 0.6 to 2.3 s for the same graphs and half a second of imports before that, and writes paths
of the machine into the file; this takes milliseconds and gives the same bytes for the same weights (decision 0040).
Operators: https://onnx.ai/onnx/operators/ (opset 20).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from modelyard.packages.flavours.torch_layers import AddChannel, ChannelsFirst, Network, Recurrent

__all__ = ["INPUT", "OUTPUT", "to_onnx"]

INPUT = "input"
OUTPUT = "scores"
_OPSET = 20
_IR_VERSION = 10
"""What onnxruntime 1.18 and later read; the onnx library would write its own newest."""


class _Graph:
    """Nodes and weights under construction; `value` is the name of the last node's output."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.value = INPUT

    def weight(self, name: str, values: NDArray[Any]) -> str:
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def add(self, operator: str, *weights: str, outputs: int = 1, take: int = 0, **attributes: Any) -> None:
        """Append a node that takes the current value and weights; its output number `take` becomes the value."""
        name = f"{len(self.nodes)}_{operator}"
        names = [f"{name}.{index}" if index == take else "" for index in range(outputs)]
        self.nodes.append(helper.make_node(operator, [self.value, *weights], names, name=name, **attributes))
        self.value = names[take]


def to_onnx(network: Network) -> onnx.ModelProto:
    """Return the network in evaluation mode as ONNX: `input` [n, *input_shape] to `scores` [n, outputs], in float32.

    Raises:
        KeyError: A module of the network is none that `build_network` makes.
    """
    graph = _Graph()
    for index, module in enumerate(network.body):
        _WRITERS[type(module)](graph, f"body.{index}", module)
    graph.add("Identity")
    graph.nodes[-1].output[0] = OUTPUT
    given = helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["n", *network.input_shape])
    result = helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["n", network.outputs])
    model = helper.make_model(
        helper.make_graph(graph.nodes, "network", [given], [result], initializer=graph.weights),
        opset_imports=[helper.make_opsetid("", _OPSET)],
        ir_version=_IR_VERSION,
        producer_name="modelyard",
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def _array(tensor: Any) -> NDArray[Any]:
    values: NDArray[Any] = tensor.detach().cpu().numpy()
    return values


def _linear(graph: _Graph, name: str, module: Any) -> None:
    weight = graph.weight(f"{name}.weight", _array(module.weight))
    graph.add("Gemm", weight, graph.weight(f"{name}.bias", _array(module.bias)), transB=1)


def _convolution(graph: _Graph, name: str, module: Any) -> None:
    weight = graph.weight(f"{name}.weight", _array(module.weight))
    bias = graph.weight(f"{name}.bias", _array(module.bias))
    graph.add(
        "Conv",
        weight,
        bias,
        kernel_shape=list(module.kernel_size),
        strides=list(module.stride),
        pads=[*module.padding, *module.padding],
    )


def _pooling(operator: str, **more: Any) -> Callable[[_Graph, str, Any], None]:
    def write(graph: _Graph, name: str, module: Any) -> None:  # noqa: ARG001  (one signature for all writers)
        side, stride, padding = module.kernel_size, module.stride, module.padding
        graph.add(operator, kernel_shape=[side, side], strides=[stride, stride], pads=[padding] * 4, **more)

    return write


def _batch_norm(graph: _Graph, name: str, module: Any) -> None:
    state = (module.weight, module.bias, module.running_mean, module.running_var)
    names = ("weight", "bias", "running_mean", "running_var")
    weights = [graph.weight(f"{name}.{part}", _array(values)) for part, values in zip(names, state, strict=True)]
    graph.add("BatchNormalization", *weights, epsilon=module.eps)


def _plain(operator: str, **attributes: Any) -> Callable[[_Graph, str, Any], None]:
    def write(graph: _Graph, name: str, module: Any) -> None:  # noqa: ARG001  (one signature for all writers)
        graph.add(operator, **attributes)

    return write


def _nothing(graph: _Graph, name: str, module: Any) -> None:
    """Dropout does nothing in evaluation mode."""


def _add_channel(graph: _Graph, name: str, module: Any) -> None:  # noqa: ARG001  (one signature for all writers)
    graph.add("Unsqueeze", graph.weight(f"{name}.axes", np.array([1], dtype=np.int64)))


def _unflatten(graph: _Graph, name: str, module: Any) -> None:
    shape = np.array([0, *module.unflattened_size], dtype=np.int64)
    graph.add("Reshape", graph.weight(f"{name}.shape", shape))


# Position in PyTorch of each gate, in the order that ONNX wants: lstm i,f,g,o to i,o,f,c; gru r,z,n to z,r,h.
_GATES = {"lstm": (0, 3, 1, 2), "gru": (1, 0, 2), "rnn": (0,)}


def _recurrent(graph: _Graph, name: str, module: Recurrent) -> None:
    cell = module.cell
    directions = ("", "_reverse") if cell.bidirectional else ("",)

    def gates(which: str) -> NDArray[Any]:
        stacked = [_array(getattr(cell, f"{which}_l0{direction}")) for direction in directions]
        split = [np.split(values, len(_GATES[module.kind])) for values in stacked]
        return np.stack([np.concatenate([parts[gate] for gate in _GATES[module.kind]]) for parts in split])

    weights = [
        graph.weight(f"{name}.W", gates("weight_ih")),
        graph.weight(f"{name}.R", gates("weight_hh")),
        graph.weight(f"{name}.B", np.concatenate([gates("bias_ih"), gates("bias_hh")], axis=1)),
    ]
    graph.add("Transpose", perm=[1, 0, 2])
    more = {"linear_before_reset": 1} if module.kind == "gru" else {}
    graph.add(
        module.kind.upper(),
        *weights,
        hidden_size=cell.hidden_size,
        direction="bidirectional" if cell.bidirectional else "forward",
        outputs=1 if module.sequence else 2,
        take=0 if module.sequence else 1,
        **more,
    )
    if module.sequence:
        graph.add("Transpose", perm=[2, 0, 1, 3])
        graph.add("Reshape", graph.weight(f"{name}.shape", np.array([0, 0, -1], dtype=np.int64)))
    else:
        graph.add("Transpose", perm=[1, 0, 2])
        graph.add("Flatten", axis=1)


_WRITERS: Mapping[type[nn.Module], Callable[[_Graph, str, Any], None]] = {
    nn.Linear: _linear,
    nn.Conv2d: _convolution,
    nn.MaxPool2d: _pooling("MaxPool"),
    nn.AvgPool2d: _pooling("AveragePool", count_include_pad=1),
    nn.BatchNorm1d: _batch_norm,
    nn.BatchNorm2d: _batch_norm,
    nn.Dropout: _nothing,
    nn.Flatten: _plain("Flatten", axis=1),
    nn.Unflatten: _unflatten,
    nn.ReLU: _plain("Relu"),
    nn.LeakyReLU: _plain("LeakyRelu", alpha=0.01),
    nn.ELU: _plain("Elu", alpha=1.0),
    nn.GELU: _plain("Gelu"),
    nn.Tanh: _plain("Tanh"),
    nn.Sigmoid: _plain("Sigmoid"),
    nn.Softmax: _plain("Softmax", axis=1),
    nn.LogSoftmax: _plain("LogSoftmax", axis=1),
    AddChannel: _add_channel,
    ChannelsFirst: _plain("Transpose", perm=[0, 3, 1, 2]),
    Recurrent: _recurrent,
}
