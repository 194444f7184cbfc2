"""A proto file with everything in it, and the Python module that protoc generates for it: the judge of our messages."""

from __future__ import annotations

import importlib.util
import tempfile
from pathlib import Path
from typing import Any

from grpc_tools import protoc

SCALARS = (
    "double", "float", "int32", "int64", "uint32", "uint64", "sint32", "sint64",
    "fixed32", "fixed64", "sfixed32", "sfixed64", "bool", "string", "bytes",
)  # fmt: skip
"""The 15 scalar types of the language."""

GOLDEN = f"""syntax = "proto3";
package golden.v1;
import "google/protobuf/timestamp.proto";
import "google/protobuf/wrappers.proto";
enum Colour {{ NONE = 0; RED = 1; BLUE = -2; }}
message All {{
  {" ".join(f"{kind} {kind}_one = {number};" for number, kind in enumerate(SCALARS, 1))}
  {" ".join(f"repeated {kind} {kind}_many = {number};" for number, kind in enumerate(SCALARS, 21))}
  Colour colour = 41;
  repeated Colour colours = 42;
  map<string, int64> counts = 43;
  map<int32, Inner> inners = 44;
  message Inner {{ string leafName = 1; optional double maybe = 2; }}
  Inner inner = 45;
  repeated Inner rows = 46;
  oneof choice {{ string text = 47; int64 number = 48; }}
  All next = 49;
  google.protobuf.Timestamp at = 50;
  google.protobuf.Int64Value wrapped = 51;
  repeated int32 loose = 52 [packed = false];
}}
service Model {{ rpc all (All) returns (All); }}
"""


def load(text: str, name: str) -> Any:
    """Return the module that protoc generates for a text."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, f"{name}.proto").write_text(text, encoding="utf-8")
        include = Path(protoc.__file__).parent / "_proto"
        arguments = [f"-I{folder}", f"-I{include}", f"--python_out={folder}", f"{name}.proto"]
        assert protoc.main(["protoc", *arguments]) == 0
        spec = importlib.util.spec_from_file_location(f"{name}_pb2", Path(folder, f"{name}_pb2.py"))
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
