"""Estimators of scikit-learn: `model.skops`, and `model.onnx` where skl2onnx has a converter."""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import skl2onnx
from skl2onnx.common.data_types import FloatTensorType

from modelyard.errors import IntegrityError, ModelyardError
from modelyard.files import write_atomically
from modelyard.packages.flavours.estimators import EstimatorPredictor, estimator_facts, scores_of
from modelyard.packages.flavours.heads import INPUT, SCORES, Head, close, probe
from modelyard.packages.flavours.onnx_names import rename_parts
from modelyard.packages.flavours.onnx_runtime import OnnxPredictor
from modelyard.store.materializers.skops import dump_estimator, load_estimator

__all__ = ["SklearnFlavour"]

_FILE = "model.skops"
_ONNX = "model.onnx"
_OPSET = {"": 20, "ai.onnx.ml": 3}
_PROBE_ROWS = 32


class SklearnFlavour:
    """Keeps a fitted classifier or regressor of scikit-learn, or a pipeline that ends in one."""

    name: ClassVar[str] = "sklearn"

    def save(self, model: Any, folder: Path) -> Mapping[str, Any]:
        """Write the estimator, and as ONNX where that gives the same scores; else `onnx_missing` says why not.

        Raises:
            DataError: It is neither a fitted classifier nor a fitted regressor.
            InputError: It holds types that are not trusted, so that it could not be loaded again.
        """
        facts = estimator_facts(model)
        write_atomically(folder / _FILE, dump_estimator(model))
        return facts | _save_onnx(model, facts["head"], facts["input_shape"][0], folder)

    def load(self, folder: Path) -> EstimatorPredictor:
        """Load the estimator; raises IntegrityError, with their names, where it holds types that are not trusted."""
        file = folder / _FILE
        try:
            return EstimatorPredictor(load_estimator(file.read_bytes(), str(file)))
        except ModelyardError:
            raise
        except Exception as error:
            # A damaged file shows as anything: a bad zip, bad JSON, a missing key, a type that does not import.
            raise IntegrityError(f"The estimator can't be read: {error}.", where=str(file)) from error


def _save_onnx(model: Any, head: Head, features: int, folder: Path) -> dict[str, Any]:
    """Write `model.onnx` and return the fact `onnx`, or return the fact `onnx_missing` that says why there is none."""
    file = folder / _ONNX
    final = model.steps[-1][1] if hasattr(model, "steps") else model
    options = {id(final): {"zipmap": False}} if head is Head.PROBABILITIES else None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            converted = skl2onnx.convert_sklearn(
                model,
                name="estimator",
                initial_types=[(INPUT, FloatTensorType([None, features]))],
                options=options,
                target_opset=_OPSET,
            )
            converted.ir_version = 10
            rename_parts(converted)
            write_atomically(file, converted.SerializeToString(deterministic=True))
            names = [output.name for output in converted.graph.output]
            output = "probabilities" if head is Head.PROBABILITIES else names[0]
            given = probe((features,), _PROBE_ROWS)
            predicted = OnnxPredictor(file, input_name=INPUT, output_name=output).predict({INPUT: given})[SCORES]
            same = close(scores_of(model, head, given).reshape(-1), np.asarray(predicted).reshape(-1))
    except Exception as error:
        # skl2onnx raises classes of its own, RuntimeError, NotImplementedError and TypeError for what it can't convert.
        file.unlink(missing_ok=True)
        reason = textwrap.shorten(str(error), 120, placeholder=" ...")
        return {"onnx_missing": f"skl2onnx can't convert {type(final).__name__}: {reason}"}
    if not same:
        file.unlink(missing_ok=True)
        return {"onnx_missing": f"The ONNX form of {type(final).__name__} gives other scores than scikit-learn."}
    return {"onnx": {"file": _ONNX, "input": INPUT, "output": output}}
