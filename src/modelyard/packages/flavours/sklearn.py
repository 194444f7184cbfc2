"""Estimators of scikit-learn: `model.skops`, and `model.onnx` where skl2onnx has a converter."""

from __future__ import annotations

import io
import json
import textwrap
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import skl2onnx
import skops.io
from skl2onnx.common.data_types import FloatTensorType
from sklearn.base import BaseEstimator, is_classifier, is_regressor

from modelyard.contracts import Columns
from modelyard.errors import DataError, IntegrityError, ModelyardError
from modelyard.files import write_atomically
from modelyard.packages.flavours.heads import INPUT, SCORES, Head, close, probe
from modelyard.packages.flavours.onnx_names import rename_parts
from modelyard.packages.flavours.onnx_runtime import OnnxPredictor
from modelyard.packages.flavours.skops_types import TRUSTED

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
            IntegrityError: It holds types that are not trusted, so that it could not be loaded again.
        """
        if not (isinstance(model, BaseEstimator) and (is_classifier(model) or is_regressor(model))):
            raise DataError(f"A {type(model).__name__} is neither a classifier nor a regressor of scikit-learn.")
        features = getattr(model, "n_features_in_", None)
        if features is None:
            raise DataError(f"The {type(model).__name__} is not fitted.", remedy="Call its fit first.")
        data = _reproducible(skops.io.dumps(model))
        _refuse_untrusted(data, folder / _FILE)
        write_atomically(folder / _FILE, data)
        head = _head(model)
        facts: dict[str, Any] = {"head": head, "flat": True, "input_shape": [int(features)]}
        if head is Head.VALUE:
            with warnings.catch_warnings():
                # The probe's numbers are none that the estimator was made for.
                warnings.simplefilter("ignore")
                facts["outputs"] = int(np.size(model.predict(probe((features,), 1))))
        else:
            facts["classes"] = np.asarray(model.classes_).tolist()
        return facts | _save_onnx(model, head, features, folder)

    def load(self, folder: Path) -> SklearnPredictor:
        """Load the estimator; raises IntegrityError, with their names, where it holds types that are not trusted."""
        file = folder / _FILE
        try:
            data = file.read_bytes()
            _refuse_untrusted(data, file)
            return SklearnPredictor(skops.io.loads(data, trusted=list(TRUSTED)))
        except ModelyardError:
            raise
        except Exception as error:
            # A damaged file shows as anything: a bad zip, bad JSON, a missing key, a type that does not import.
            raise IntegrityError(f"The estimator can't be read: {error}.", where=str(file)) from error


class SklearnPredictor:
    """A fitted estimator."""

    def __init__(self, estimator: Any) -> None:
        self._estimator = estimator
        self._head = _head(estimator)

    def predict(self, columns: Columns) -> Columns:
        """Return `scores` for the rows of `input`."""
        return {SCORES: _scores(self._estimator, self._head, columns[INPUT])}


def _head(model: Any) -> Head:
    if not is_classifier(model):
        return Head.VALUE
    return Head.PROBABILITIES if hasattr(model, "predict_proba") else Head.LABELS


def _scores(model: Any, head: Head, values: np.ndarray[Any, np.dtype[Any]]) -> np.ndarray[Any, np.dtype[Any]]:
    scores = np.asarray(model.predict_proba(values) if head is Head.PROBABILITIES else model.predict(values))
    return scores if head is Head.LABELS else scores.astype(np.float32)


def _refuse_untrusted(data: bytes, file: Path) -> None:
    foreign = sorted(set(skops.io.get_untrusted_types(data=data)) - set(TRUSTED))
    if foreign:
        raise IntegrityError(
            f"The estimator holds types that are not trusted: {', '.join(foreign)}.",
            where=str(file),
            remedy="Use estimators of scikit-learn alone.",
        )


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
            same = close(_scores(model, head, given).reshape(-1), np.asarray(predicted).reshape(-1))
    except Exception as error:
        # skl2onnx raises classes of its own, RuntimeError, NotImplementedError and TypeError for what it can't convert.
        file.unlink(missing_ok=True)
        reason = textwrap.shorten(str(error), 120, placeholder=" ...")
        return {"onnx_missing": f"skl2onnx can't convert {type(final).__name__}: {reason}"}
    if not same:
        file.unlink(missing_ok=True)
        return {"onnx_missing": f"The ONNX form of {type(final).__name__} gives other scores than scikit-learn."}
    return {"onnx": {"file": _ONNX, "input": INPUT, "output": output}}


def _reproducible(data: bytes) -> bytes:
    """Return a skops file whose bytes depend on the estimator alone.

    skops names its parts by their addresses in memory and stamps them with the time; the same training would give
    another digest each time. Parts are numbered in the order of the schema instead.
    """
    with zipfile.ZipFile(io.BytesIO(data)) as source:
        schema = json.loads(source.read("schema.json"))
        numbers: dict[int, int] = {}
        files: dict[str, str] = {}
        _renumber(schema, numbers, files)
        target = io.BytesIO()
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as result:
            for old, new in files.items():
                content = source.read(old)
                result.writestr(_entry(new), _without_padding(content) if new.endswith(".npy") else content)
            result.writestr(_entry("schema.json"), json.dumps(schema, indent=1))
    return target.getvalue()


def _without_padding(npy: bytes) -> bytes:
    """Return an array file with zeros between the fields of a structure: a tree's nodes have chance bytes there."""
    array = np.load(io.BytesIO(npy), allow_pickle=False)
    if array.dtype.names is None or array.ndim != 1:
        return npy
    # NumPy's own copies leave the gaps as they come, so the bytes are laid out here.
    content = bytearray(array.nbytes)
    clean = np.frombuffer(content, dtype=array.dtype)
    for name in array.dtype.names:
        clean[name] = array[name]
    return npy[: len(npy) - len(content)] + bytes(content)


def _renumber(node: Any, numbers: dict[int, int], files: dict[str, str]) -> None:
    if isinstance(node, list):
        for item in node:
            _renumber(item, numbers, files)
    if not isinstance(node, dict):
        return
    address = node.get("__id__")
    if isinstance(address, int):
        # Small JSON values are interned or not as the interpreter likes; nothing refers to them by number.
        fresh = node.get("is_json") is True
        number = len(numbers)
        node["__id__"] = numbers.setdefault(-number - 1 if fresh else address, number)
    name = node.get("file")
    if isinstance(name, str):
        node["file"] = files.setdefault(name, f"{len(files)}{Path(name).suffix}")
    for key, item in node.items():
        if key not in ("__id__", "file"):
            _renumber(item, numbers, files)


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
    entry.compress_type = zipfile.ZIP_DEFLATED
    return entry
