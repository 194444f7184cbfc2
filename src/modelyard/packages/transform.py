"""The chain of operations between raw data and a model: fitted on the training part, packed with the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors import numpy as safetensors

from modelyard.contracts import Columns
from modelyard.data import Dataset, Field, schema_of
from modelyard.errors import ContractError, DataError, IntegrityError
from modelyard.files import write_atomically
from modelyard.packages.operations import FittedOperation, fit_operation, restore_operation
from modelyard.packages.table import Table

__all__ = ["TransformChain"]

_TEXT = "transform.json"
_ARRAYS = "arrays.safetensors"


class _Operation(msgspec.Struct, frozen=True):
    type: str
    columns: tuple[str, ...]
    settings: dict[str, Any]
    arrays: tuple[str, ...]


class _File(msgspec.Struct, frozen=True):
    inputs: tuple[Field, ...]
    outputs: tuple[Field, ...]
    operations: tuple[_Operation, ...]


class TransformChain:
    """Fitted operations, one after the other; pure NumPy.

    Args:
        inputs: The columns it takes: the features of the data, raw.
        operations: In order.
    """

    def __init__(self, inputs: Sequence[Field], operations: Sequence[FittedOperation]) -> None:
        self.inputs = tuple(inputs)
        self.operations = tuple(operations)
        fields = {field.name: field for field in self.inputs}
        for operation in self.operations:
            fields = operation.outputs(fields)
        self.outputs = tuple(fields.values())
        self._names = tuple(field.name for field in self.inputs)

    @classmethod
    def fit(
        cls, operations: Sequence[Mapping[str, Any]], train: Dataset, upstream: TransformChain | None = None
    ) -> TransformChain:
        """Learn each operation from the training part as the ones before it leave it.

        Args:
            operations: `Operation`s of a blueprint as mappings, such as `model_dump()` gives.
            train: The training part, as `upstream` left it. The target is neither seen nor changed.
            upstream: The chain that made `train` out of raw data; None where `train` is raw.

        Returns:
            The chain from raw data on: `upstream`, then the new operations. `since(upstream)` gives the new part alone.

        Raises:
            DataError: An operation names a column that is not there or does not fit it, or can't learn from the data.
        """
        return cls.fit_apply(operations, train, upstream)[0]

    @classmethod
    def fit_apply(
        cls, operations: Sequence[Mapping[str, Any]], train: Dataset, upstream: TransformChain | None = None
    ) -> tuple[TransformChain, dict[str, NDArray[Any]]]:
        """Do as `fit`, and return also the features of `train` as the new operations leave them: fitting makes them."""
        columns: Columns = train.features
        fields = {field.name: field for field in schema_of(columns)}
        fitted = []
        for index, spec in enumerate(operations):
            try:
                operation = fit_operation(spec, fields, columns)
            except DataError as error:
                place = f"operations[{index}]" + (f", {error.where}" if error.where else "")
                raise DataError(error.what, where=place, remedy=error.remedy) from error
            columns = operation.apply(columns)
            fields = operation.outputs(fields)
            fitted.append(operation)
        own = cls(schema_of(train.features), fitted)
        return (own if upstream is None else upstream.then(own)), dict(columns)

    def then(self, following: TransformChain) -> TransformChain:
        """Return this chain and another after it; raises DataError where the two do not fit."""
        if self.outputs != following.inputs:
            raise DataError(
                f"A transform gives {_names(self.outputs)}, and the one after it takes {_names(following.inputs)}.",
                remedy="Fit the second one on data that the first one made.",
            )
        return TransformChain(self.inputs, (*self.operations, *following.operations))

    def since(self, upstream: TransformChain | None) -> TransformChain:
        """Return the operations that `fit` added to `upstream`: what data made by `upstream` still needs."""
        if upstream is None:
            return self
        return TransformChain(upstream.outputs, self.operations[len(upstream.operations) :])

    def apply(self, columns: Columns) -> Columns:
        """Return the transformed columns; those that are no input (a target) are left out.

        Args:
            columns: The inputs, in their dtypes and shapes (`Contract.check` sees to it), in any order.

        Raises:
            ContractError: An input is missing.
        """
        if isinstance(columns, Table) and columns.names == self._names:
            return self._chain(columns)
        missing = [field.name for field in self.inputs if field.name not in columns]
        if missing:
            raise ContractError(
                f"The column {missing[0]!r} is missing.", remedy=f"The columns are {_names(self.inputs)}."
            )
        current: Columns = {field.name: columns[field.name] for field in self.inputs}
        return self._chain(current)

    def _chain(self, columns: Columns) -> Columns:
        for operation in self.operations:
            columns = operation.apply(columns)
        return columns

    def save(self, folder: Path) -> None:
        """Write `transform.json` and `arrays.safetensors` into a folder; equal chains give equal bytes.

        Raises:
            StorageError: The folder can't be written.
        """
        arrays: dict[str, NDArray[Any]] = {}
        described = []
        for index, operation in enumerate(self.operations):
            own = operation.arrays()
            arrays |= {f"{index}.{name}": np.asarray(values, order="C") for name, values in own.items()}
            described.append(_Operation(operation.type, operation.columns, operation.settings(), tuple(sorted(own))))
        content = _File(self.inputs, self.outputs, tuple(described))
        text = msgspec.json.format(msgspec.json.encode(content, order="sorted"), indent=2) + b"\n"
        write_atomically(folder / _ARRAYS, safetensors.save(arrays))
        write_atomically(folder / _TEXT, text)

    @classmethod
    def load(cls, folder: Path) -> TransformChain:
        """Read what `save` wrote.

        Raises:
            IntegrityError: A file is missing or damaged; it names the file.
        """
        place = folder / _TEXT
        try:
            content = msgspec.json.decode(place.read_bytes(), type=_File)
            place = folder / _ARRAYS
            arrays = safetensors.load(place.read_bytes())
            place = folder / _TEXT
            operations = [
                restore_operation(
                    entry.type,
                    entry.columns,
                    entry.settings,
                    {name: arrays[f"{index}.{name}"] for name in entry.arrays},
                )
                for index, entry in enumerate(content.operations)
            ]
            chain = cls(content.inputs, operations)
        except (
            OSError,
            msgspec.DecodeError,
            SafetensorError,
            KeyError,
            TypeError,
            ValueError,
            RecursionError,
        ) as error:
            raise IntegrityError(f"The transform can't be read: {error}.", where=str(place)) from error
        if chain.outputs != content.outputs:
            raise IntegrityError("The transform's operations do not give the outputs it names.", where=str(place))
        return chain


def _names(fields: Sequence[Field]) -> str:
    return ", ".join(f"{field.name}: {field.dtype}{list(field.shape) if field.shape else ''}" for field in fields)
