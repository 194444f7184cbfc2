"""The contract of a model: named, typed fields in and out, and the check that data fits them."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from modelyard.contracts import Columns
from modelyard.data import Field, dtype_name
from modelyard.errors import ContractError, TooManyRowsError

__all__ = ["DTYPES", "Contract", "coerce", "limit_rows", "next_version", "shown", "text_array"]

DTYPES = (
    "bool",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "float16",
    "float32",
    "float64",
    "string",
)  # fmt: skip
"""Every dtype that a field may have."""

TEXT_BYTES = 256 * 1024 * 1024
"""The most memory that a column of texts may take: in an array every text is as wide as the longest one."""

MAXIMUM_DIMENSIONS = 32
"""Of one row's value; NumPy has 64 for arrays as a whole."""

_SHOWN = 60
_UNFIT = re.compile(r'["\\\x00-\x1f]')
"""What JSON would have to escape in a key."""

_OPERATION = re.compile(r"^[A-Za-z_][A-Za-z0-9_]*$")


class Contract(msgspec.Struct, frozen=True):
    """What a model takes and gives.

    Args:
        inputs: The columns of a request, in order; at least one.
        outputs: The columns of an answer, in order; at least one.
        operation: Name of the remote procedure.
        classes: For classification: the label that each position of `probabilities` stands for.

    Raises:
        ContractError: No field, a name twice or with a quote or control character, an unknown dtype, an impossible
            shape, or an operation that is no identifier.
    """

    inputs: tuple[Field, ...]
    outputs: tuple[Field, ...]
    operation: str = "predict"
    classes: tuple[bool | int | float | str, ...] | None = None

    def __post_init__(self) -> None:
        if not _OPERATION.match(self.operation):
            raise ContractError(f"The operation {self.operation!r} is not an identifier.")
        for side, fields in (("input", self.inputs), ("output", self.outputs)):
            if not fields:
                raise ContractError(f"The contract has no {side} field.")
            _check_fields(side, fields)

    def to_json(self) -> bytes:
        """Return the one JSON text of this contract: sorted keys, two spaces of indent, a newline at the end."""
        return msgspec.json.format(msgspec.json.encode(self, order="sorted"), indent=2) + b"\n"

    @classmethod
    def from_json(cls, text: bytes) -> Contract:
        """Read what `to_json` wrote.

        Raises:
            ContractError: The text is not JSON, a key is missing or of the wrong type, or a field is not possible.
        """
        try:
            return msgspec.json.decode(text, type=cls)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ContractError(f"This is not a contract: {error}.") from error

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON, as 64 hexadecimal digits: two contracts are equal if and only if it is."""
        return hashlib.sha256(msgspec.json.encode(self, order="sorted")).hexdigest()

    def check(self, columns: Mapping[str, Any]) -> Columns:
        """Return the input columns in the contract's order and dtypes; other columns are left out.

        Only changes that keep the value are made: a smaller integer to a larger one, an integer or a whole float in
        range, an integer to a float that holds it exactly, a float to a smaller float (rounded, never to infinity),
        Python text to a text array. NaN and infinity pass for floats and never for integers.

        Args:
            columns: Arrays, or lists that NumPy can turn into arrays, that share their first dimension: the rows.

        Raises:
            ContractError: A field is missing, the lengths differ, or a value does not fit; `where` names row and field.
        """
        checked: dict[str, NDArray[Any]] = {}
        for field in self.inputs:
            if field.name not in columns:
                raise ContractError(
                    f"The field {field.name!r} is missing.",
                    where=f"field {field.name!r}",
                    remedy=f"The contract asks for {describe(self.inputs)}.",
                )
            checked[field.name] = coerce(field, columns[field.name])
        lengths = {name: len(values) for name, values in checked.items()}
        if len(set(lengths.values())) > 1:
            raise ContractError(
                f"The fields differ in length: {', '.join(f'{name} has {n} rows' for name, n in lengths.items())}.",
                remedy="Give every field the same number of rows.",
            )
        return checked


def describe(fields: Iterable[Field]) -> str:
    """Return fields as a person reads them: `age: int64, image: uint8[28, 28]`."""
    return ", ".join(f"{field.name}: {type_text(field)}" for field in fields)


def type_text(field: Field) -> str:
    """Return a field's type as a person reads it, such as `uint8[28, 28]`."""
    return field.dtype + (f"[{', '.join(map(str, field.shape))}]" if field.shape else "")


