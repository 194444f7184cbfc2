"""JSON Schema (2020-12) of what a contract takes and gives: rows, columns and tensors; and examples of its own."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from modelyard.contracts import Columns
from modelyard.data import Field
from modelyard.packages.codecs import csv, tensors
from modelyard.packages.codecs import json as json_codec
from modelyard.packages.codecs.tensor_data import DATATYPES, DTYPES_OF
from modelyard.packages.contract import Contract
from modelyard.packages.golden import Golden

__all__ = ["Model", "Schema", "component", "csv_header", "described_columns", "reference"]

Schema = dict[str, Any]

LONG_ROW = 64
"""Elements of a row; of longer ones an example has one and not two."""

_NO_NAME = re.compile(r"[^A-Za-z0-9_-]")
_PARAMETERS: Schema = {"type": ["object", "null"]}


def component(name: str) -> str:
    """Return a model's name as the name of a component may be written; two models never get the same."""
    return _NO_NAME.sub(lambda found: f".{ord(found[0]):x}.", name)


def reference(name: str, kind: str = "schemas") -> Schema:
    """Return a reference to a component."""
    return {"$ref": f"#/components/{kind}/{name}"}


@dataclass(frozen=True)
class Model:
    """A live model, as a description of the interface needs it.

    Args:
        name: Of the model.
        version: That is live.
        generation: Its number.
        contract: What it takes and gives.
        golden: Rows and answers; None where the package has none.
    """

    name: str
    version: str
    generation: int
    contract: Contract
    golden: Golden | None

    def part(self, name: str) -> str:
        """Return the name of one of its components."""
        return f"{component(self.name)}.{name}"

    def schemas(self) -> dict[str, Schema]:
        """Return its components: requests and answers of the plain surface and of the Open Inference Protocol."""
        inputs, outputs = self.contract.inputs, self.contract.outputs
        row, columns = reference(self.part("Row")), reference(self.part("Columns"))
        return {
            self.part("Row"): _row(inputs),
            self.part("Columns"): _columns(inputs),
            self.part("Request"): _request(row, columns),
            self.part("OutputRow"): _row(outputs),
            self.part("OutputColumns"): _columns(outputs),
            self.part("Answer"): {
                "type": "object",
                "properties": {
                    "model": {"const": self.name},
                    "version": {"type": "string"},
                    "generation": {"type": "integer", "minimum": 1},
                    "rows": {"type": "array", "items": reference(self.part("OutputRow"))},
                    "columns": reference(self.part("OutputColumns")),
                },
                "required": ["model", "version", "generation"],
                "oneOf": [{"required": ["rows"]}, {"required": ["columns"]}],
            },
            self.part("InferRequest"): _infer_request(inputs, outputs),
            self.part("InferAnswer"): _infer_answer(self.name, outputs),
        }

    @property
    def rows(self) -> int:
        """How many golden rows an example has."""
        elements = sum(math.prod(field.shape) for field in self.contract.inputs)
        return 1 if elements > LONG_ROW else 2

    def examples(self) -> dict[str, tuple[Any, Any]]:
        """Return a request and its answer by rows, columns, CSV and tensors; nothing without golden rows."""
        if self.golden is None:
            return {}
        given = {name: values[: self.rows] for name, values in self.golden.inputs.items()}
        found = {name: values[: self.rows] for name, values in self.golden.outputs.items()}
        head = {"model": self.name, "version": self.version, "generation": self.generation}
        return {
            "rows": ({"rows": _builtin(given, "rows")}, head | {"rows": _builtin(found, "rows")}),
            "columns": ({"columns": _builtin(given, "columns")}, head | {"columns": _builtin(found, "columns")}),
            "csv": (csv.encode(given).decode(), csv.encode(found).decode()),
            "tensors": self._tensors(given, found),
        }

    def _tensors(self, given: Columns, found: Columns) -> tuple[Any, Any]:
        request = tensors.Request(given, tensors.asked_outputs(self.contract, None, {}))
        answer, _ = tensors.encode(
            self.contract,
            found,
            request,
            model_name=self.name,
            model_version=self.version,
            parameters={"generation": self.generation},
        )
        inputs = [
            {
                "name": name,
                "datatype": DATATYPES[field.dtype],
                "shape": list(given[name].shape),
                "data": _flat(given, name),
            }
            for name, field in ((field.name, field) for field in self.contract.inputs)
        ]
        return {"inputs": inputs}, msgspec.json.decode(answer)


def described_columns(fields: tuple[Field, ...]) -> list[Schema]:
    """Return fields as the columns of a table are told of, where no JSON Schema can tell of them."""
    return [{"name": field.name, "dtype": field.dtype, "shape": list(field.shape)} for field in fields]


