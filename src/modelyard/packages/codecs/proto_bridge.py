"""A model's contract behind any schema: which fields of the messages are which columns, and both ways between them.

A message holds its rows in one of three layouts. `rows`: a repeated message, an element for each row, as the package's
own `model.proto` has it. `columns`: repeated scalars side by side, a whole column each. `record`: singular fields, one
row in all, as Acumos' Python client writes it. Messages inside messages are looked through for the names of leaves.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Literal

import numpy as np
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from numpy.typing import NDArray

from modelyard.contracts import Columns
from modelyard.data import Field
from modelyard.errors import ContractError
from modelyard.packages.codecs.proto import proto_names, render
from modelyard.packages.codecs.proto_messages import is_map, new_message, type_name
from modelyard.packages.codecs.proto_schema import Operation, parse
from modelyard.packages.contract import Contract, limit_rows, text_array, type_text

__all__ = ["Bridge", "Layout", "fits", "leaves_of", "own_operation"]

Layout = Literal["rows", "columns", "record"]

_MAXIMUM_LEAVES = 4096

_DTYPES = {
    FieldDescriptor.CPPTYPE_BOOL: np.dtype(np.bool_),
    FieldDescriptor.CPPTYPE_INT32: np.dtype(np.int32),
    FieldDescriptor.CPPTYPE_INT64: np.dtype(np.int64),
    FieldDescriptor.CPPTYPE_UINT32: np.dtype(np.uint32),
    FieldDescriptor.CPPTYPE_UINT64: np.dtype(np.uint64),
    FieldDescriptor.CPPTYPE_FLOAT: np.dtype(np.float32),
    FieldDescriptor.CPPTYPE_DOUBLE: np.dtype(np.float64),
    FieldDescriptor.CPPTYPE_ENUM: np.dtype(np.int32),
}


def own_operation(contract: Contract) -> Operation:
    """Return the operation of the contract's own `model.proto`."""
    return parse(render(contract)).operation(contract.operation)


def fits(contract: Contract, operation: Operation) -> list[str]:
    """Return what keeps an operation from calling a model, one sentence each; empty if it fits.

    Every input of the contract needs a field of its name, or of the name that `model.proto` gives it, whose values can
    be the contract's. Every field of the output message needs an output that it can hold; outputs without a field are
    left out. An output message of one field, such as `value`, takes the first output that it can hold.

    Args:
        contract: Of the model.
        operation: Of any schema.
    """
    return [*_match_inputs(contract, operation.input)[1], *_match_outputs(contract, operation.output)[1]]


def leaves_of(kind: Descriptor) -> tuple[Layout, tuple[FieldDescriptor, ...]]:
    """Return the layout of a message, and the scalar fields of one of its rows in the order of the file."""
    rows, leaves = _leaves(kind)
    return _layout(rows, leaves.values()), tuple(path[-1] for path in leaves.values())


