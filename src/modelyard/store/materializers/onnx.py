"""ONNX models."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import onnx

__all__ = ["OnnxMaterializer"]

_FILE = "model.onnx"


class OnnxMaterializer:
    """An `onnx.ModelProto` that holds all its weights."""

    name: ClassVar[str] = "onnx"

    def accepts(self, value: Any) -> bool:
        """Say whether this is an ONNX model."""
        return isinstance(value, onnx.ModelProto)

    def save(self, value: onnx.ModelProto, folder: Path) -> Mapping[str, Any]:
        """Write `model.onnx`."""
        (folder / _FILE).write_bytes(value.SerializeToString(deterministic=True))
        return {
            "inputs": [item.name for item in value.graph.input],
            "outputs": [item.name for item in value.graph.output],
            "operators": len(value.graph.node),
        }

    def load(self, folder: Path) -> onnx.ModelProto:
        """Return the model; it is not checked and not run."""
        return onnx.load_model(str(folder / _FILE), load_external_data=False)
