"""Gives the parts of an ONNX graph names that depend on the graph alone.

skl2onnx numbers names by counters that go on from one conversion to the next in the same process, so the same estimator
would have other bytes, and another digest, the second time.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx

__all__ = ["rename_parts"]


def rename_parts(model: onnx.ModelProto) -> None:
    """Rename values, nodes and inner graphs in order of appearance; the model's inputs and outputs keep their names."""
    kept = {entry.name for entry in (*model.graph.input, *model.graph.output)} | {""}
    names: dict[str, str] = {}

    def renamed(name: str) -> str:
        return name if name in kept else names.setdefault(name, f"v{len(names)}")

    for index, graph in enumerate(_graphs(model.graph)):
        if index:
            graph.name = f"graph{index}"
        for entry in (*graph.input, *graph.initializer, *graph.output, *graph.value_info):
            entry.name = renamed(entry.name)
        for sparse in graph.sparse_initializer:
            sparse.values.name = renamed(sparse.values.name)
        for node in graph.node:
            node.input[:] = [renamed(name) for name in node.input]
            node.output[:] = [renamed(name) for name in node.output]
    for index, node in enumerate(node for graph in _graphs(model.graph) for node in graph.node):
        node.name = f"{index}_{node.op_type}"


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs) if attribute.HasField("g") else attribute.graphs:
                yield from _graphs(inner)
