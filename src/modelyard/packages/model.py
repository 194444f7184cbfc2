"""A trained model as a folder: transform, network or estimator, ONNX, and what it takes and gives."""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from modelyard.contracts import Columns, Flavour, Predictor
from modelyard.data import Field
from modelyard.errors import ContractError, DataError, IntegrityError, MissingExtraError, NotFoundError
from modelyard.files import storage_errors, write_atomically
from modelyard.packages.assemble import assemble, input_shape, join, narrowed
from modelyard.packages.contract import Contract
from modelyard.packages.flavours.heads import INPUT, SCORES, Head, softmax
from modelyard.packages.pickles import FLAVOUR
from modelyard.packages.table import Table
from modelyard.packages.transform import TransformChain

__all__ = [
    "Model",
    "ModelInfo",
    "Runtime",
    "describe_model",
    "load_model",
    "model_outputs",
    "read_contract",
    "read_info",
    "save_model",
]

Runtime = Literal["auto", "native", "onnx"]
Label = bool | int | float | str

_INFO = "model.json"
_TRANSFORM = "transform"
_CHUNK = 1024
"""Rows predicted at a time: the memory that a prediction takes does not grow with the request."""

_BUILT_IN: Mapping[str, tuple[str, str, str]] = {
    "torch": ("modelyard.packages.flavours.torch", "TorchFlavour", "torch"),
    "sklearn": ("modelyard.packages.flavours.sklearn", "SklearnFlavour", "sklearn"),
    "onnx": ("modelyard.packages.flavours.onnx", "OnnxFlavour", "onnx"),
    FLAVOUR: ("modelyard.packages.flavours.pickled", "PickleFlavour", "sklearn"),
}
"""Flavour to its module, its class, and the extra of Modelyard that installs what it needs."""


class OnnxFile(msgspec.Struct, frozen=True):
    """The ONNX file of a model, and the names of the graph's input and output that matter."""

    file: str
    input: str
    output: str


class ModelInfo(msgspec.Struct, frozen=True):
    """What `model.json` says.

    Args:
        flavour: Name of the flavour that wrote the folder.
        prediction_type: `classification` or `regression`.
        inputs: What the model takes after the transform.
        outputs: What predictions hold.
        head: What the model's raw scores are.
        classes: For classification: the labels, in the order of `probabilities`.
        order: For probabilities: the position in `classes` of each column of the scores; empty where they agree.
        positions: Whether labels come from the model as positions in `classes`.
        flat: Whether the inputs are flattened and joined into one vector.
        transform: Whether a folder `transform` stands before the model.
        onnx: The ONNX file, or None.
        onnx_missing: Why there is no ONNX file, as a sentence; empty where there is one.
    """

    flavour: str
    prediction_type: Literal["classification", "regression"]
    inputs: tuple[Field, ...]
    outputs: tuple[Field, ...]
    head: Head
    classes: tuple[Label, ...] | None = None
    order: tuple[int, ...] = ()
    positions: bool = False
    flat: bool = False
    transform: bool = False
    onnx: OnnxFile | None = None
    onnx_missing: str = ""

    @property
    def is_pickled(self) -> bool:
        """Whether a pickle would have to be loaded to predict."""
        return self.flavour == FLAVOUR and self.onnx is None


