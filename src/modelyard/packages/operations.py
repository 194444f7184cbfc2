"""The operations of a transform: each learns from the training part, and then changes columns the same way for ever.

Every operation works element by element or row by row, so a batch and its rows taken one at a time give the same bits.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from modelyard.contracts import Columns
from modelyard.data import Field
from modelyard.errors import DataError
from modelyard.packages.table import Table

__all__ = ["OPERATIONS", "FittedOperation", "fit_operation", "restore_operation"]

Array = NDArray[Any]
_BLOCK = 1 << 18
"""Elements worked on at a time: 2 MB of float64 stays in the cache, and no float64 copy of a data set is made."""


class FittedOperation(ABC):
    """One operation after its fit.

    Args:
        columns: The columns it changes, in order.
    """

    type: ClassVar[str]

    def __init__(self, columns: tuple[str, ...]) -> None:
        self.columns = columns

    @classmethod
    @abstractmethod
    def fit(cls, spec: Mapping[str, Any], fields: Mapping[str, Field], train: Columns) -> FittedOperation:
        """Learn from the training part what `spec`, an `Operation` of the blueprint as a mapping, asks for."""

    @abstractmethod
    def outputs(self, fields: Mapping[str, Field]) -> dict[str, Field]:
        """Return the fields after the operation."""

    @abstractmethod
    def apply(self, columns: Columns) -> Columns:
        """Return the columns after the operation; those it does not change are the same objects."""

    def settings(self) -> dict[str, Any]:
        """Return what JSON can hold of its state."""
        return {}

    def arrays(self) -> dict[str, Array]:
        """Return the numbers of its state, kept bit for bit."""
        return {}

    @classmethod
    # One signature for all operations.
    def restore(cls, columns: tuple[str, ...], settings: Mapping[str, Any], arrays: Mapping[str, Array]) -> Any:  # noqa: ARG003
        """Return the operation whose `settings` and `arrays` are given."""
        return cls(columns, **settings)


class Scale(FittedOperation):
    """`x * factor + offset`, as float32."""

    type = "scale"

    def __init__(self, columns: tuple[str, ...], factor: float, offset: float) -> None:
        super().__init__(columns)
        self.factor = factor
        self.offset = offset

    @classmethod
    # One signature for all operations.
    def fit(cls, spec: Mapping[str, Any], fields: Mapping[str, Field], train: Columns) -> Scale:  # noqa: ARG003
        """Learn nothing: the factor is given."""
        return cls(_chosen(spec, fields, _numeric), float(spec["factor"]), float(spec.get("offset") or 0.0))

    def outputs(self, fields: Mapping[str, Field]) -> dict[str, Field]:
        """The same shapes, as float32."""
        return {name: _as_float32(field) if name in self.columns else field for name, field in fields.items()}

    def apply(self, columns: Columns) -> Columns:
        """Multiply and add in one pass over each column."""
        return {name: self._one(values) if name in self.columns else values for name, values in columns.items()}

    def _one(self, values: Array) -> Array:
        # What float32 holds exactly is worked on as float32; anything wider as float64, in NumPy's own small buffers.
        work = np.float32 if np.can_cast(values.dtype, np.float32, "safe") else np.float64
        scaled = np.empty(values.shape, dtype=np.float32)
        np.multiply(values, work(self.factor), out=scaled, dtype=work, casting="same_kind")
        if self.offset:
            scaled += np.float32(self.offset)
        return scaled

    def settings(self) -> dict[str, Any]:
        """The two numbers."""
        return {"factor": self.factor, "offset": self.offset}


class Standardize(FittedOperation):
    """`(x - mean) / deviation`, as float32; an array column has a mean and a deviation for each of its elements.

    Missing values (NaN) do not count in the fit and stay missing. Where the training part holds one value only, the
    deviation is taken as 1; where it holds none, the mean is 0 as well.
    """

    type = "standardize"

    def __init__(self, columns: tuple[str, ...], moments: Mapping[str, tuple[Array, Array]]) -> None:
        super().__init__(columns)
        self.moments = dict(moments)
        means, deviations = zip(*(self.moments[name] for name in columns), strict=True)
        scalars = all(np.ndim(mean) == 0 for mean in means)
        self._together = (np.array(means), np.array(deviations)) if scalars else None
        """Of all columns, for a table of just these."""

    @classmethod
    def fit(cls, spec: Mapping[str, Any], fields: Mapping[str, Field], train: Columns) -> Standardize:
        """Learn mean and population deviation of each element in float64."""
        names = _chosen(spec, fields, _numeric)
        return cls(names, {name: _moments(name, train[name]) for name in names})

    def outputs(self, fields: Mapping[str, Field]) -> dict[str, Field]:
        """The same shapes, as float32."""
        return {name: _as_float32(field) if name in self.columns else field for name, field in fields.items()}

    def apply(self, columns: Columns) -> Columns:
        """Subtract and divide in float64, block by block."""
        if isinstance(columns, Table) and columns.names == self.columns and self._together is not None:
            means, deviations = self._together
            return Table(columns.names, ((columns.matrix - means) / deviations).astype(np.float32))
        changed = dict(columns)
        for name in self.columns:
            values = columns[name]
            mean, deviation = self.moments[name]
            changed[name] = result = np.empty(values.shape, dtype=np.float32)
            for part in _blocks(values):
                result[part] = (values[part] - mean) / deviation
        return changed

    def arrays(self) -> dict[str, Array]:
        """Means and deviations."""
        return {
            f"{which}.{name}": moment
            for name, moments in self.moments.items()
            for which, moment in zip(("mean", "deviation"), moments, strict=True)
        }

    @classmethod
    def restore(
        cls,
        columns: tuple[str, ...],
        settings: Mapping[str, Any],  # noqa: ARG003  (one signature for all operations)
        arrays: Mapping[str, Array],
    ) -> Standardize:
        """Put means and deviations back."""
        return cls(columns, {name: (arrays[f"mean.{name}"], arrays[f"deviation.{name}"]) for name in columns})


class OneHot(FittedOperation):
    """Categories become arrays of 0 and 1, as float32, with one place for each category of the training part, sorted.

    A category that the training part does not hold, and a missing number (NaN), become zeros everywhere. Each column
    turns into an array of its own name; with `into`, all of them turn into one array of that name, in order.
    """

    type = "one_hot"

    def __init__(self, columns: tuple[str, ...], categories: Mapping[str, Sequence[Any]], into: str | None) -> None:
        super().__init__(columns)
        self.categories = {name: list(values) for name, values in categories.items()}
        self.into = into
        self._sorted = {name: np.array(values) for name, values in self.categories.items()}

    @classmethod
    def fit(cls, spec: Mapping[str, Any], fields: Mapping[str, Field], train: Columns) -> OneHot:
        """Learn the categories."""
        names = _chosen(
            spec, fields, lambda field: not field.shape, default=lambda field: field.dtype in ("string", "bool")
        )
        categories = {}
        for name in names:
            values = train[name]
            there = ~np.isnan(values) if values.dtype.kind == "f" else slice(None)
            categories[name] = np.unique(values[there]).tolist()
            if not categories[name]:
                raise DataError(f"The column {name!r} has no value in the training part.", where=f"column {name!r}")
        into = spec.get("into")
        if into is not None and into in fields and into not in names:
            raise DataError(f"one_hot can't write into {into!r}: a column of that name exists.")
        return cls(names, categories, into)

    def outputs(self, fields: Mapping[str, Field]) -> dict[str, Field]:
        """One array for each column, or one for all."""
        widths = {name: len(self.categories[name]) for name in self.columns}
        if self.into is None:
            return {
                name: Field(name, "float32", (widths[name],)) if name in widths else field
                for name, field in fields.items()
            }
        joined = Field(self.into, "float32", (sum(widths.values()),))
        return _replaced(fields, self.columns, self.into, joined)

    def apply(self, columns: Columns) -> Columns:
        """Look every value up among the sorted categories."""
        arrays = {name: self._one(columns[name], self._sorted[name]) for name in self.columns}
        if self.into is None:
            return {name: arrays.get(name, values) for name, values in columns.items()}
        joined = np.concatenate([arrays[name] for name in self.columns], axis=1)
        return _replaced(columns, self.columns, self.into, joined)

    @staticmethod
    def _one(values: Array, categories: Array) -> Array:
        places = np.minimum(np.searchsorted(categories, values), len(categories) - 1)
        rows = np.nonzero(categories[places] == values)[0]
        hot = np.zeros((len(values), len(categories)), dtype=np.float32)
        hot[rows, places[rows]] = 1.0
        return hot

    def settings(self) -> dict[str, Any]:
        """The categories, and the name of the joined array."""
        return {"categories": self.categories, "into": self.into}


class Impute(FittedOperation):
    """Fills what is missing: NaN in a float column, the empty text in a text column. The dtype stays.

    Other columns can't miss anything and pass unchanged. Array columns are filled element by element.
    """

    type = "impute"

    def __init__(self, columns: tuple[str, ...], strategy: str, fill: Mapping[str, Any]) -> None:
        super().__init__(columns)
        self.strategy = strategy
        self.fill = dict(fill)

    @classmethod
    def fit(cls, spec: Mapping[str, Any], fields: Mapping[str, Field], train: Columns) -> Impute:
        """Learn what to fill in."""
        strategy, value = spec["strategy"], spec.get("value")
        if strategy == "constant" and value is None:
            raise DataError("impute with the strategy constant needs a value.", remedy="Add `value:`.")
        texts = strategy == "most_frequent" or (strategy == "constant" and isinstance(value, str))
        floats = not (strategy == "constant" and isinstance(value, str))

        def fits(field: Field) -> bool:
            return floats if _is_float(field) else texts and field.dtype == "string"

        names = _chosen(
            spec, fields, lambda field: fits(field) or not (_is_float(field) or field.dtype == "string"), default=fits
        )
        fill: dict[str, Any] = {}
        for name in names:
            field = fields[name]
            if field.dtype == "string":
                fill[name] = value if strategy == "constant" else _most_frequent(name, train[name])
            elif _is_float(field):
                fill[name] = _float_fill(name, train[name], strategy, value)
        return cls(names, strategy, fill)

    def outputs(self, fields: Mapping[str, Field]) -> dict[str, Field]:
        """The same fields."""
        return dict(fields)

    def apply(self, columns: Columns) -> Columns:
        """Fill a copy of each column that misses something."""
        changed = dict(columns)
        for name, fill in self.fill.items():
            values = columns[name]
            missing = values == "" if isinstance(fill, str) else np.isnan(values)
            if missing.any():
                changed[name] = np.where(missing, fill, values)
        return changed

    def settings(self) -> dict[str, Any]:
        """The strategy, and the texts."""
        return {
            "strategy": self.strategy,
            "texts": {name: fill for name, fill in self.fill.items() if isinstance(fill, str)},
        }

    def arrays(self) -> dict[str, Array]:
        """The numbers to fill in, in the columns' own dtypes."""
        return {f"fill.{name}": fill for name, fill in self.fill.items() if not isinstance(fill, str)}

    @classmethod
    def restore(cls, columns: tuple[str, ...], settings: Mapping[str, Any], arrays: Mapping[str, Array]) -> Impute:
        """Put texts and numbers back."""
        numbers = {name.removeprefix("fill."): values for name, values in arrays.items()}
        fill = {name: value for name in columns for source in (settings["texts"], numbers)
                for key, value in source.items() if key == name}  # fmt: skip
        return cls(columns, settings["strategy"], fill)


