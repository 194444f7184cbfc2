"""Calls of the Acumos surface: from a CSV, JSON or protobuf body to the columns of a model, and the answer back.

What an operation is, and which messages it takes, is said by the package's own `model.proto`, or by the one that a
request brings. A bridge from its messages to the contract is made once for each generation and text, and goes with it.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Literal

import msgspec
from google.protobuf.message import Message

from modelyard.contracts import Columns
from modelyard.errors import ContractError, NotFoundError
from modelyard.packages.codecs.proto import render
from modelyard.packages.codecs.proto_bridge import Bridge
from modelyard.packages.codecs.proto_csv import from_csv
from modelyard.packages.codecs.proto_messages import from_binary, from_json, to_binary, to_json
from modelyard.packages.codecs.proto_schema import Operation, Schema, parse
from modelyard.packages.contract import Contract
from modelyard.serving.loading import JSON, Served
from modelyard.serving.problems import HttpProblem
from modelyard.serving.slots import Generation

__all__ = ["MAXIMUM_REFUSED", "Call", "Kind", "find_operation", "parse", "schema_of"]

Kind = Literal["csv", "json", "binary"]
"""What a body is."""

MAXIMUM_REFUSED = 1000
"""Rows that one answer may leave out: a header names them all."""

BRIDGES = 64
"""Kept for each generation; requests that bring texts of their own push each other out."""

_ROW = re.compile(r"^row (\d+)")


class Call:
    """One request on its way.

    Args:
        kind: What its body is.
        operation: Name of the operation; None where the text has one alone.
        wanted: Media type of the answer.
        by_rows: Whether bad rows of a CSV file are left out and told, and the others answered.
        max_rows: How many rows it may have.
        schema: Of the text that it brought; None for the package's own.
    """

    def __init__(
        self,
        kind: Kind,
        operation: str | None,
        wanted: str,
        *,
        by_rows: bool = False,
        max_rows: int | None = None,
        schema: Schema | None = None,
    ) -> None:
        self.refused: Mapping[int, ContractError] | None = None
        self.missing: NotFoundError | None = None
        """Why there is no such operation, where that is what is wrong."""
        self._kind = kind
        self._operation = operation
        self._wanted = wanted
        self._by_rows = by_rows
        self._max_rows = max_rows
        self._schema = schema

    def decode(self, served: Served, body: bytes) -> Columns:
        """Return the columns that a body asks about; safe in any thread.

        Raises:
            ContractError: There is no such operation (see `missing`), its messages do not fit the model, or the body
                does not fit the messages.
        """
        try:
            bridge = self._bridge(served)
        except NotFoundError as error:
            self.missing = self.missing or error
            raise ContractError(error.what, remedy=error.remedy) from error
        message, kept, refused = self._message(bridge.operation, body, aligned=bridge.aligned)
        if self._by_rows:
            columns, more = bridge.readable(message, self._max_rows)
            refused |= {kept[row]: _renumbered(error, kept[row]) for row, error in more.items()}
            _check_refused(refused)
        else:
            columns = bridge.columns(message, self._max_rows)
        if not len(columns[served.contract.inputs[0].name]):
            raise _no_rows()
        if self.refused is None:
            self.refused = refused
        return columns

    def encode(self, generation: Generation, outputs: Columns) -> bytes:
        """Return the answer."""
        return self.answer(generation.served, outputs)

    def answer(self, served: Served, outputs: Columns) -> bytes:
        """Return the output message of a prediction; safe in any thread."""
        return self._written(self._bridge(served).message(outputs))

    def carry(self, served: Served | None, body: bytes) -> bytes:
        """Return the input message that a body stands for.

        Args:
            served: Whose operation is meant; None where the request brought the text.
            body: Of the request.

        Raises:
            NotFoundError: There is no such operation.
            ContractError: The body does not fit the message.
        """
        if served is not None:
            bridge = self._bridge(served)
            operation, aligned = bridge.operation, bridge.aligned
        elif self._schema is not None:
            operation, aligned = find_operation(self._schema, self._operation), False
        else:
            raise RuntimeError("neither a model nor a text says what the operation is")
        message, _, self.refused = self._message(operation, body, aligned=aligned)
        return self._written(message)

    def headers(self) -> list[tuple[str, str]]:
        """Return the headers that tell which rows were left out."""
        if not self._by_rows:
            return []
        return [("x-rows-refused", ",".join(map(str, sorted(self.refused or ()))))]

    def _bridge(self, served: Served) -> Bridge:
        schema = self._schema or schema_of(served)
        kept: OrderedDict[tuple[str, str | None], Bridge] = served.kept.setdefault("acumos-bridges", OrderedDict())
        key = (schema.digest, self._operation)
        bridge = kept.get(key)
        if bridge is None:
            bridge = kept[key] = Bridge(served.contract, find_operation(schema, self._operation))
            while len(kept) > BRIDGES:
                kept.popitem(last=False)
        return bridge

    def _message(
        self, operation: Operation, body: bytes, *, aligned: bool
    ) -> tuple[Message, list[int], dict[int, ContractError]]:
        """Return the input message, the rows of the file that it is made from, and what is wrong with the others."""
        if self._kind == "binary":
            return from_binary(operation.input, body), [], {}
        if self._kind == "json":
            return from_json(operation.input, body, max_rows=self._max_rows, aligned=aligned), [], {}
        reading = from_csv(
            operation.input, body, errors="rows" if self._by_rows else "refuse", max_rows=self._max_rows,
            aligned=aligned,
        )  # fmt: skip
        refused = dict(reading.refused)
        if not reading.rows:
            raise _no_rows()
        if len(refused) == reading.rows:
            raise refused[0]
        _check_refused(refused)
        return reading.message, reading.kept, refused

    def _written(self, message: Message) -> bytes:
        if self._wanted != JSON:
            return to_binary(message)
        answer = to_json(message)
        if not self._by_rows:
            return answer
        told = [
            {"row": row, "where": error.where, "detail": error.what, "remedy": error.remedy}
            for row, error in sorted((self.refused or {}).items())
        ]
        comma = b"," if answer != b"{}" else b""
        # No field of a message can have a name with this sign.
        return answer[:-1] + comma + b'"@refused":' + msgspec.json.encode(told) + b"}"


def schema_of(served: Served) -> Schema:
    """Return what the package's own `model.proto` says, or else what its contract says."""
    schema: Schema | None = served.kept.get("acumos-schema")
    if schema is None:
        schema = served.kept["acumos-schema"] = parse(proto_of(served.documents, served.contract))
    return schema


