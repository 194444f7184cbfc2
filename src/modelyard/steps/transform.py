"""The step kind `transform`: fit operations on the training part, and change both parts by them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from modelyard.contracts import Columns, Context
from modelyard.data import Dataset
from modelyard.packages.transform import TransformChain

__all__ = ["transform"]


def transform(
    context: Context,
    *,
    train: Dataset,
    test: Dataset,
    operations: Sequence[Mapping[str, Any]],
    transform: Path | None = None,
    **_: Any,
) -> dict[str, Any]:
    """Fit operations on the training part alone, and apply them to both parts.

    Args:
        context: Of the task.
        train: The part that operations learn from.
        test: The part that they are only applied to.
        operations: The blueprint's operations as mappings, in order.
        transform: Folder of the transforms that made these parts from raw data; None where they are raw.

    Returns:
        `train` and `test` as Datasets with the same target and classes, and `transform`: the folder of the whole
        chain from raw data on, which is packed with the model.

    Raises:
        DataError: An operation names a column that is missing or does not fit it.
    """
    upstream = None if transform is None else TransformChain.load(transform)
    chain, columns = TransformChain.fit_apply(operations, train, upstream)
    own = chain.since(upstream)
    folder = context.workdir / "transform"
    folder.mkdir(parents=True)
    chain.save(folder)
    for operation in own.operations:
        context.log(f"{operation.type} changed {', '.join(operation.columns)}")
    fields = ", ".join(f"{field.name}: {field.dtype}{list(field.shape) or ''}" for field in own.outputs)
    context.log(f"The columns are now {fields}")
    return {"train": _with(columns, train), "test": _with(own.apply(test.features), test), "transform": folder}


def _with(features: Columns, part: Dataset) -> Dataset:
    columns = dict(features)
    if part.target is not None:
        columns[part.target] = part.labels
    return Dataset(columns=columns, target=part.target, classes=part.classes)