def next_version(old: Contract | None, new: Contract, previous: str | None) -> str:
    """Return the semantic version that a package with the contract `new` gets (https://semver.org).

    The first one is 1.0.0; a changed contract raises the major number, the same contract the minor one.

    Args:
        old: The contract of the previous version, or None where there is none.
        new: The contract of the version to be named.
        previous: The previous version, such as `1.4.0` or `v1.4.0`.

    Raises:
        ContractError: `previous` is not a version.
    """
    if old is None or previous is None:
        return "1.0.0"
    match = re.match(r"^v?(\d+)\.(\d+)\.(\d+)$", previous)
    if match is None:
        raise ContractError(f"{previous!r} is not a version.", remedy="A version is three numbers, such as 1.4.0.")
    major, minor = int(match[1]), int(match[2])
    return f"{major}.{minor + 1}.0" if old.digest == new.digest else f"{major + 1}.0.0"


def coerce(field: Field, values: Any) -> NDArray[Any]:
    """Return values as an array of the field's dtype and shape, as `Contract.check` says.

    Args:
        field: What is expected.
        values: An array, or a list that NumPy can turn into one; the first dimension counts the rows.

    Raises:
        ContractError: `where` names the first row that does not fit, and the field.
    """
    array = _as_array(field, values)
    if array.shape[1:] != field.shape:
        raise _misfit(field, 0, f"a row has the shape {list(array.shape[1:])}")
    if field.dtype == "string":
        if array.dtype.kind == "U" or array.size == 0:
            return array if array.dtype.kind == "U" else array.astype("<U1")
        raise _misfit(field, 0, f"got {dtype_name(array.dtype)}")
    target = np.dtype(field.dtype)
    if array.dtype == target:
        return array
    if array.size == 0 and array.dtype.kind in "biuf":
        return array.astype(target)
    if target.kind in "iu" and array.dtype.kind in "iuf":
        return _to_integer(field, array, target)
    if target.kind == "f" and array.dtype.kind in "iuf":
        return _to_float(field, array, target)
    raise _misfit(field, 0, f"got {dtype_name(array.dtype)}")


def text_array(field: Field, values: Sequence[Any]) -> NDArray[np.str_]:
    """Return texts as an array, unless one long text among many rows would make it larger than the machine.

    Args:
        field: Of the contract.
        values: A text for each row, or nested lists of the field's shape.

    Raises:
        ContractError: It would take over `TEXT_BYTES`; `where` names the row with the longest text.
    """
    widths = [len(value) if isinstance(value, str) else max(map(len, _leaves(value))) for value in values]
    longest = max(widths, default=0)
    size = 4 * longest * len(values) * math.prod(field.shape)
    if size > TEXT_BYTES:
        raise ContractError(
            f"A text of {longest} characters beside {len(values) - 1} other rows takes too much memory.",
            where=f"row {widths.index(longest)}, field {field.name!r}",
            remedy="Send rows with long texts in requests of their own.",
        )
    return np.array(values, dtype=np.str_)


def limit_rows(rows: int, max_rows: int | None) -> None:
    """Raise TooManyRowsError where a request has more rows than it may have; None for any number."""
    if max_rows is not None and rows > max_rows:
        raise TooManyRowsError(f"The request has more than {max_rows} rows.", remedy="Send fewer rows in one request.")