class Model:
    """A loaded model: raw columns in, predictions out.

    Args:
        info: What its `model.json` says.
        transform: The chain before it, or None.
        predictor: A flavour's predictor, from `input` to `scores`.
    """

    def __init__(self, info: ModelInfo, transform: TransformChain | None, predictor: Predictor) -> None:
        self.info = info
        self.transform = transform
        self.contract = _contract(info, transform)
        self._predictor = predictor
        self._labels = None if info.classes is None else _label_array(info)
        self._names = tuple(field.name for field in info.inputs)

    def predict(self, columns: Columns) -> dict[str, NDArray[Any]]:
        """Return the predictions for raw rows: check against the contract, transform, predict.

        Raises:
            ContractError: The columns do not fit the contract; `where` names row and field.
        """
        checked = self.contract.check(columns)
        return self._chunked(checked, raw=True)

    def predict_checked(self, columns: Columns) -> dict[str, NDArray[Any]]:
        """Return the predictions for raw rows that the contract has checked already, as codecs do."""
        if isinstance(columns, Table) and self.transform is None and columns.names == self._names:
            matrix = columns.matrix
            if matrix.dtype == np.float32 and 0 < len(matrix) <= _CHUNK:
                # What most requests are: nothing is left to be joined, narrowed or cut.
                return self._interpret(self._predictor.predict({INPUT: matrix})[SCORES])
        return self._chunked(columns, raw=True)

    def predict_transformed(self, columns: Columns) -> dict[str, NDArray[Any]]:
        """Return the predictions for rows that the transform has been applied to already; nothing is checked."""
        return self._chunked({field.name: columns[field.name] for field in self.info.inputs}, raw=False)

    def _chunked(self, columns: Columns, *, raw: bool) -> dict[str, NDArray[Any]]:
        rows = columns.rows if isinstance(columns, Table) else len(next(iter(columns.values())))
        if rows <= _CHUNK:
            return self._predict(columns, rows, 0, raw=raw)
        parts = []
        for start in range(0, rows, _CHUNK):
            part = slice(start, start + _CHUNK)
            if isinstance(columns, Table):
                chunk: Columns = columns.part(part)
            else:
                chunk = {name: values[part] for name, values in columns.items()}
            parts.append(self._predict(chunk, min(_CHUNK, rows - start), start, raw=raw))
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _predict(self, columns: Columns, rows: int, first: int, *, raw: bool) -> dict[str, NDArray[Any]]:
        if not rows:
            return {field.name: _empty(field) for field in self.info.outputs}
        info, transform = self.info, self.transform
        if raw and transform is not None:

            def make(given: Columns) -> NDArray[np.float32]:
                return join(info.inputs, transform.apply(given), flat=info.flat)

            inputs = narrowed(make, transform.inputs, columns, first)
        else:
            inputs = assemble(info.inputs, columns, flat=info.flat, first=first)
        return self._interpret(self._predictor.predict({INPUT: inputs})[SCORES])

    def _interpret(self, scores: NDArray[Any]) -> dict[str, NDArray[Any]]:
        if self._labels is None:
            return {"value": scores.reshape(len(scores)).astype(np.float32, copy=False)}
        if self.info.head is Head.LABELS:
            if self.info.positions:
                return {"label": self._labels[scores.astype(np.intp)]}
            return {"label": scores.astype(self._labels.dtype)}
        probabilities = softmax(scores) if self.info.head is Head.LOGITS else scores.astype(np.float32, copy=False)
        if self.info.order:
            # The estimator has not seen every class: the others have probability 0.
            spread = np.zeros((len(scores), len(self._labels)), dtype=np.float32)
            spread[:, list(self.info.order)] = probabilities
            probabilities = spread
        return {"label": self._labels[probabilities.argmax(axis=1)], "probabilities": probabilities}


def save_model(
    folder: Path,
    *,
    flavour: str,
    model: Any,
    inputs: Sequence[Field],
    outputs: Sequence[Field] | None = None,
    prediction_type: str,
    classes: Sequence[Any] | None = None,
    transform: TransformChain | None = None,
) -> ModelInfo:
    """Write a trained model into a folder: `model.json` last, so that a folder with it is whole.

    Args:
        folder: New or empty.
        flavour: `torch`, `sklearn`, `onnx`, `pickle`, or an installed one.
        model: A network of `build_network`, a fitted estimator, or for onnx a ModelProto or the path of a file. An
            estimator may have learnt the labels themselves, or their positions in `classes`.
        inputs: What the model takes, after the transform.
        outputs: What predictions hold; None derives it by `model_outputs`.
        prediction_type: `classification` or `regression`.
        classes: For classification: every label, sorted.
        transform: What stands between raw data and `inputs`.

    Raises:
        DataError: The parts do not fit each other.
        MissingExtraError: The flavour's library is not installed.
        NotFoundError: There is no such flavour.
        StorageError: The folder can't be written.
    """
    if prediction_type not in ("classification", "regression"):
        raise DataError(f"The prediction type {prediction_type!r} is neither classification nor regression.")
    labels = _plain_labels(classes) if prediction_type == "classification" else None
    fields = tuple(inputs)
    if transform is not None and transform.outputs != fields:
        raise DataError(
            f"The transform gives {[field.name for field in transform.outputs]}, and the model takes "
            f"{[field.name for field in fields]}, or their types differ.",
            remedy="Train the model on data that this transform made.",
        )
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    facts = _flavour(flavour).save(model, folder)
    info = _info(flavour, facts, fields, outputs, prediction_type, labels, transform)
    if transform is not None:
        transform.save(folder / _TRANSFORM)
    _write_info(folder, info)
    return info


def describe_model(
    folder: Path, facts: Mapping[str, Any], *, flavour: str, inputs: Sequence[Field], classes: Sequence[Any] | None
) -> ModelInfo:
    """Write `model.json` beside the files of a model that lie in the folder already.

    Args:
        folder: Of the model.
        facts: What the flavour's `save` would return.
        flavour: Whose files these are.
        inputs: What the model takes.
        classes: For classification: every label, in the order of the scores; None for regression.

    Raises:
        DataError: The parts do not fit each other.
        StorageError: The folder can't be written.
    """
    labels = None if classes is None else _plain_labels(classes)
    kind = "regression" if labels is None else "classification"
    info = _info(flavour, facts, tuple(inputs), None, kind, labels, None)
    _write_info(folder, info)
    return info


