"""Estimators of scikit-learn as skops files: no pickle, and only types from a list are built on load."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import skops.io
from sklearn.base import BaseEstimator

from modelyard.errors import InputError, IntegrityError

__all__ = ["TRUSTED", "SkopsMaterializer", "dump_estimator", "load_estimator"]

_FILE = "estimator.skops"
_SCHEMA = "schema.json"
_EPOCH = (1980, 1, 1, 0, 0, 0)

TRUSTED = (
    "sklearn._loss.link.IdentityLink",
    "sklearn._loss.link.Interval",
    "sklearn._loss.link.LogLink",
    "sklearn._loss.link.LogitLink",
    "sklearn._loss.link.MultinomialLogit",
    "sklearn._loss.loss.AbsoluteError",
    "sklearn._loss.loss.HalfBinomialLoss",
    "sklearn._loss.loss.HalfGammaLoss",
    "sklearn._loss.loss.HalfMultinomialLoss",
    "sklearn._loss.loss.HalfPoissonLoss",
    "sklearn._loss.loss.HalfSquaredError",
    "sklearn._loss.loss.HuberLoss",
    "sklearn._loss.loss.PinballLoss",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.metrics._dist_metrics.EuclideanDistance32",
    "sklearn.metrics._dist_metrics.EuclideanDistance64",
    "sklearn.metrics._dist_metrics.ManhattanDistance64",
    "sklearn.metrics._dist_metrics.MinkowskiDistance64",
    "sklearn.neighbors._ball_tree.BallTree",
    "sklearn.neighbors._kd_tree.KDTree",
    "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
    "sklearn.neural_network._stochastic_optimizers.SGDOptimizer",
    "sklearn.tree._tree.Tree",
)
"""Types beyond skops' own list that fitted estimators hold; they keep numbers, and building one opens no file."""


class SkopsMaterializer:
    """An estimator, transformer or pipeline of scikit-learn."""

    name: ClassVar[str] = "skops"

    def accepts(self, value: Any) -> bool:
        """Say whether this is an estimator; one with foreign types inside is refused on save, with the reason."""
        return isinstance(value, BaseEstimator)

    def save(self, value: BaseEstimator, folder: Path) -> Mapping[str, Any]:
        """Write `estimator.skops`.

        Raises:
            InputError: It holds a type outside the trusted list, so that it could not be loaded again.
        """
        (folder / _FILE).write_bytes(dump_estimator(value))
        return {"estimator": f"{type(value).__module__}.{type(value).__qualname__}"}

    def load(self, folder: Path) -> BaseEstimator:
        """Return the estimator."""
        file = folder / _FILE
        return load_estimator(file.read_bytes(), str(file))


def dump_estimator(value: BaseEstimator) -> bytes:
    """Return an estimator as skops bytes that depend on nothing but the estimator.

    skops names parts by their address in memory and dates them, so that the same training would give another digest
    each time. Here parts are numbered in the order in which the schema meets them, and dated 1980.

    Raises:
        InputError: It holds a type outside the trusted list.
    """
    data = skops.io.dumps(value)
    foreign = _foreign(data)
    if foreign:
        raise InputError(
            f"The estimator holds types that are not trusted: {', '.join(foreign)}.",
            remedy="Use scikit-learn's own classes and functions, or write a materializer for yours.",
        )
    with zipfile.ZipFile(io.BytesIO(data)) as source:
        schema = json.loads(source.read(_SCHEMA))
        files: dict[str, str] = {}
        _renumber(schema, {}, files)
        target = io.BytesIO()
        with zipfile.ZipFile(target, "w") as result:
            for old, new in files.items():
                result.writestr(zipfile.ZipInfo(new, _EPOCH), source.read(old))
            result.writestr(zipfile.ZipInfo(_SCHEMA, _EPOCH), json.dumps(schema))
    return target.getvalue()


def load_estimator(data: bytes, where: str) -> BaseEstimator:
    """Return the estimator in skops bytes.

    Args:
        data: What `dump_estimator` gave.
        where: The file, for messages.

    Raises:
        IntegrityError: The bytes ask for a type outside the trusted list.
    """
    foreign = _foreign(data)
    if foreign:
        raise IntegrityError(
            f"The file asks for types that are not trusted: {', '.join(foreign)}.",
            where=where,
            remedy="Do not load files of unknown origin.",
        )
    estimator: BaseEstimator = skops.io.loads(data, trusted=list(TRUSTED))
    return estimator


def _foreign(data: bytes) -> list[str]:
    return sorted(set(skops.io.get_untrusted_types(data=data)) - set(TRUSTED))


def _renumber(node: Any, numbers: dict[int, int], files: dict[str, str]) -> None:
    if isinstance(node, list):
        for item in node:
            _renumber(item, numbers, files)
    elif isinstance(node, dict):
        address = node.get("__id__")
        if isinstance(address, int):
            # Equal plain values share an object or not, as the interpreter likes; nothing refers to them by number.
            plain = bool(node.get("is_json"))
            node["__id__"] = len(numbers) if plain else numbers.get(address, len(numbers))
            numbers[-len(numbers) - 1 if plain else address] = node["__id__"]
        file = node.get("file")
        if isinstance(file, str):
            node["file"] = files.setdefault(file, f"{len(files)}{Path(file).suffix}")
        for key, item in node.items():
            if key not in ("__id__", "file"):
                _renumber(item, numbers, files)