class Bridge:
    """Carries messages of one operation to the columns of one contract, and columns back.

    Args:
        contract: Of the model.
        operation: Of any schema; None for the one of the contract's own `model.proto`.

    Raises:
        ContractError: The operation does not fit the contract; all reasons at once.
    """

    def __init__(self, contract: Contract, operation: Operation | None = None) -> None:
        self.contract = contract
        self.operation = own_operation(contract) if operation is None else operation
        self._given, misfits = _match_inputs(contract, self.operation.input)
        self._result, more = _match_outputs(contract, self.operation.output)
        if misfits or more:
            raise ContractError(
                " ".join([*misfits, *more]),
                where=f"operation {self.operation.name!r}",
                remedy="Take the model.proto of the package, or change the messages.",
            )

    @property
    def layouts(self) -> tuple[Layout, Layout]:
        """The layouts of the input and of the output message."""
        return self._given.layout, self._result.layout

    @property
    def aligned(self) -> bool:
        """Whether the input message holds columns side by side, for `from_csv`."""
        return self._given.layout == "columns"

    def columns(self, message: Message, max_rows: int | None = None) -> Columns:
        """Return the contract's columns of an input message.

        A field that has presence and is unset is NaN in a float column and the empty text in a text column, and an
        error elsewhere; one without presence is its default, as protobuf says.

        Args:
            message: Of the operation's input type.
            max_rows: How many rows a request may have; None for any number.

        Raises:
            ContractError: Too many rows, or a value does not fit; `where` names row and field.
        """
        given = self._given
        if given.layout == "columns":
            columns: dict[str, Any] = {one.field.name: _whole_column(one, message) for one in given.places}
            count = max(map(len, columns.values()))
            limit_rows(count, max_rows)
        else:
            rows = list(getattr(message, given.rows)) if given.layout == "rows" else [message]
            limit_rows(len(rows), max_rows)
            columns = {one.field.name: _column(one, rows) for one in given.places}
        return self.contract.check(columns)

    def readable(self, message: Message, max_rows: int | None = None) -> tuple[Columns, dict[int, ContractError]]:
        """Return the columns of the rows that fit, and for each other row what is wrong with it.

        Args:
            message: Of the operation's input type.
            max_rows: How many rows a request may have; None for any number.

        Raises:
            ContractError: Too many rows; no row fits; or a value does not fit where the message is no table of rows.
        """
        try:
            return self.columns(message, max_rows), {}
        except ContractError:
            given = self._given
            if given.layout != "rows" or (max_rows is not None and len(getattr(message, given.rows)) > max_rows):
                raise
        parts: list[Columns] = []
        refused: dict[int, ContractError] = {}
        for index, row in enumerate(getattr(message, given.rows)):
            try:
                parts.append(self.contract.check({one.field.name: _column(one, [row]) for one in given.places}))
            except ContractError as error:
                where = (error.where or "").replace("row 0", f"row {index}", 1)
                refused[index] = ContractError(error.what, where=where or None, remedy=error.remedy)
        if not parts:
            raise refused[0]
        columns = {field.name: np.concatenate([part[field.name] for part in parts]) for field in self.contract.inputs}
        return columns, refused

    def message(self, outputs: Columns) -> Message:
        """Return the output message of a prediction.

        Args:
            outputs: The contract's outputs.

        Raises:
            ContractError: The message has room for one row, and there are more or none.
        """
        result = self._result
        message = new_message(self.operation.output)
        if result.layout == "columns":
            for one in result.places:
                _parent(message, one).extend(itertools.chain.from_iterable(_values(one, outputs, nested=True)))
            return message
        count = len(outputs[self.contract.outputs[0].name])
        if result.layout == "record":
            if count != 1:
                raise ContractError(
                    f"The message {self.operation.output.name} holds one row, and the answer has {count}.",
                    remedy="Declare the fields of the output message as repeated.",
                )
            targets: Iterable[Message] = [message]
        else:
            add = getattr(message, result.rows).add
            if result.flat:
                names = [one.path[0].name for one in result.places]
                for values in zip(*(_values(one, outputs) for one in result.places), strict=True):
                    add(**dict(zip(names, values, strict=True)))
                return message
            targets = (add() for _ in range(count))
        for target, *row in zip(targets, *(_values(one, outputs) for one in result.places), strict=True):
            for one, value in zip(result.places, row, strict=True):
                _put(target, one, value)
        return message


@dataclass(frozen=True, slots=True)
class _Place:
    """One field of the contract and the way to it: the last part of the path is the leaf."""

    field: Field
    path: tuple[FieldDescriptor, ...]

    @property
    def leaf(self) -> FieldDescriptor:
        return self.path[-1]

    @property
    def dotted(self) -> str:
        return ".".join(part.name for part in self.path)


@dataclass(frozen=True, slots=True)
class _Side:
    """One message and the places in it; `rows` is the repeated message's name, or empty."""

    layout: Layout
    rows: str
    places: tuple[_Place, ...]

    @property
    def flat(self) -> bool:
        return all(len(one.path) == 1 for one in self.places)


_Leaves = Mapping[str, tuple[FieldDescriptor, ...]]


def _leaves(kind: Descriptor) -> tuple[str, _Leaves]:
    """Return the name of the repeated message of rows, or the empty text, and the scalar fields of a row by name."""
    tables = [field for field in kind.fields if field.is_repeated and field.message_type is not None]
    tables = [field for field in tables if not is_map(field)]
    if len(tables) == 1:
        return tables[0].name, _find_leaves(tables[0].message_type)
    return "", _find_leaves(kind)


