"""A loader of a model that gives back what it is given, in every kind of tensor: texts, halves, shapes, truths."""

from __future__ import annotations

from pathlib import Path

from modelyard.data import Field
from modelyard.packages.codecs import json as codec
from modelyard.packages.contract import Contract
from modelyard.serving.loading import JSON, JSON_COLUMNS, Served

FIELDS = (
    Field("text", "string"),
    Field("half", "float16"),
    Field("grid", "int16", (2, 3)),
    Field("flag", "bool"),
    Field("big", "uint64"),
)


def write_echo(store: Path) -> str:
    (store / "echo").mkdir(parents=True)
    return "echo"


def verify(folder: Path, _pickle: str | None = None) -> Contract:
    return Contract(FIELDS, FIELDS)


def load(folder: Path, _pickle: str | None = None) -> Served:
    contract = verify(folder)
    return Served(
        contract=contract,
        predict=lambda columns: columns,
        decoders={JSON: lambda body, max_rows: codec.decode(contract, body, max_rows)},
        encoders={
            JSON: lambda outputs: b'{"rows":' + codec.encode(outputs) + b"}",
            JSON_COLUMNS: lambda outputs: b'{"columns":' + codec.encode(outputs, "columns") + b"}",
        },
    )
