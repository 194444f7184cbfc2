"""Looks into an ONNX file without the onnx library: external data and operator domains, before a runtime opens it.

Reads the protobuf wire format (https://protobuf.dev/programming-guides/encoding/) along the few fields of onnx.proto3
that matter; weights are stepped over, so that a large model costs no more than a small one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

__all__ = ["Findings", "scan"]

# Field numbers of onnx.proto3, by message: which fields to step into, and what each is.
_STEP: Mapping[str, Mapping[int, str]] = {
    "Model": {7: "Graph", 8: "Opset", 25: "Function"},
    "Graph": {1: "Node", 5: "Tensor", 15: "Sparse"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "Sparse", 23: "Sparse"},
    "Sparse": {1: "Tensor", 2: "Tensor"},
    "Tensor": {13: "Entry"},
    "Function": {7: "Node", 9: "Opset", 11: "Attribute"},
}
_DEPTH = 64


@dataclass
class Findings:
    """What an ONNX file refers to.

    Args:
        domains: Of operators, outside of functions that the file itself defines.
        locations: Paths of external data, as written in the file.
        functions: Domains of the functions that the file itself defines.
        numbers: Fields of the message itself.
    """

    domains: set[str] = field(default_factory=set)
    locations: set[str] = field(default_factory=set)
    functions: set[str] = field(default_factory=set)
    numbers: set[int] = field(default_factory=set)

    @property
    def is_model(self) -> bool:
        """Whether the file has a graph and says which operators it is written in, as every model does."""
        return {7, 8} <= self.numbers


def scan(data: bytes) -> Findings:
    """Return the operator domains and the external files that an ONNX model names.

    Args:
        data: The serialized ModelProto.

    Raises:
        ValueError: The bytes are no protobuf message, or are nested deeper than any real model.
    """
    findings = Findings()
    _walk(memoryview(data), "Model", findings, 0)
    findings.domains -= findings.functions
    return findings


def _walk(data: memoryview, message: str, findings: Findings, depth: int) -> None:
    if depth > _DEPTH:
        raise ValueError("the messages are nested too deep")
    steps = _STEP.get(message, {})
    for number, value in _fields(data):
        if message == "Model":
            findings.numbers.add(number)
        if value is None:
            continue
        if number in steps:
            if steps[number] == "Entry":
                _entry(value, findings)
            else:
                _walk(value, steps[number], findings, depth + 1)
        if (message, number) in (("Node", 7), ("Opset", 1)):
            findings.domains.add(_text(value))
        elif (message, number) == ("Function", 10):
            findings.functions.add(_text(value))


def _entry(data: memoryview, findings: Findings) -> None:
    pair = {number: _text(value) for number, value in _fields(data) if value is not None}
    if pair.get(1) == "location":
        findings.locations.add(pair.get(2, ""))


def _text(value: memoryview) -> str:
    return bytes(value).decode("utf-8", errors="replace")


def _fields(data: memoryview) -> Iterator[tuple[int, memoryview | None]]:
    """Yield each field's number and, where it is length-delimited, its bytes."""
    place = 0
    while place < len(data):
        tag, place = _varint(data, place)
        number, wire = tag >> 3, tag & 7
        if number == 0:
            # No message has one; a file of zeros would be one such field for every two bytes, and take minutes.
            raise ValueError(f"the field before byte {place} has the number 0")
        value = None
        if wire == 0:
            _, place = _varint(data, place)
        elif wire == 1:
            place += 8
        elif wire == 2:
            size, place = _varint(data, place)
            value = data[place : place + size]
            place += size
        elif wire == 5:
            place += 4
        else:
            raise ValueError(f"wire type {wire} at byte {place} is none")
        if place > len(data):
            raise ValueError("the bytes end inside a field")
        yield number, value


def _varint(data: memoryview, place: int) -> tuple[int, int]:
    result = 0
    for shift in range(0, 70, 7):
        if place >= len(data):
            raise ValueError("the bytes end inside a number")
        byte = data[place]
        place += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result, place
    raise ValueError("a number has more than ten bytes")
