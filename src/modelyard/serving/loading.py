"""What a loader makes of a package folder: something that answers."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from modelyard.contracts import Columns
from modelyard.packages.contract import Contract
from modelyard.packages.golden import Golden

if TYPE_CHECKING:
    from modelyard.serving.spec import Limits
    from modelyard.serving.state import GenerationRecord

__all__ = [
    "ARROW",
    "CSV",
    "Decoder",
    "JSON",
    "JSON_COLUMNS",
    "Loader",
    "Served",
    "Unpacker",
    "Verifier",
    "loader_of",
    "verifier_of",
]

JSON = "application/json"
CSV = "text/csv"
ARROW = "application/vnd.apache.arrow.stream"
PARQUET = "application/vnd.apache.parquet"
JSON_COLUMNS = "application/json; layout=columns"
"""Not a media type on the wire: JSON for who asked by columns."""


Decoder = Callable[[bytes, int], Columns]
"""Raises ContractError where the body does not fit, and TooManyRowsError where it has more rows."""

Unpacker = Callable[[bytes, "Limits"], Columns]
"""Raises as a decoder, and ContractError where the body unpacks to too much."""


@dataclass(frozen=True, slots=True)
class Served:
    """A model that is ready to answer.

    Args:
        contract: What it takes and gives.
        predict: Answers checked columns.
        decoders: By media type: from a body, and the most rows that it may have, to checked columns.
        unpackers: As decoders, for tables that are larger than their bodies.
        encoders: By media type, and JSON_COLUMNS: from answer columns to a body. The JSON ones return an object.
        row_seconds: How long one row takes, measured when the model was warmed up; 0 where nobody measured.
        joinable: Whether rows are answered the same, to the last bit, whatever rows are predicted with them.
        documents: What the package says of itself, by file name: `model.proto`, `metadata.json`.
        golden: The samples that it was compared with; they make examples that work.
        kept: What a surface has derived from the contract and the documents; it goes when the model goes.
    """

    contract: Contract
    predict: Callable[[Columns], Columns]
    decoders: Mapping[str, Decoder]
    encoders: Mapping[str, Callable[[Columns], bytes]]
    unpackers: Mapping[str, Unpacker] = field(default_factory=dict)
    row_seconds: float = 0.0
    joinable: bool = False
    documents: Mapping[str, bytes] = field(default_factory=dict)
    golden: Golden | None = None
    kept: dict[str, Any] = field(default_factory=dict, compare=False)

    @staticmethod
    def json_prefix(record: GenerationRecord) -> bytes:
        """Return the start of a JSON answer: an object that names model, version and generation, left open."""
        head = {"model": record.model, "version": record.version, "generation": record.number}
        return msgspec.json.encode(head)[:-1]


Loader = Callable[[Path, str | None], Served]
"""Loads a package folder, and of pickles only that of the BLAKE3 given; with None, none.

Raises IntegrityError, ContractError or another ModelyardError where it can't be served.
"""

Verifier = Callable[[Path, str | None], object]
"""As a loader, but loads nothing: raises where a package is not what its manifest says, or may not be served."""


def loader_of(module: str) -> Loader:
    """Return the `load` of a module; a worker is told its loader by name, as it is a process of its own."""
    found: Loader = importlib.import_module(module).load
    return found


def verifier_of(module: str) -> Verifier:
    """Return the `verify` of a module."""
    found: Verifier = importlib.import_module(module).verify
    return found
