"""Estimators with scikit-learn's interface as a pickle, for what skops and ONNX can't keep."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from modelyard.errors import DataError, IntegrityError
from modelyard.files import write_atomically
from modelyard.packages.flavours.estimators import EstimatorPredictor, estimator_facts
from modelyard.packages.pickles import FLAVOUR, PICKLE_FILE, trusted_pickle

__all__ = ["PickleFlavour"]

_PROTOCOL = 5
"""Of Python 3.8 and later (PEP 574); named, so that another Python writes the same."""


class PickleFlavour:
    """Keeps a fitted classifier or regressor, of scikit-learn or made after it, with whatever it holds.

    Args:
        trusted: BLAKE3 of the pickle that may be loaded; None: none may.
    """

    name: ClassVar[str] = FLAVOUR

    def __init__(self, trusted: str | None = None) -> None:
        self._trusted = trusted

    def save(self, model: Any, folder: Path) -> Mapping[str, Any]:
        """Write the estimator; there is no ONNX form.

        Raises:
            DataError: It is neither a fitted classifier nor a fitted regressor, or can't be pickled.
        """
        facts = estimator_facts(model)
        try:
            content = pickle.dumps(model, _PROTOCOL)
        except Exception as error:
            # What an object raises when it is asked for its state is its own affair.
            raise DataError(
                f"The {type(model).__name__} can't be pickled: {error}.",
                remedy="Use functions and classes that can be imported, and no lambdas.",
            ) from error
        write_atomically(folder / PICKLE_FILE, content)
        return facts | {"onnx_missing": "it is kept as a pickle."}

    def load(self, folder: Path) -> EstimatorPredictor:
        """Load the estimator, if its bytes are the trusted ones.

        Raises:
            RefusedError: No pickle may be loaded.
            IntegrityError: The pickle is another one, or gives no estimator here.
        """
        content = trusted_pickle(folder, self._trusted)
        try:
            return EstimatorPredictor(pickle.loads(content))  # noqa: S301  (only bytes whose digest is trusted)
        except Exception as error:
            # A class that is not installed here, or another version of one: they show as anything.
            raise IntegrityError(
                f"The pickle can't be loaded: {type(error).__name__}: {error}.",
                where=str(folder / PICKLE_FILE),
                remedy="Install what it was made with: evidence/environment.lock names the versions.",
            ) from error