class Reshape(FittedOperation):
    """Gives the rows of array columns another shape; the order of the elements stays (row-major)."""

    type = "reshape"

    def __init__(self, columns: tuple[str, ...], shape: Sequence[int]) -> None:
        super().__init__(columns)
        self.shape = tuple(shape)

    @classmethod
    # One signature for all operations.
    def fit(cls, spec: Mapping[str, Any], fields: Mapping[str, Field], train: Columns) -> Reshape:  # noqa: ARG003
        """Learn nothing; see that the sizes fit."""
        shape = tuple(spec["shape"])
        if not shape or any(size < 1 and size != -1 for size in shape) or shape.count(-1) > 1:
            raise DataError(
                f"The shape {list(shape)} is not possible.", remedy="Give positive sizes and at most one -1."
            )

        def fits(field: Field) -> bool:
            known = math.prod(size for size in shape if size != -1)
            size = math.prod(field.shape)
            return bool(size % known == 0 if -1 in shape else size == known)

        return cls(_chosen(spec, fields, fits, default=lambda field: bool(field.shape) and fits(field)), shape)

    def outputs(self, fields: Mapping[str, Field]) -> dict[str, Field]:
        """The same dtypes, in the new shape."""
        return {
            name: Field(name, field.dtype, self._target(field.shape)) if name in self.columns else field
            for name, field in fields.items()
        }

    def apply(self, columns: Columns) -> Columns:
        """Return views where NumPy can."""
        return {
            name: values.reshape(len(values), *self._target(values.shape[1:])) if name in self.columns else values
            for name, values in columns.items()
        }

    def _target(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        rest = math.prod(shape) // math.prod(size for size in self.shape if size != -1)
        return tuple(rest if size == -1 else size for size in self.shape)

    def settings(self) -> dict[str, Any]:
        """The shape."""
        return {"shape": list(self.shape)}


class Flatten(FittedOperation):
    """Turns array columns into rows of one dimension, in row-major order."""

    type = "flatten"

    @classmethod
    # One signature for all operations.
    def fit(cls, spec: Mapping[str, Any], fields: Mapping[str, Field], train: Columns) -> Flatten:  # noqa: ARG003
        """Learn nothing."""
        return cls(_chosen(spec, fields, lambda field: bool(field.shape), default=lambda field: len(field.shape) > 1))

    def outputs(self, fields: Mapping[str, Field]) -> dict[str, Field]:
        """The same dtypes, in one dimension."""
        return {
            name: Field(name, field.dtype, (math.prod(field.shape),)) if name in self.columns else field
            for name, field in fields.items()
        }

    def apply(self, columns: Columns) -> Columns:
        """Return views where NumPy can."""
        return {
            name: values.reshape(len(values), math.prod(values.shape[1:])) if name in self.columns else values
            for name, values in columns.items()
        }


class Stack(FittedOperation):
    """Joins numeric columns, in order, into one float32 array; it stands where the first of them stood.

    A scalar column takes one place, a one-dimensional array (what one_hot makes) as many as it has elements.
    """

    type = "stack"

    def __init__(self, columns: tuple[str, ...], into: str) -> None:
        super().__init__(columns)
        self.into = into

    @classmethod
    # One signature for all operations.
    def fit(cls, spec: Mapping[str, Any], fields: Mapping[str, Field], train: Columns) -> Stack:  # noqa: ARG003
        """Learn nothing; see that the name is free."""
        names = _chosen(spec, fields, lambda field: field.dtype != "string" and len(field.shape) < 2)
        into = spec["into"]
        if into in fields and into not in names:
            raise DataError(f"stack can't write into {into!r}: a column of that name exists.")
        return cls(names, into)

    def outputs(self, fields: Mapping[str, Field]) -> dict[str, Field]:
        """One array instead of the columns."""
        width = sum(math.prod(fields[name].shape) for name in self.columns)
        return _replaced(fields, self.columns, self.into, Field(self.into, "float32", (width,)))

    def apply(self, columns: Columns) -> Columns:
        """Copy each column into its places."""
        widths = [math.prod(columns[name].shape[1:]) for name in self.columns]
        rows = len(columns[self.columns[0]])
        joined = np.empty((rows, sum(widths)), dtype=np.float32)
        start = 0
        for name, width in zip(self.columns, widths, strict=True):
            joined[:, start : start + width] = columns[name].reshape(rows, width)
            start += width
        return _replaced(columns, self.columns, self.into, joined)

    def settings(self) -> dict[str, Any]:
        """The array's name."""
        return {"into": self.into}


OPERATIONS: Mapping[str, type[FittedOperation]] = {
    kind.type: kind for kind in (Scale, Standardize, OneHot, Impute, Flatten, Reshape, Stack)
}
"""Every operation by the name that a blueprint uses."""


def fit_operation(spec: Mapping[str, Any], fields: Mapping[str, Field], train: Columns) -> FittedOperation:
    """Fit one operation.

    Args:
        spec: An `Operation` of the blueprint, as a mapping.
        fields: The columns as they stand before it.
        train: The training part as it stands before it.

    Raises:
        DataError: A column is unknown or does not fit the type, no column fits it, or nothing can be learnt.
    """
    kind = OPERATIONS.get(spec["type"])
    if kind is None:
        raise DataError(
            f"There is no operation {spec['type']!r}.", remedy=f"The operations are {', '.join(OPERATIONS)}."
        )
    return kind.fit(spec, fields, train)


def restore_operation(
    kind: str, columns: Sequence[str], settings: Mapping[str, Any], arrays: Mapping[str, Array]
) -> Any:
    """Return the fitted operation of that type and state; raises KeyError where there is no such type."""
    return OPERATIONS[kind].restore(tuple(columns), settings, arrays)


def _chosen(
    spec: Mapping[str, Any],
    fields: Mapping[str, Field],
    fits: Callable[[Field], bool],
    default: Callable[[Field], bool] | None = None,
) -> tuple[str, ...]:
    """Return the columns named in the operation, or else all that fit `default` (left out: that fit `fits`)."""
    named = spec.get("columns")
    if named is None:
        names = tuple(name for name, field in fields.items() if (default or fits)(field))
        if not names:
            raise DataError(
                f"No column fits an operation of type {spec['type']}.",
                remedy=f"Leave it out; the columns are {_list(fields)}.",
            )
        return names
    for name in named:
        if name not in fields:
            raise DataError(
                f"The operation {spec['type']} names the column {name!r}, which is not there.",
                where=f"column {name!r}",
                remedy=f"The columns are {_list(fields)}.",
            )
        if not fits(fields[name]):
            raise DataError(
                f"An operation of type {spec['type']} can't take {_list({name: fields[name]})}.",
                where=f"column {name!r}",
            )
    return tuple(named)


def _list(fields: Mapping[str, Field]) -> str:
    return ", ".join(
        f"{field.name}: {field.dtype}{list(field.shape) if field.shape else ''}" for field in fields.values()
    )


def _numeric(field: Field) -> bool:
    return field.dtype not in ("string", "bool")


def _is_float(field: Field) -> bool:
    return bool(field.dtype.startswith("float"))


def _as_float32(field: Field) -> Field:
    return Field(field.name, "float32", field.shape)


def _replaced(table: Mapping[str, Any], old: Sequence[str], new: str, value: Any) -> dict[str, Any]:
    """Return the table with `value` under the name `new` where the first of the old names stood."""
    result: dict[str, Any] = {}
    first = next(name for name in table if name in old)
    for name, entry in table.items():
        if name == first:
            result[new] = value
        elif name not in old:
            result[name] = entry
    return result


def _blocks(values: Array) -> Iterator[slice]:
    step = max(1, _BLOCK // max(1, math.prod(values.shape[1:])))
    for start in range(0, len(values), step):
        yield slice(start, start + step)


def _moments(name: str, values: Array) -> tuple[Array, Array]:
    """Return mean and population deviation over the rows, in two passes that hold one block at a time."""
    shape = values.shape[1:]
    total, count = np.zeros(shape), np.zeros(shape)
    low, high = np.full(shape, np.inf), np.full(shape, -np.inf)
    for part in _blocks(values):
        block = values[part].astype(np.float64)
        if np.isinf(block).any():
            raise DataError(f"The column {name!r} holds infinity.", remedy="Remove those rows, or impute them first.")
        there = ~np.isnan(block)
        total += np.sum(block, axis=0, where=there)
        count += there.sum(axis=0)
        low = np.minimum(low, np.min(block, axis=0, where=there, initial=np.inf))
        high = np.maximum(high, np.max(block, axis=0, where=there, initial=-np.inf))
    mean = total / np.maximum(count, 1)
    # The mean of equal values may be off by a rounding error, which would pass for a deviation.
    mean = np.where(low == high, low, mean)
    squares = np.zeros(shape)
    for part in _blocks(values):
        block = values[part].astype(np.float64)
        squares += np.sum((block - mean) ** 2, axis=0, where=~np.isnan(block))
    deviation = np.sqrt(squares / np.maximum(count, 1))
    return mean, np.where(deviation == 0, 1.0, deviation)


def _float_fill(name: str, values: Array, strategy: str, value: Any) -> Array:
    shape = values.shape[1:]
    if strategy == "constant":
        return np.full(shape, value, dtype=values.dtype)
    if np.isnan(values).all(axis=0).any() or not len(values):
        raise DataError(
            f"The column {name!r} has no value in the training part to take the {strategy} of.",
            where=f"column {name!r}",
            remedy="Use the strategy constant, or leave the column out.",
        )
    if strategy == "mean":
        return np.asarray(np.nanmean(values, axis=0, dtype=np.float64)).astype(values.dtype)
    if strategy == "median":
        return np.asarray(np.nanmedian(values, axis=0)).astype(values.dtype)
    flat = values.reshape(len(values), -1)
    modes = [_mode(column[~np.isnan(column)]) for column in flat.T]
    return np.array(modes, dtype=values.dtype).reshape(shape)


def _most_frequent(name: str, values: Array) -> str:
    there = values[values != ""]
    if not len(there):
        raise DataError(f"The column {name!r} has no text in the training part.", where=f"column {name!r}")
    return str(_mode(there))


def _mode(values: Array) -> Any:
    """Return the most frequent value; of several, the smallest."""
    distinct, counts = np.unique(values, return_counts=True)
    return distinct[np.argmax(counts)]
