"""Request and response bodies in JSON, by rows or by columns.

A request is `{"rows": [{"age": 41, …}, …]}`, or the bare list of rows, or `{"columns": {"age": [41, …], …}}`. Array
fields are nested lists in row-major order. `null` stands for what is missing: NaN in a float field, the empty text in a
text field; elsewhere it is an error. Keys that the contract does not name are ignored.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from itertools import starmap
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from modelyard.contracts import Columns
from modelyard.data import Field
from modelyard.errors import ContractError
from modelyard.packages.contract import Contract, coerce, describe, limit_rows, shown, text_array, type_text
from modelyard.packages.table import Table

__all__ = ["JsonCodec", "Layout", "decode", "encode"]

Layout = Literal["rows", "columns"]

_NARROW = ("int8", "int16", "int32", "uint8", "uint16", "uint32")
"""Integers whose range the decoder can be told: its bounds are 64-bit numbers with a sign."""

_encoder = msgspec.json.Encoder()

_PATH = re.compile(r"^(?P<what>.*?) - at `(?P<path>\$.*)`$", re.DOTALL)
_ROWS_PATH = re.compile(r"^\$(?:\.rows)?\[(?P<row>\d+)\](?:\.(?P<field>.*?))?(?P<inside>(?:\[\d+\])*)$")
_COLUMNS_PATH = re.compile(r"^\$\.columns\.(?P<field>.*?)(?:\[(?P<row>\d+)\](?P<inside>(?:\[\d+\])*))?$")


class JsonCodec:
    """Decodes request bodies into the columns of one contract; the typed decoder is made once.

    Args:
        contract: What a request must hold.
    """

    def __init__(self, contract: Contract) -> None:
        self.contract = contract
        keys = {f"f{index}": field.name for index, field in enumerate(contract.inputs)}
        one = [(key, _row_type(field)) for key, field in zip(keys, contract.inputs, strict=True)]
        all_rows = [(key, list[kind]) for key, kind in one]  # type: ignore[valid-type]  # the type is made at run time
        row = msgspec.defstruct("Row", one, rename=keys)
        table = msgspec.defstruct("Table", all_rows, rename=keys)
        # The types are made at run time.
        body = msgspec.defstruct("Body", [("rows", list[row] | None, None), ("columns", table | None, None)])  # type: ignore[valid-type]
        self._keys = tuple(keys)
        self._names = tuple(keys.values())
        kinds = {field.dtype for field in contract.inputs}
        alike = kinds in ({"float32"}, {"float64"}) and not any(field.shape for field in contract.inputs)
        self._dtype = np.dtype(kinds.pop()) if alike else None
        """What all inputs are, where they are nothing but floats of one type."""
        # The types are made at run time.
        self._decoder = msgspec.json.Decoder(body | list[row])  # type: ignore[valid-type]

    def decode(self, body: bytes | bytearray | memoryview, max_rows: int | None = None) -> Columns:
        """Return the contract's columns.

        Args:
            body: UTF-8 JSON text.
            max_rows: How many rows a request may have; None for any number.

        Raises:
            ContractError: The body is empty, not JSON, too large, or a value does not fit; `where` names row and field.
        """
        if not len(body):
            raise ContractError("The body is empty.", remedy=self._remedy())
        try:
            decoded: Any = self._decoder.decode(body)
        except msgspec.ValidationError as error:
            raise self._misfit(str(error)) from error
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ContractError(f"The body is not JSON in UTF-8: {error}.", remedy=self._remedy()) from error
        except RecursionError as error:
            raise ContractError("The body is nested too deep.", remedy=self._remedy()) from error
        rows = decoded if isinstance(decoded, list) else decoded.rows
        if rows is not None:
            if rows is not decoded and decoded.columns is not None:
                raise ContractError("The body has `rows` and `columns`.", remedy=self._remedy())
            limit_rows(len(rows), max_rows)
            if self._dtype is not None and rows:
                return Table.of_rows(self._names, [msgspec.structs.astuple(row) for row in rows], self._dtype)
            lists = [[getattr(row, key) for row in rows] for key in self._keys]
        elif decoded.columns is not None:
            lists = [getattr(decoded.columns, key) for key in self._keys]
            limit_rows(max(map(len, lists)), max_rows)
        else:
            raise ContractError("The body has neither `rows` nor `columns`.", remedy=self._remedy())
        columns = {
            field.name: coerce(field, _array(field, values))
            for field, values in zip(self.contract.inputs, lists, strict=True)
        }
        # Rows of the typed decoder have every field; lists by column may differ in length.
        return columns if rows is not None else self.contract.check(columns)

    def _misfit(self, message: str) -> ContractError:
        match = _PATH.match(message)
        if match is None:
            return ContractError(f"{message}.", remedy=self._remedy())
        place = _ROWS_PATH.match(match["path"]) or _COLUMNS_PATH.match(match["path"])
        if place is None:
            return ContractError(f"{match['what']}.", where=match["path"], remedy=self._remedy())
        where = [f"row {place['row']}"] if place["row"] is not None else []
        fields = {field.name: field for field in self.contract.inputs}
        field = fields.get(place["field"] or "")
        remedy = self._remedy()
        if field is not None:
            inside = (place["inside"] or "").replace("][", ", ")
            where.append(f"field {field.name!r}" + (f" at {inside}" if inside else ""))
            remedy = f"Give {field.name!r} as {type_text(field)}."
        return ContractError(f"{match['what']}.", where=", ".join(where) or match["path"], remedy=remedy)

    def _remedy(self) -> str:
        return f'Send {{"rows": [{{…}}]}} or {{"columns": {{…}}}} with {describe(self.contract.inputs)}.'


def decode(contract: Contract, body: bytes | bytearray | memoryview, max_rows: int | None = None) -> Columns:
    """Return the columns of a request body; as `JsonCodec.decode`, with the codec of each contract kept."""
    return _codec(contract).decode(body, max_rows)


def encode(columns: Columns, layout: Layout = "rows") -> bytes:
    """Return columns as JSON: a list of row objects, or an object of column lists. NaN and infinity become null.

    Args:
        columns: Arrays that share their first dimension.
        layout: `rows` or `columns`.
    """
    if layout == "columns":
        return _encoder.encode({name: values.tolist() for name, values in columns.items()})
    rows = zip(*[values.tolist() for values in columns.values()], strict=True)
    return _encoder.encode([*starmap(_row_of(tuple(columns)), rows)])


@functools.lru_cache(maxsize=64)
def _row_of(names: tuple[str, ...]) -> Callable[..., Any]:
    """Return what makes a row of its values: msgspec writes its own structs twice as fast as dictionaries."""
    keys = {f"f{place}": name for place, name in enumerate(names)}
    try:
        return msgspec.defstruct("Row", [(key, object) for key in keys], rename=keys)
    except ValueError:
        # It takes no names that JSON would have to escape.
        return lambda *values: dict(zip(names, values, strict=True))


@functools.lru_cache(maxsize=64)
def _codec(contract: Contract) -> JsonCodec:
    return JsonCodec(contract)


def _row_type(field: Field) -> Any:
    kind: Any
    if field.dtype == "string":
        kind = str if field.shape else str | None
    elif field.dtype == "bool":
        kind = bool
    elif field.dtype.startswith("float"):
        kind = float
        if field.dtype != "float64":
            # Checked by the decoder, where it costs nothing; a number past it would become infinity.
            largest = float(np.finfo(field.dtype).max)
            kind = Annotated[float, msgspec.Meta(ge=-largest, le=largest)]
        kind = kind | None
    else:
        # A whole float such as 2.0 is an integer in JSON's eyes, and is one for `coerce` too.
        kind = int | float
        if field.dtype in _NARROW:
            limits = np.iinfo(field.dtype)
            kind = Annotated[int, msgspec.Meta(ge=int(limits.min), le=int(limits.max))] | float
    for size in reversed(field.shape):
        kind = Annotated[list[kind], msgspec.Meta(min_length=size, max_length=size)]
    return kind


def _array(field: Field, values: Sequence[Any]) -> NDArray[Any]:
    """Turn decoded lists, whose shapes and Python types are right already, into an array."""
    if not values:
        return np.empty((0, *field.shape), dtype="<U1" if field.dtype == "string" else field.dtype)
    if field.dtype == "string":
        return text_array(field, ["" if value is None else value for value in values] if None in values else values)
    if field.dtype == "bool":
        return np.array(values, dtype=np.bool_)
    if field.dtype.startswith("float"):
        return np.array(values, dtype=field.dtype)
    return _integers(field, values)


def _integers(field: Field, values: Sequence[Any]) -> NDArray[Any]:
    array = np.array(values)
    if array.dtype.kind in "iu":
        # The decoder has held narrow ones to their range; `coerce` looks at the others.
        return array.astype(field.dtype) if field.dtype in _NARROW else array
    # Floats among integers, or numbers past 64 bits: NumPy would round them, so each is looked at.
    limits = np.iinfo(field.dtype)
    for row, value in enumerate(values):
        for element in np.array(value, dtype=object).ravel().tolist():
            if element != int(element) or not limits.min <= element <= limits.max:
                raise ContractError(
                    f"Expected {type_text(field)}; got {shown(element)}.",
                    where=f"row {row}, field {field.name!r}",
                    remedy=f"Give {field.name!r} as {type_text(field)}.",
                )
    return np.array([np.array(value, dtype=object).astype(field.dtype) for value in values])
