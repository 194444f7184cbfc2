"""Estimators of scikit-learn as skops files: no pickle, and only types from a list are built on load."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import skops.io
from sklearn.base import BaseEstimator

from modelyard.errors import InputError, IntegrityError
from modelyard.store.materializers.skops_types import TRUSTED

__all__ = ["SkopsMaterializer", "dump_estimator", "load_estimator"]

_FILE = "estimator.skops"
_SCHEMA = "schema.json"
_EPOCH = (1980, 1, 1, 0, 0, 0)


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
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as result:
            for old, new in files.items():
                content = source.read(old)
                result.writestr(_entry(new), _without_padding(content) if new.endswith(".npy") else content)
            result.writestr(_entry(_SCHEMA), json.dumps(schema, indent=1))
    return target.getvalue()


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, _EPOCH)
    entry.compress_type = zipfile.ZIP_DEFLATED
    return entry


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