def _find_leaves(kind: Descriptor) -> dict[str, tuple[FieldDescriptor, ...]]:
    """Return the way to each scalar by its name, the shallowest where several have it; each message once."""
    found: dict[str, tuple[FieldDescriptor, ...]] = {}
    seen = {kind.full_name}
    level: list[tuple[Descriptor, tuple[FieldDescriptor, ...]]] = [(kind, ())]
    while level:
        deeper = []
        for message, above in level:
            for field in message.fields:
                if field.message_type is None:
                    if len(found) < _MAXIMUM_LEAVES:
                        found.setdefault(field.name, (*above, field))
                elif not field.is_repeated and field.message_type.full_name not in seen:
                    seen.add(field.message_type.full_name)
                    deeper.append((field.message_type, (*above, field)))
        level = deeper
    return found


def _layout(rows: str, places: Iterable[tuple[FieldDescriptor, ...]]) -> Layout:
    if rows:
        return "rows"
    leaves = [path[-1] for path in places]
    return "columns" if leaves and all(leaf.is_repeated for leaf in leaves) else "record"


def _match_inputs(contract: Contract, kind: Descriptor) -> tuple[_Side, list[str]]:
    rows, leaves = _leaves(kind)
    places, misfits = [], []
    for field, safe in zip(contract.inputs, proto_names(contract.inputs), strict=True):
        path = leaves.get(field.name) or leaves.get(safe)
        if path is None:
            misfits.append(f"The message {kind.name} has no field {safe!r} for {type_text(field)}.")
        else:
            places.append(_Place(field, path))
    layout = _layout(rows, (one.path for one in places))
    for one in places:
        if not _can_give(one.leaf, one.field.dtype):
            misfits.append(_wrong_type(kind, one))
        elif layout != "columns" and one.leaf.is_repeated != bool(one.field.shape):
            misfits.append(_wrong_shape(kind, one))
    return _Side(layout, rows, tuple(places)), misfits


def _match_outputs(contract: Contract, kind: Descriptor) -> tuple[_Side, list[str]]:
    rows, leaves = _leaves(kind)
    layout = _layout(rows, leaves.values())
    names = proto_names(contract.outputs)
    by_name = {name: field for field, safe in zip(contract.outputs, names, strict=True) for name in (safe, field.name)}
    places, misfits = [], []
    for name, path in leaves.items():
        field = by_name.get(name)
        if field is None and len(leaves) == 1:
            fitting = (one for one in contract.outputs if _can_hold(path[-1], one, layout))
            field = next(fitting, contract.outputs[0])
        if field is None:
            misfits.append(f"The model has no output for the field {name!r} of the message {kind.name}.")
            continue
        place = _Place(field, path)
        if not _can_take(path[-1], field.dtype):
            misfits.append(_wrong_type(kind, place))
        elif not _can_hold(path[-1], field, layout):
            misfits.append(_wrong_shape(kind, place))
        else:
            places.append(place)
    if not leaves:
        misfits.append(f"The message {kind.name} has no field for an answer.")
    return _Side(layout, rows, tuple(places)), misfits


def _wrong_type(kind: Descriptor, place: _Place) -> str:
    return (
        f"The field {place.dotted!r} of the message {kind.name} is {type_name(place.leaf)}, "
        f"and the contract says {type_text(place.field)}."
    )


def _wrong_shape(kind: Descriptor, place: _Place) -> str:
    what = "repeated" if place.leaf.is_repeated else "not repeated"
    return (
        f"The field {place.dotted!r} of the message {kind.name} is {what}, and the contract says "
        f"{type_text(place.field)}."
    )


def _can_give(leaf: FieldDescriptor, dtype: str) -> bool:
    """Say whether values of a proto field can be a column's; numbers are looked at one by one later."""
    if dtype == "string":
        return bool(leaf.type == FieldDescriptor.TYPE_STRING or leaf.enum_type is not None)
    if leaf.cpp_type not in _DTYPES:
        return False
    return bool((dtype == "bool") == (leaf.cpp_type == FieldDescriptor.CPPTYPE_BOOL))


