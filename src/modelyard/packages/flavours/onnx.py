"""Models that come as ONNX, from any library that exports it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import onnx

from modelyard.errors import DataError, IntegrityError, ModelyardError
from modelyard.files import write_atomically
from modelyard.packages.flavours.heads import INPUT, SCORES, head_of, probe
from modelyard.packages.flavours.onnx_runtime import OnnxPredictor

__all__ = ["OnnxFlavour"]

_FILE = "model.onnx"


class OnnxFlavour:
    """Keeps an ONNX model with one float32 input, rows first.

    The output called `probabilities` is taken, or `scores`, or else the first one. Two dimensions mean a classifier:
    probabilities if every row of a probe sums to 1, logits if not; one dimension, or one column, means a regression.
    """

    name: ClassVar[str] = "onnx"

    def save(self, model: Any, folder: Path) -> Mapping[str, Any]:
        """Write the model as one file, and run it once.

        Args:
            model: An `onnx.ModelProto`, or the path of an `.onnx` file; external data is taken into the one file.
            folder: New or empty.

        Raises:
            DataError: It has several inputs, or one that is not float32, or can't run several rows at once.
            IntegrityError: It is not a valid model, or needs foreign operators.
        """
        proto = _proto(model)
        given = [entry for entry in proto.graph.input if entry.name not in {w.name for w in proto.graph.initializer}]
        if len(given) != 1 or given[0].type.tensor_type.elem_type != onnx.TensorProto.FLOAT:
            raise DataError(
                f"The ONNX model takes {[entry.name for entry in given]}; one float32 input is needed.",
                remedy="Export it with a single float32 input.",
            )
        shape = [dimension.dim_value for dimension in given[0].type.tensor_type.shape.dim][1:]
        if not shape or 0 in shape:
            raise DataError(f"The ONNX model's rows have the shape {shape}; every size but the batch's must be known.")
        write_atomically(folder / _FILE, proto.SerializeToString(deterministic=True))
        names = [output.name for output in proto.graph.output]
        output = next((name for name in ("probabilities", SCORES) if name in names), names[0])
        predictor = OnnxPredictor(folder / _FILE, input_name=given[0].name, output_name=output)
        try:
            scores = predictor.predict({INPUT: probe(tuple(shape), 3)})[SCORES]
        except Exception as error:
            # onnxruntime's errors have no common base; here they mean that three rows do not run.
            raise DataError(
                f"The ONNX model can't run three rows at once: {error}.", remedy="Export it with a dynamic batch size."
            ) from error
        return {
            "head": head_of(scores),
            "onnx": {"file": _FILE, "input": given[0].name, "output": output},
            "input_shape": shape,
            "outputs": 1 if scores.ndim == 1 else int(scores.shape[1]),
        }

    def load(self, folder: Path) -> OnnxPredictor:
        """Load the model with onnxruntime; raises IntegrityError where the file can't be trusted."""
        proto = _proto(folder / _FILE)
        names = [output.name for output in proto.graph.output]
        output = next((name for name in ("probabilities", SCORES) if name in names), names[0])
        return OnnxPredictor(folder / _FILE, output_name=output)


def _proto(model: Any) -> onnx.ModelProto:
    try:
        if isinstance(model, str | Path):
            model = onnx.load(str(model), load_external_data=True)
        if not isinstance(model, onnx.ModelProto):
            raise DataError(f"The onnx flavour keeps a ModelProto or the path of one, and this is {type(model)}.")
        onnx.checker.check_model(model)
    except ModelyardError:
        raise
    except Exception as error:
        # protobuf, the checker and the file system each raise their own; all mean that the bytes are no model.
        raise IntegrityError(f"This is not a valid ONNX model: {error}.") from error
    return model
