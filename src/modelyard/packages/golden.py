"""Golden samples: raw rows and the answers that the model gave when it was packed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelyard.contracts import Columns, Predictor
from modelyard.errors import ContractError, IntegrityError
from modelyard.files import storage_errors
from modelyard.packages.codecs.json import decode, encode
from modelyard.packages.contract import Contract
from modelyard.packages.flavours.heads import close

__all__ = [
    "ANSWERS",
    "INPUTS",
    "OUTPUTS",
    "SAMPLES",
    "Golden",
    "check_golden",
    "difference",
    "read_golden",
    "sample_texts",
]

SAMPLES = 8
"""Golden rows in a package."""

ANSWERS = "answers.json"
"""In the evidence: what the evaluator was answered for the first rows by a model that is not loaded to be packed."""

INPUTS = "samples/inputs.json"
OUTPUTS = "samples/outputs.json"
_MARGIN = 1e-3
"""Two runtimes may disagree on the label of a row whose best two probabilities differ by less."""


@dataclass(frozen=True, slots=True)
class Golden:
    """Inputs of a few rows, and the outputs expected for them."""

    inputs: Columns
    outputs: Columns


def sample_texts(inputs: Columns, outputs: Columns) -> dict[str, bytes]:
    """Return the sample files; the inputs are a request body that can be sent as it is."""
    return {
        INPUTS: b'{"rows":' + encode(inputs) + b"}\n",
        OUTPUTS: b'{"rows":' + encode(outputs) + b"}\n",
    }


def read_golden(folder: Path, contract: Contract) -> Golden:
    """Read a package's golden samples.

    Raises:
        IntegrityError: They do not fit the contract.
        StorageError: They can't be read.
    """
    answers = Contract(inputs=contract.outputs, outputs=contract.outputs)
    read = []
    for path, shape in ((INPUTS, contract), (OUTPUTS, answers)):
        with storage_errors(folder / path):
            text = (folder / path).read_bytes()
        try:
            read.append(decode(shape, text))
        except ContractError as error:
            raise IntegrityError(f"The samples do not fit the contract: {error}", where=str(folder / path)) from error
    return Golden(*read)


def check_golden(golden: Golden, predictor: Predictor) -> None:
    """See that a predictor gives the expected outputs; raises IntegrityError that names row and field."""
    problem = difference(golden.outputs, predictor.predict(golden.inputs))
    if problem is not None:
        raise IntegrityError(
            f"The model does not give the outputs that it gave when it was packed: {problem}.",
            where="golden samples",
            remedy="See whether the runtime's version differs from the one in evidence/environment.lock.",
        )


def difference(expected: Columns, given: Columns) -> str | None:
    """Return how two predictions differ, as `row 3, field 'label': expected 'a', got 'b'`, or None.

    Floats may differ by 0.1 %, as between runtimes; a label may differ where the expected probabilities of the best
    two classes are within 0.001.
    """
    for name, values in expected.items():
        if name not in given:
            return f"the field {name!r} is missing"
        other = given[name]
        if other.shape != values.shape:
            return f"field {name!r}: expected the shape {list(values.shape)}, got {list(other.shape)}"
        doubtful = _doubtful(expected) if name == "label" else np.zeros(len(values), dtype=bool)
        for row in range(len(values)):
            if not doubtful[row] and not close(values[row : row + 1], other[row : row + 1]):
                return f"row {row}, field {name!r}: expected {_short(values[row])}, got {_short(other[row])}"
    return None


def _doubtful(expected: Columns) -> NDArray[np.bool_]:
    if "probabilities" not in expected or expected["probabilities"].shape[1] < 2:
        return np.zeros(len(expected["label"]), dtype=bool)
    best = np.sort(expected["probabilities"], axis=1)
    doubtful: NDArray[np.bool_] = best[:, -1] - best[:, -2] < _MARGIN
    return doubtful


def _short(value: Any) -> str:
    text = np.array2string(np.asarray(value), threshold=8, precision=6)
    return " ".join(text.split())
