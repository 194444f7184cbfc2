"""A contract as a proto3 file in the rows convention of Acumos: one message for a row, one for a table, one service.

Language: https://protobuf.dev/reference/protobuf/proto3-spec/. The text is written here and not by a library, because
it is short, must be the same for the same contract, and is read by people (decision 0043).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from modelyard.data import Field
from modelyard.packages.contract import Contract, type_text

__all__ = ["PROTO_TYPES", "field_numbers", "message_names", "proto_names", "render"]

PROTO_TYPES = {
    "bool": "bool",
    "int8": "int32",
    "int16": "int32",
    "int32": "int32",
    "int64": "int64",
    "uint8": "uint32",
    "uint16": "uint32",
    "uint32": "uint32",
    "uint64": "uint64",
    "float16": "float",
    "float32": "float",
    "float64": "double",
    "string": "string",
}
"""The protobuf type of each dtype: the smallest that holds every value."""

_RESERVED = range(19_000, 20_000)
"""Field numbers that protobuf keeps for itself."""


def render(contract: Contract) -> str:
    """Return `model.proto` for a contract; equal contracts give equal text.

    Array fields are `repeated`, flattened in row-major order; a comment names dtype and shape. There is no `package`
    line, because the Java model runner can't read one.
    """
    given, result = message_names(contract)
    parts = [
        'syntax = "proto3";\n',
        _row(f"{given}Row", contract.inputs),
        f"message {given} {{\n  repeated {given}Row rows = 1;\n}}\n",
        _row(f"{result}Row", contract.outputs),
        f"message {result} {{\n  repeated {result}Row rows = 1;\n}}\n",
        f"service Model {{\n  rpc {contract.operation} ({given}) returns ({result});\n}}\n",
    ]
    return "\n".join(parts)


def message_names(contract: Contract) -> tuple[str, str]:
    """Return the names of the input and the output message: `PredictIn`, `PredictOut` for `predict`."""
    title = contract.operation[:1].upper() + contract.operation[1:]
    return f"{title}In", f"{title}Out"


def proto_names(fields: Sequence[Field]) -> tuple[str, ...]:
    """Return the name of each field in the proto file, in order.

    What is no letter, digit or underscore becomes an underscore, and what starts with a digit gets a letter before it.
    Names that would be the same in proto3 JSON (`a_b` and `aB`) get a number behind.
    """
    taken: set[str] = set()
    names = []
    for field in fields:
        base = re.sub(r"[^A-Za-z0-9_]", "_", field.name)
        if not base[0].isalpha():
            base = f"f{base}" if base[0] == "_" else f"f_{base}"
        name, count = base, 2
        while _json_key(name) in taken:
            name, count = f"{base}_{count}", count + 1
        taken.add(_json_key(name))
        names.append(name)
    return tuple(names)


def field_numbers(fields: Sequence[Field]) -> tuple[int, ...]:
    """Return the number of each field: 1, 2, … by order, past the numbers that protobuf reserves."""
    return tuple(
        number if number < _RESERVED.start else number + len(_RESERVED) for number in range(1, len(fields) + 1)
    )


def _row(name: str, fields: Sequence[Field]) -> str:
    lines = [f"message {name} {{"]
    for field, safe, number in zip(fields, proto_names(fields), field_numbers(fields), strict=True):
        many = "repeated " if field.shape else ""
        comment = "  // " + type_text(field) + (f" {field.name!a}" if safe != field.name else "")
        lines.append(f"  {many}{PROTO_TYPES[field.dtype]} {safe} = {number};{comment}")
    return "\n".join([*lines, "}\n"])


def _json_key(name: str) -> str:
    return name.replace("_", "").lower()