def shown(value: Any) -> str:
    """Return a value as an error shows it: its beginning, where it is long."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}… ({len(text)} characters)"


def _check_fields(side: str, fields: Sequence[Field]) -> None:
    names = [field.name for field in fields]
    for field in fields:
        if not field.name or names.count(field.name) > 1:
            raise ContractError(f"The {side} field name {field.name!r} is empty or stands twice.")
        if field.dtype not in DTYPES:
            raise ContractError(
                f"The {side} field {field.name!r} has the unknown dtype {field.dtype!r}.",
                remedy=f"The dtypes are {', '.join(DTYPES)}.",
            )
        if _UNFIT.search(field.name):
            raise ContractError(
                f"The {side} field name {shown(field.name)} holds a quote, a backslash or a control character.",
                remedy="Rename the column.",
            )
        if any(size < 1 for size in field.shape) or len(field.shape) > MAXIMUM_DIMENSIONS:
            raise ContractError(f"The {side} field {field.name!r} has the impossible shape {list(field.shape)}.")


def _as_array(field: Field, values: Any) -> NDArray[Any]:
    try:
        array = np.asarray(values)
    except (ValueError, OverflowError):
        # A ragged list: the loop below finds its row.
        array = np.empty(0, dtype=object)
    if array.ndim == 0:
        raise _misfit(field, 0, "got a single value where a column of rows is needed")
    if array.dtype == object or (isinstance(values, list) and array.dtype.kind == "U"):
        return _from_objects(field, values)
    if array.dtype.kind == "f" and isinstance(values, list) and not len(values):
        return np.empty((0, *field.shape), dtype=array.dtype)
    return array


def _from_objects(field: Field, values: Any) -> NDArray[Any]:
    """Turn Python values into an array row by row, so that an error can name the row; NumPy would coerce 1 to '1'."""
    kinds = {"string": (str,), "bool": (bool, np.bool_)}.get(field.dtype, (int, float, np.integer, np.floating))
    rows = []
    for index, value in enumerate(values):
        try:
            row = np.asarray(value)
        except ValueError:
            raise _misfit(field, index, "the row is ragged") from None
        if row.shape != field.shape:
            raise _misfit(field, index, f"the row has the shape {list(row.shape)}")
        for element in _leaves(value):
            if not isinstance(element, kinds) or (isinstance(element, bool) and field.dtype != "bool"):
                raise _misfit(field, index, f"got {shown(element)}")
        rows.append(value)
    array = np.asarray(rows)
    if array.dtype == object:
        raise _misfit(field, 0, "a number is too large for any integer type")
    return array


def _leaves(value: Any) -> Iterable[Any]:
    if isinstance(value, list | tuple | np.ndarray):
        for element in value:
            yield from _leaves(element)
    else:
        yield value


def _to_integer(field: Field, array: NDArray[Any], target: np.dtype[Any]) -> NDArray[Any]:
    limits = np.iinfo(target)
    if np.can_cast(array.dtype, target, "safe"):
        return array.astype(target)
    if array.dtype.kind == "f":
        # float64 holds 2**n and so the first number past any integer type, where iinfo.max itself may not be a float.
        wide = array.astype(np.float64)
        bad = ~np.isfinite(wide) | (wide < float(limits.min)) | (wide >= float(int(limits.max) + 1))
        bad |= wide != np.trunc(wide)
    else:
        bad = np.zeros(array.shape, dtype=bool)
        given = np.iinfo(array.dtype)
        if given.max > limits.max:
            bad |= array > limits.max
        if given.min < limits.min:
            bad |= array < limits.min
    _refuse_where(
        field, array, bad, lambda value: f"got {value}, which is no whole number in {limits.min}..{limits.max}"
    )
    return array.astype(target)


def _to_float(field: Field, array: NDArray[Any], target: np.dtype[Any]) -> NDArray[Any]:
    limits = np.finfo(target)
    if array.dtype.kind == "f":
        with np.errstate(over="ignore"):
            result = array.astype(target)
        if limits.bits < np.finfo(array.dtype).bits:
            too_large = np.isinf(result) & np.isfinite(array)
            _refuse_where(field, array, too_large, lambda value: f"got {value}, beyond {limits.max}")
        return result
    exact_until = 2 ** (limits.nmant + 1)
    given = np.iinfo(array.dtype)
    if given.max > exact_until or given.min < -exact_until:
        suspects = (array > exact_until) | (array < -exact_until) if given.min < 0 else array > exact_until
        if suspects.any():
            exact = np.array([_holds_exactly(int(value), target) for value in array[suspects]])
            inexact = np.zeros(array.shape, dtype=bool)
            inexact[suspects] = ~exact
            _refuse_where(field, array, inexact, lambda value: f"got {value}, which {field.dtype} can't hold exactly")
    return array.astype(target)


def _holds_exactly(value: int, target: np.dtype[Any]) -> bool:
    with np.errstate(over="ignore"):
        rounded = float(target.type(value))
    return np.isfinite(rounded).item() and int(rounded) == value


def _refuse_where(field: Field, array: NDArray[Any], bad: NDArray[Any], say: Callable[[Any], str]) -> None:
    if bad.any():
        place = tuple(int(part[0]) for part in np.nonzero(bad))
        raise _misfit(field, place[0], say(array[place]), place[1:])


def _misfit(field: Field, row: int, got: str, inside: Sequence[int] = ()) -> ContractError:
    position = f" at {list(inside)}" if inside else ""
    return ContractError(
        f"Expected {type_text(field)}; {got}.",
        where=f"row {row}, field {field.name!r}{position}",
        remedy=f"Give {field.name!r} as {type_text(field)}.",
    )