def csv_header(fields: tuple[Field, ...]) -> str:
    """Return the header of a table, cut where it is long."""
    names = [name for field in fields for name in csv.cell_names(field)]
    return ",".join(names[:8]) + (f",… ({len(names)} columns)" if len(names) > 8 else "")


def _builtin(columns: Columns, layout: json_codec.Layout) -> Any:
    # By way of the codec, so that NaN is written as it is sent.
    return msgspec.json.decode(json_codec.encode(columns, layout))


def _flat(columns: Columns, name: str) -> Any:
    return msgspec.json.decode(msgspec.json.encode(columns[name].reshape(-1).tolist()))


def _row(fields: tuple[Field, ...]) -> Schema:
    return {
        "type": "object",
        "properties": {field.name: _value(field) for field in fields},
        "required": [field.name for field in fields],
    }


def _columns(fields: tuple[Field, ...]) -> Schema:
    return {
        "type": "object",
        "description": "A list for each field, all equally long.",
        "properties": {field.name: {"type": "array", "items": _value(field)} for field in fields},
        "required": [field.name for field in fields],
    }


def _request(row: Schema, columns: Schema) -> Schema:
    rows = {"type": "array", "items": row}
    return {
        "anyOf": [
            {
                "type": "object",
                "title": "by rows",
                "properties": {"rows": rows, "columns": {"type": "null"}},
                "required": ["rows"],
            },
            {
                "type": "object",
                "title": "by columns",
                "properties": {"columns": columns, "rows": {"type": "null"}},
                "required": ["columns"],
            },
            {**rows, "title": "rows alone"},
        ]
    }


def _value(field: Field) -> Schema:
    """Return the schema of one row's value; `null` is what is missing, in a float or a text."""
    schema: Schema
    if field.dtype == "string":
        schema = {"type": "string" if field.shape else ["string", "null"]}
    elif field.dtype == "bool":
        schema = {"type": "boolean"}
    elif field.dtype.startswith("float"):
        largest = float(np.finfo(field.dtype).max)
        schema = {"type": ["number", "null"], "minimum": -largest, "maximum": largest, "format": _format(field.dtype)}
    else:
        limits = np.iinfo(field.dtype)
        schema = {"type": "integer", "minimum": int(limits.min), "maximum": int(limits.max), "format": field.dtype}
    for size in reversed(field.shape):
        schema = {"type": "array", "items": schema, "minItems": size, "maxItems": size}
    return schema


def _format(dtype: str) -> str:
    # Names of the OpenAPI format registry (https://spec.openapis.org/registry/format/).
    return {"float32": "float", "float64": "double"}.get(dtype, dtype)


def _infer_request(inputs: tuple[Field, ...], outputs: tuple[Field, ...]) -> Schema:
    tensor = {
        "type": "object",
        "properties": {
            "name": {"enum": [field.name for field in inputs]},
            "datatype": {"enum": list(DTYPES_OF)},
            "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1},
            "parameters": {
                **_PARAMETERS,
                "properties": {"binary_data_size": {"type": "integer", "minimum": 0}},
            },
            "data": {"type": "array", "description": "Flat in row-major order, or nested as the shape says."},
        },
        "required": ["name", "datatype", "shape"],
    }
    wanted = {
        "type": "object",
        "properties": {
            "name": {"enum": [field.name for field in outputs]},
            "parameters": {**_PARAMETERS, "properties": {"binary_data": {"type": ["boolean", "null"]}}},
        },
        "required": ["name"],
    }
    told = ", ".join(f"{t['name']}: {t['datatype']}{t['shape']}" for t in tensors.describe_tensors(inputs))
    return {
        "type": "object",
        "description": f"One tensor for each field: {told}.",
        "properties": {
            "id": {"type": ["string", "null"]},
            "parameters": {**_PARAMETERS, "properties": {"binary_data_output": {"type": ["boolean", "null"]}}},
            "inputs": {"type": "array", "items": tensor, "minItems": len(inputs), "maxItems": len(inputs)},
            "outputs": {"type": ["array", "null"], "items": wanted},
        },
        "required": ["inputs"],
    }


def _infer_answer(model: str, outputs: tuple[Field, ...]) -> Schema:
    tensor = {
        "type": "object",
        "properties": {
            "name": {"enum": [field.name for field in outputs]},
            "datatype": {"enum": sorted({DATATYPES[field.dtype] for field in outputs})},
            "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1},
            "data": {"type": "array"},
        },
        "required": ["name", "datatype", "shape", "data"],
    }
    return {
        "type": "object",
        "properties": {
            "model_name": {"const": model},
            "model_version": {"type": "string"},
            "id": {"type": "string"},
            "parameters": {"type": "object", "properties": {"generation": {"type": "integer"}}},
            "outputs": {"type": "array", "items": tensor},
        },
        "required": ["model_name", "model_version", "outputs"],
    }