def proto_of(documents: Mapping[str, bytes], contract: Contract) -> bytes:
    """Return the text of `model.proto`."""
    return documents.get("model.proto") or render(contract).encode()


def find_operation(schema: Schema, name: str | None) -> Operation:
    """Return an operation by name, or without one the only one.

    Raises:
        HttpProblem: 400, none was named and there are several.
        NotFoundError: There is no such operation.
        InputError: Several services have it, or it is a stream.
    """
    if name is not None:
        return schema.operation(name)
    if len(schema.operations) == 1:
        return next(iter(schema.operations.values()))
    names = sorted({operation.name for operation in schema.operations.values()})
    raise HttpProblem(
        400, "malformed", "The request does not say which operation it asks for.",
        remedy=f"Send the query parameter operation={names[0] if names else '…'}; there are {', '.join(names[:8])}."
        if names else "Send a proto file with an rpc.",
    )  # fmt: skip


def _check_refused(refused: Mapping[int, Any]) -> None:
    if len(refused) > MAXIMUM_REFUSED:
        first = min(refused)
        error: ContractError = refused[first]
        raise ContractError(
            f"More than {MAXIMUM_REFUSED} rows do not fit; the first: {error.what}", where=error.where,
            remedy=error.remedy,
        )  # fmt: skip


def _renumbered(error: ContractError, row: int) -> ContractError:
    """Return an error that counts the rows of the file, not those of the message that was made from it."""
    where = _ROW.sub(f"row {row}", error.where) if error.where else None
    return ContractError(error.what, where=where, remedy=error.remedy)


def _no_rows() -> ContractError:
    return ContractError("The request has no row.", remedy="Send at least one.")
