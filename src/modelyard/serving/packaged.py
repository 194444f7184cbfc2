"""Serves packages: verify the manifest, load the ONNX model, warm it up and compare it with its golden samples."""

from __future__ import annotations

import importlib
import time
from pathlib import Path
from typing import Any

from modelyard.contracts import Columns
from modelyard.packages.codecs import csv
from modelyard.packages.codecs import json as json_codec
from modelyard.packages.contract import Contract
from modelyard.packages.golden import Golden, check_golden
from modelyard.packages.model import Model
from modelyard.packages.package import Package
from modelyard.serving.loading import ARROW, CSV, JSON, JSON_COLUMNS, PARQUET, Served
from modelyard.serving.spec import Limits

__all__ = ["load", "verify"]

DOCUMENTS = ("model.proto", "metadata.json")
WARM_UPS = 5


def verify(folder: Path, pickle: str | None = None) -> Contract:
    """Check a package's files against its manifest and return its contract.

    Args:
        folder: Of the package.
        pickle: BLAKE3 of the pickled model in it that may be loaded; None: none may.

    Raises:
        IntegrityError: A file is missing, added or changed; it names the file. Or the pickle is another one.
        RefusedError: The model is a pickle that may not be loaded.
    """
    package = Package.open(folder)
    package.check_pickle(pickle)
    return package.contract


def load(folder: Path, pickle: str | None = None) -> Served:
    """Return a package as something that answers; its golden samples are predicted and compared first.

    Args:
        folder: Of the package.
        pickle: BLAKE3 of the pickled model in it that may be loaded; None: none may.

    Raises:
        IntegrityError: A file was changed, the model can't be trusted, or its answers are not those of its samples.
        NotFoundError: The package has no ONNX model.
        RefusedError: The model is a pickle that may not be loaded.
    """
    package = Package.open(folder)
    model = package.served(pickle)
    golden = package.golden()
    check_golden(golden, model)
    contract = package.contract
    decoder = json_codec.JsonCodec(contract)
    return Served(
        contract=contract,
        predict=model.predict_checked,
        decoders={
            JSON: decoder.decode,
            CSV: lambda body, rows: csv.decode(contract, body, rows),
        },
        unpackers={
            ARROW: lambda body, limits: _unpack("arrow", contract, body, limits),
            PARQUET: lambda body, limits: _unpack("parquet", contract, body, limits),
        },
        encoders={
            JSON: lambda outputs: b'{"rows":' + json_codec.encode(outputs) + b"}",
            JSON_COLUMNS: lambda outputs: b'{"columns":' + json_codec.encode(outputs, "columns") + b"}",
            CSV: csv.encode,
            ARROW: lambda outputs: _codec("arrow").encode(outputs),
            PARQUET: lambda outputs: _codec("parquet").encode(outputs),
        },
        row_seconds=_row_seconds(model, golden),
        joinable=_joinable(model, golden),
        documents={name: (folder / name).read_bytes() for name in DOCUMENTS},
        golden=golden,
    )


def _codec(name: str) -> Any:
    """Return a codec that is imported when it is first used: Arrow takes 35 MB of each worker."""
    return importlib.import_module(f"modelyard.packages.codecs.{name}")


def _unpack(name: str, contract: Contract, body: bytes, limits: Limits) -> Columns:
    table = _codec("arrays").Limits(total_bytes=limits.unpacked_bytes, ratio=limits.decompression_ratio)
    columns: Columns = _codec(name).decode(contract, body, limits.rows, table)
    return columns


def _row_seconds(model: Model, golden: Golden) -> float:
    """Return how long one row takes: the best of a few, as the first ones still warm up."""
    row = {name: values[:1] for name, values in golden.inputs.items()}
    best = float("inf")
    for _ in range(WARM_UPS):
        started = time.perf_counter()
        model.predict_checked(row)
        best = min(best, time.perf_counter() - started)
    return best


def _joinable(model: Model, golden: Golden) -> bool:
    """Say whether each row of the samples is answered the same alone, with some others, and with all of them.

    A tree does; a network may not, since a matrix product adds up in another order for another number of rows.
    """
    inputs = golden.inputs
    rows = len(next(iter(inputs.values())))
    together = model.predict_checked(inputs)
    for size in {1, 2, 3} - {rows}:
        for first in range(0, rows, size):
            part = slice(first, first + size)
            some = model.predict_checked({name: values[part] for name, values in inputs.items()})
            if any(values.tobytes() != together[name][part].tobytes() for name, values in some.items()):
                return False
    return rows > 1