def _write_info(folder: Path, info: ModelInfo) -> None:
    text = msgspec.json.format(msgspec.json.encode(info, order="sorted"), indent=2) + b"\n"
    write_atomically(folder / _INFO, text)


def load_model(
    folder: Path, runtime: Runtime = "auto", *, threads: int = 1, trusted_pickle: str | None = None
) -> Model:
    """Load a model folder.

    Args:
        folder: What `save_model` wrote.
        runtime: `onnx` predicts with onnxruntime alone; `native` with the library that trained the model; `auto` with
            ONNX where the folder has it and onnxruntime is installed, because that is what will be served.
        threads: Of onnxruntime, for one prediction.
        trusted_pickle: BLAKE3 of the pickle that may be loaded, where the model is one; None: none may.

    Raises:
        IntegrityError: A file is missing or damaged, or holds what is not trusted.
        MissingExtraError: The library that the runtime needs is not installed.
        NotFoundError: The model has no ONNX file, and `onnx` was asked for.
        RefusedError: The model is a pickle, and none is trusted.
    """
    info = read_info(folder)
    transform = _transform(folder, info)
    if runtime == "auto":
        usable = info.onnx is not None and importlib.util.find_spec("onnxruntime") is not None
        runtime = "onnx" if usable else "native"
    if runtime == "native":
        return Model(info, transform, _flavour(info.flavour, trusted_pickle).load(folder))
    if info.onnx is None:
        raise NotFoundError(
            f"The model has no ONNX file: {info.onnx_missing}", where=str(folder), remedy="Load it as native."
        )
    adapter = _adapter("modelyard.packages.flavours.onnx_runtime", "serve")
    predictor = adapter.OnnxPredictor(
        folder / info.onnx.file, input_name=info.onnx.input, output_name=info.onnx.output, threads=threads
    )
    return Model(info, transform, predictor)


def read_contract(folder: Path) -> Contract:
    """Return the contract of a model folder, and load no model.

    Raises:
        IntegrityError: A file is missing or damaged.
    """
    info = read_info(folder)
    return _contract(info, _transform(folder, info))


def _contract(info: ModelInfo, transform: TransformChain | None) -> Contract:
    inputs = info.inputs if transform is None else transform.inputs
    return Contract(inputs=inputs, outputs=info.outputs, classes=info.classes)


def _transform(folder: Path, info: ModelInfo) -> TransformChain | None:
    return TransformChain.load(folder / _TRANSFORM) if info.transform else None


def read_info(folder: Path) -> ModelInfo:
    """Read `model.json`; raises IntegrityError where it is missing or damaged."""
    file = folder / _INFO
    try:
        info = msgspec.json.decode(file.read_bytes(), type=ModelInfo)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise IntegrityError(f"This is no model folder: {error}.", where=str(file)) from error
    if info.onnx is not None and not re.fullmatch(r"[\w-][\w.-]*", info.onnx.file):
        # No manifest covers a file elsewhere: it could be another one tomorrow.
        raise IntegrityError(
            f"The ONNX file {info.onnx.file!r} does not lie in the model's folder.",
            where=str(file),
            remedy="Fetch the model again, or train it anew.",
        )
    return info


def model_outputs(
    prediction_type: str, classes: Sequence[Any] | None, *, probabilities: bool = True
) -> tuple[Field, ...]:
    """Return what predictions hold: `label` and `probabilities` float32 [k], or `value` float32.

    Args:
        prediction_type: `classification` or `regression`.
        classes: For classification: the labels; `label` has their dtype.
        probabilities: Whether the model has any.
    """
    labels = _plain_labels(classes) if prediction_type == "classification" else None
    if labels is None:
        return (Field("value", "float32"),)
    label = Field("label", _label_dtype(labels))
    return (label, Field("probabilities", "float32", (len(labels),))) if probabilities else (label,)