def _can_take(leaf: FieldDescriptor, dtype: str) -> bool:
    """Say whether a proto field can hold every value of a dtype, floats rounded; text holds anything."""
    if leaf.type == FieldDescriptor.TYPE_STRING:
        return True
    if dtype == "string" or leaf.cpp_type not in _DTYPES or leaf.enum_type is not None:
        return False
    given, wanted = np.dtype(dtype), _DTYPES[leaf.cpp_type]
    if given.kind == "b" or wanted.kind == "b":
        return given.kind == wanted.kind
    return (given.kind == "f" and wanted.kind == "f") or bool(np.can_cast(given, wanted, "safe"))


def _can_hold(leaf: FieldDescriptor, field: Field, layout: Layout) -> bool:
    return _can_take(leaf, field.dtype) and (layout == "columns" or leaf.is_repeated == bool(field.shape))


def _column(place: _Place, rows: Sequence[Message]) -> NDArray[Any]:
    values = list(map(attrgetter(place.dotted), rows))
    if not place.field.shape:
        if place.leaf.has_presence and not place.leaf.has_default_value:
            _fill_absent(place, rows, values)
        return _array(place, values, len(values)).reshape(len(rows))
    size = math.prod(place.field.shape)
    for index, value in enumerate(values):
        if len(value) != size:
            raise ContractError(
                f"Expected {size} values; got {len(value)}.",
                where=f"row {index}, field {place.field.name!r}",
                remedy=f"Give {place.field.name!r} as {type_text(place.field)}, in row-major order.",
            )
    flat = itertools.chain.from_iterable(values)
    return _array(place, flat, size * len(rows)).reshape(len(rows), *place.field.shape)


def _fill_absent(place: _Place, rows: Sequence[Message], values: list[Any]) -> None:
    """Put what stands for a missing value where a field with presence is unset."""
    parent = attrgetter(".".join(part.name for part in place.path[:-1])) if len(place.path) > 1 else None
    name, dtype = place.leaf.name, place.field.dtype
    for index, row in enumerate(rows):
        if not (row if parent is None else parent(row)).HasField(name):
            if dtype.startswith("float"):
                values[index] = math.nan
            elif dtype != "string":
                raise ContractError(
                    f"Expected {type_text(place.field)}; the field is unset.",
                    where=f"row {index}, field {place.field.name!r}",
                    remedy=f"Give {place.field.name!r} a value.",
                )
            elif place.leaf.enum_type is not None:
                values[index] = None


def _whole_column(place: _Place, message: Message) -> NDArray[Any]:
    values = attrgetter(place.dotted)(message)
    size = math.prod(place.field.shape)
    if len(values) % size:
        raise ContractError(
            f"Expected {size} values for each row; got {len(values)} in all.",
            where=f"field {place.field.name!r}",
            remedy=f"Give {place.field.name!r} as {type_text(place.field)}, in row-major order.",
        )
    return _array(place, values, len(values)).reshape(len(values) // size, *place.field.shape)


def _array(place: _Place, values: Iterable[Any], count: int) -> NDArray[Any]:
    if place.field.dtype != "string":
        return np.fromiter(values, dtype=_DTYPES[place.leaf.cpp_type], count=count)
    if place.leaf.enum_type is not None:
        names = {number: value.name for number, value in place.leaf.enum_type.values_by_number.items()}
        values = ["" if value is None else names.get(value, str(value)) for value in values]
    texts = list(values)
    return text_array(Field(place.field.name, "string"), texts) if texts else np.empty(0, dtype="<U1")


def _values(place: _Place, outputs: Columns, *, nested: bool = False) -> list[Any]:
    """Return an output as Python values, a list for each row where it is an array or a list is asked for."""
    array = outputs[place.field.name]
    if place.leaf.type == FieldDescriptor.TYPE_STRING and array.dtype.kind != "U":
        texts = [str(value).lower() if array.dtype.kind == "b" else str(value) for value in array.ravel()]
        array = np.array(texts, dtype=np.str_).reshape(array.shape)
    if place.field.shape or nested:
        array = array.reshape(len(array), math.prod(place.field.shape))
    values: list[Any] = array.tolist()
    return values


def _parent(message: Message, place: _Place) -> Any:
    return attrgetter(place.dotted)(message)


def _put(target: Message, place: _Place, value: Any) -> None:
    for part in place.path[:-1]:
        target = getattr(target, part.name)
    if place.leaf.is_repeated:
        getattr(target, place.leaf.name).extend(value)
    else:
        setattr(target, place.leaf.name, value)
