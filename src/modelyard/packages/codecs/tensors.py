"""Tensors of the Open Inference Protocol v2: JSON, the binary tensor extension, and what gRPC shares with both.

Protocol: https://github.com/kserve/open-inference-protocol; binary tensors:
https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md.

Each input field of the contract is one tensor of its name: `[rows, …shape]`, and for a scalar `[rows]` or `[rows, 1]`.
Many scalar fields are never taken from one tensor, since a tensor names no columns and has one datatype. The elements
are in row-major order; in JSON they may be nested as the shape says, or flat. `null` is NaN, since JSON has no other
word for it. Raw tensors are views of the body where their place allows, and then read-only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from modelyard.contracts import Columns
from modelyard.data import Field, dtype_name
from modelyard.errors import ContractError
from modelyard.packages.codecs.tensor_data import DATATYPES, Tensor, from_nested, from_raw, to_raw
from modelyard.packages.contract import Contract, coerce, describe, limit_rows, shown

__all__ = [
    "Asked",
    "Request",
    "asked_outputs",
    "columns_of",
    "decode",
    "describe_tensors",
    "encode",
    "tensors_of",
]

Parameters = dict[str, Any]


class _Input(msgspec.Struct):
    name: str
    datatype: str
    shape: list[int]
    parameters: Parameters | None = None
    data: msgspec.Raw = msgspec.Raw(b"")


class _Output(msgspec.Struct):
    name: str
    parameters: Parameters | None = None


class _Body(msgspec.Struct):
    inputs: list[_Input]
    id: str | None = None
    parameters: Parameters | None = None
    outputs: list[_Output] | None = None


_DECODER = msgspec.json.Decoder(_Body)


@dataclass(frozen=True, slots=True)
class Asked:
    """An output that a request asks for.

    Args:
        name: Of the contract's output field.
        binary: Whether it goes back as raw bytes behind the JSON.
    """

    name: str
    binary: bool = False


@dataclass(frozen=True, slots=True)
class Request:
    """A decoded request.

    Args:
        columns: Checked against the contract.
        outputs: What to answer, in order; all of the contract's outputs where the request names none.
        id: The request's own, given back in the answer; None where it has none.
        parameters: The request's, unknown ones included.
    """

    columns: Columns
    outputs: tuple[Asked, ...]
    id: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)


def decode(
    contract: Contract,
    body: bytes | bytearray | memoryview,
    header_length: int | None = None,
    max_rows: int | None = None,
) -> Request:
    """Return what an inference request in JSON asks, with raw tensors behind the JSON or without.

    Args:
        contract: What the request must hold.
        body: The whole body.
        header_length: Value of `Inference-Header-Content-Length`: how many bytes of the body are JSON; None where the
            request has no such header, and all of it is.
        max_rows: How many rows a request may have; None for any number.

    Raises:
        ContractError: The body is not such a request, or a tensor does not fit; `where` names tensor and row.
    """
    view = memoryview(body).cast("B")
    if header_length is not None and not 0 < header_length <= len(view):
        raise ContractError(
            f"The JSON shall have {header_length} bytes, and the body has {len(view)}.",
            where="Inference-Header-Content-Length",
            remedy="Send the length of the JSON that stands before the raw tensors.",
        )
    remedy = f'Send {{"inputs": [{{"name", "datatype", "shape", "data"}}]}} with {describe(contract.inputs)}.'
    if not len(view):
        raise ContractError("The body is empty.", remedy=remedy)
    try:
        request = _DECODER.decode(view if header_length is None else view[:header_length])
    except msgspec.ValidationError as error:
        what, _, path = str(error).partition(" - at `")
        raise ContractError(f"{what}.", where=path.rstrip("`") or None, remedy=remedy) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ContractError(f"The body is not JSON in UTF-8: {error}.", remedy=remedy) from error
    except RecursionError as error:
        raise ContractError("The body is nested too deep.", remedy=remedy) from error
    raw = None if header_length is None else view[header_length:]
    columns = columns_of(contract, _tensors(request.inputs, raw), max_rows)
    parameters = request.parameters or {}
    wanted = None if request.outputs is None else [(out.name, out.parameters or {}) for out in request.outputs]
    return Request(columns, asked_outputs(contract, wanted, parameters), request.id, parameters)


def asked_outputs(
    contract: Contract, outputs: Iterable[tuple[str, Mapping[str, Any]]] | None, parameters: Mapping[str, Any]
) -> tuple[Asked, ...]:
    """Return the outputs that a request asks for; all of them where it names none.

    Args:
        contract: What there is.
        outputs: Names and parameters (`binary_data`), or None.
        parameters: The request's: `binary_data_output` holds for outputs that do not say.

    Raises:
        ContractError: There is no such output, it is asked for twice, or a parameter can't be followed.
    """
    every = _flag(parameters, "binary_data_output", "parameters")
    if not outputs:
        return tuple(Asked(out.name, bool(every)) for out in contract.outputs)
    known = {out.name for out in contract.outputs}
    asked: dict[str, Asked] = {}
    for name, settings in outputs:
        where = f"output {shown(name)}"
        if name not in known or name in asked:
            raise ContractError(
                "The output is asked for twice." if name in asked else "The model has no such output.",
                where=where,
                remedy=f"It gives {describe(contract.outputs)}.",
            )
        for unknown in ("classification", "shared_memory_region"):
            if unknown in settings:
                raise ContractError(f"The parameter {unknown!r} is not supported.", where=where)
        binary = _flag(settings, "binary_data", where)
        asked[name] = Asked(name, bool(every if binary is None else binary))
    return tuple(asked.values())


def columns_of(contract: Contract, tensors: Sequence[Tensor], max_rows: int | None = None) -> Columns:
    """Return the contract's columns from the tensors of a request, of whatever protocol.

    Args:
        contract: What they must be.
        tensors: In any order.
        max_rows: How many rows a request may have; None for any number.

    Raises:
        ContractError: One is missing, unknown or there twice, or does not fit; `where` names tensor and row.
    """
    given: dict[str, Tensor] = {}
    fields = {entry.name: entry for entry in contract.inputs}
    for tensor in tensors:
        if tensor.name not in fields or tensor.name in given:
            raise ContractError(
                "The tensor stands twice." if tensor.name in given else "The model has no such input.",
                where=f"tensor {shown(tensor.name)}",
                remedy=f"The contract asks for {describe(contract.inputs)}.",
            )
        given[tensor.name] = tensor
        if tensor.shape:
            limit_rows(tensor.shape[0], max_rows)
    columns = {name: _column(fields[name], tensor) for name, tensor in given.items()}
    if len(columns) < len(fields) or len({len(values) for values in columns.values()}) > 1:
        # It says which field is missing, or how the lengths differ.
        return contract.check(columns)
    return {name: columns[name] for name in fields}


def tensors_of(contract: Contract, columns: Columns, asked: Sequence[Asked] | None = None) -> list[Tensor]:
    """Return answer columns as tensors, `[rows, …shape]` each.

    Args:
        contract: Whose outputs they are.
        columns: The model's answer.
        asked: Which, in order; None for all.
    """
    names = [out.name for out in (asked if asked is not None else contract.outputs)]
    return [
        Tensor(name, DATATYPES[dtype_name(columns[name].dtype)], tuple(columns[name].shape), columns[name])
        for name in names
    ]


def describe_tensors(fields: Sequence[Field]) -> list[dict[str, Any]]:
    """Return fields as the metadata of a model has them: name, datatype and shape, with -1 for the rows."""
    return [{"name": f.name, "datatype": DATATYPES[f.dtype], "shape": [-1, *f.shape]} for f in fields]


def encode(
    contract: Contract,
    columns: Columns,
    request: Request,
    *,
    model_name: str,
    model_version: str,
    parameters: Mapping[str, Any] | None = None,
) -> tuple[bytes, int | None]:
    """Return an inference response, and how many bytes of it are JSON where raw tensors stand behind (else None).

    Args:
        contract: Whose outputs the columns are.
        columns: The model's answer.
        request: Says which outputs, which of them raw, and the id.
        model_name: Told in the answer.
        model_version: Told in the answer.
        parameters: Told in the answer; None leaves them out.
    """
    outputs, raws = [], []
    for asked, tensor in zip(request.outputs, tensors_of(contract, columns, request.outputs), strict=True):
        told: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape}
        if asked.binary:
            raws.append(to_raw(tensor.data))
            told["parameters"] = {"binary_data_size": len(raws[-1])}
        else:
            told["data"] = tensor.data.reshape(-1).tolist()
        outputs.append(told)
    answer: dict[str, Any] = {"model_name": model_name, "model_version": model_version}
    if request.id is not None:
        answer["id"] = request.id
    if parameters:
        answer["parameters"] = parameters
    answer["outputs"] = outputs
    head = msgspec.json.encode(answer)
    return (b"".join((head, *raws)), len(head)) if raws else (head, None)


def _tensors(inputs: Sequence[_Input], raw: memoryview | None) -> list[Tensor]:
    tensors = []
    place = 0
    for given in inputs:
        settings = given.parameters
        if settings is None and len(given.data):
            tensors.append(from_nested(given.name, given.datatype, given.shape, given.data))
            continue
        where = f"tensor {shown(given.name)}"
        settings = settings or {}
        if "shared_memory_region" in settings:
            raise ContractError("The parameter 'shared_memory_region' is not supported.", where=where)
        size = settings.get("binary_data_size")
        if size is None:
            if not len(given.data):
                raise ContractError("The tensor has neither `data` nor `binary_data_size`.", where=where)
            tensors.append(from_nested(given.name, given.datatype, given.shape, given.data))
            continue
        if type(size) is not int or size < 0:
            raise ContractError("`binary_data_size` is no count of bytes.", where=where)
        if len(given.data):
            raise ContractError("The tensor has both `data` and `binary_data_size`.", where=where)
        if raw is None:
            raise ContractError(
                "The tensor shall stand behind the JSON, and the request does not say where the JSON ends.",
                where=where,
                remedy="Send the header Inference-Header-Content-Length.",
            )
        if place + size > len(raw):
            raise ContractError(f"The tensor shall have {size} bytes, and {len(raw) - place} are left.", where=where)
        tensors.append(from_raw(given.name, given.datatype, given.shape, raw[place : place + size]))
        place += size
    if raw is not None and place != len(raw):
        raise ContractError(
            f"{len(raw) - place} bytes behind the JSON belong to no tensor.",
            remedy="State `binary_data_size` of each raw tensor.",
        )
    return tensors


def _column(entry: Field, tensor: Tensor) -> Any:
    values = tensor.data
    if not entry.shape and values.ndim == 2 and values.shape[1] == 1:
        values = values.reshape(-1)
    if values.ndim != 1 + len(entry.shape) or values.shape[1:] != entry.shape:
        wanted = ["rows", *map(str, entry.shape)]
        raise ContractError(
            f"The tensor has the shape {list(tensor.shape)}; [{', '.join(wanted)}] is needed.",
            where=f"tensor {entry.name!r}",
            remedy=f"Send it with the shape [{', '.join(wanted)}]" + ("." if entry.shape else " or [rows, 1]."),
        )
    try:
        return coerce(entry, values)
    except ContractError as error:
        place = (error.where or "").replace(f", field {entry.name!r}", "")
        raise ContractError(
            error.what, where=f"tensor {entry.name!r}, {place}", remedy=f"Send it as {DATATYPES[entry.dtype]}."
        ) from error


def _flag(parameters: Mapping[str, Any], name: str, where: str) -> bool | None:
    value = parameters.get(name)
    if value is not None and not isinstance(value, bool):
        raise ContractError(f"The parameter {name!r} is neither true nor false.", where=where)
    return value