def _info(
    flavour: str,
    facts: Mapping[str, Any],
    inputs: tuple[Field, ...],
    outputs: Sequence[Field] | None,
    prediction_type: str,
    labels: tuple[Label, ...] | None,
    transform: TransformChain | None,
) -> ModelInfo:
    head = Head(facts["head"])
    flat = bool(facts.get("flat", False))
    shape = input_shape(inputs, flat=flat)
    wanted = facts.get("input_shape")
    if wanted is not None and tuple(wanted) != shape:
        raise DataError(f"The model takes rows of the shape {list(wanted)}, and the inputs make {list(shape)}.")
    if labels is None:
        if head not in (Head.VALUE, Head.LOGITS) or facts.get("outputs", 1) != 1:
            raise DataError("The model is a classifier, and the prediction type is regression.")
        head = Head.VALUE
    elif head is Head.VALUE:
        raise DataError("The model is a regressor, and the prediction type is classification.")
    order = _order(labels, facts.get("classes"), facts.get("outputs")) if labels is not None else ()
    learnt = facts.get("classes")
    positions = head is Head.LABELS and learnt is not None and not set(learnt) <= set(labels or ())
    derived = model_outputs(prediction_type, labels, probabilities=head is not Head.LABELS)
    onnx = facts.get("onnx")
    return ModelInfo(
        flavour=flavour,
        prediction_type="regression" if labels is None else "classification",
        inputs=inputs,
        outputs=_agreed(outputs, derived),
        head=head,
        classes=labels,
        order=() if head is Head.LABELS else order,
        positions=positions,
        flat=flat,
        transform=transform is not None,
        onnx=None if onnx is None else OnnxFile(**onnx),
        onnx_missing=str(facts.get("onnx_missing", "")),
    )


def _agreed(outputs: Sequence[Field] | None, derived: tuple[Field, ...]) -> tuple[Field, ...]:
    if outputs is None or tuple(outputs) == derived:
        return derived
    given = {field.name: field for field in outputs}
    for field in derived:
        same = given.get(field.name)
        # A label may have another integer or text type than the classes' default; everything else is fixed.
        if same is None or same.shape != field.shape or (field.name != "label" and same.dtype != field.dtype):
            raise DataError(f"The model gives {field}, and the outputs say {same}.")
    return tuple(given[field.name] for field in derived)


def _order(labels: tuple[Label, ...], learnt: Sequence[Any] | None, outputs: int | None) -> tuple[int, ...]:
    """Return the position in `labels` of each column of the scores; empty where they are the same."""
    if learnt is None:
        if outputs is not None and outputs != len(labels):
            raise DataError(f"The model gives {outputs} scores, and there are {len(labels)} classes.")
        return ()
    place_of = {label: index for index, label in enumerate(labels)}
    readings = []
    if all(label in place_of for label in learnt):
        readings.append(tuple(place_of[label] for label in learnt))
    if all(type(label) is int and 0 <= label < len(labels) for label in learnt):
        readings.append(tuple(int(label) for label in learnt))
    if not readings:
        raise DataError(f"The estimator has learnt {list(learnt)}, and the classes are {list(labels)}.")
    if len(set(readings)) > 1:
        raise DataError(
            f"The estimator has learnt {list(learnt)}: these may be classes of {list(labels)}, or positions in them.",
            remedy="Train it on rows of every class.",
        )
    order = readings[0]
    return () if order == tuple(range(len(labels))) else order


def _plain_labels(classes: Sequence[Any] | None) -> tuple[Label, ...]:
    if classes is None or len(classes) < 2:
        raise DataError("A classification needs at least two classes.", remedy="Give the data set's classes.")
    return tuple(label.item() if isinstance(label, np.generic) else label for label in classes)


def _label_dtype(labels: tuple[Label, ...]) -> str:
    kinds = {type(label) for label in labels}
    if len(kinds) != 1:
        raise DataError(f"The classes mix types: {sorted(kind.__name__ for kind in kinds)}.")
    return {"bool": "bool", "int": "int64", "float": "float64", "str": "string"}[kinds.pop().__name__]


def _label_array(info: ModelInfo) -> NDArray[Any]:
    dtype = next(field.dtype for field in info.outputs if field.name == "label")
    labels = np.array(info.classes)
    if dtype == "string" and labels.dtype.kind != "U":
        raise ContractError("The label is text, and the classes are not.")
    return labels if dtype == "string" else labels.astype(dtype)


def _empty(field: Field) -> NDArray[Any]:
    return np.empty((0, *field.shape), dtype="<U1" if field.dtype == "string" else field.dtype)


def _flavour(name: str, trusted_pickle: str | None = None) -> Flavour:
    if name in _BUILT_IN:
        module, attribute, extra = _BUILT_IN[name]
        arguments = (trusted_pickle,) if name == FLAVOUR else ()
        made: Flavour = getattr(_adapter(module, extra), attribute)(*arguments)
        return made
    for entry in entry_points(group="modelyard.flavours", name=name):
        loaded: Flavour = entry.load()()
        return loaded
    raise NotFoundError(
        f"There is no flavour {name!r}.", remedy=f"Built in are {', '.join(_BUILT_IN)}; others come with packages."
    )


def _adapter(module: str, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("modelyard"):
            raise
        raise MissingExtraError(
            f"{error.name} is not installed, and this model needs it.",
            remedy=f"Run `pip install 'modelyard[{extra}]'`.",
        ) from error
