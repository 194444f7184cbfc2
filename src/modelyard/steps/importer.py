"""The step kind `importer`: read data into a training and a test part that share no row."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelyard.contracts import Context
from modelyard.data import Dataset, dtype_name
from modelyard.errors import DataError
from modelyard.steps.hints import nearest
from modelyard.steps.readers import csv, idx, image_folder, jsonl, npz, parquet
from modelyard.steps.readers.request import Request, check_dtypes
from modelyard.steps.sources import fetch, shown
from modelyard.steps.splitting import pick_rows, split_rows

__all__ = ["import_data"]

_Arrays = dict[str, NDArray[Any]]

_READERS: Mapping[str, Callable[[Request], _Arrays]] = {
    "idx": idx.read,
    "npz": npz.read,
    "csv": csv.read,
    "parquet": parquet.read,
    "jsonl": jsonl.read,
    "image_folder": image_folder.read,
}
_LABELLED = ("idx", "image_folder")


def import_data(
    context: Context,
    *,
    format: str,  # noqa: A002  (the blueprint's word)
    local_data: str | Mapping[str, Any] | None = None,
    online_data: str | Mapping[str, Any] | None = None,
    test_data: str | Mapping[str, Any] | None = None,
    target: str | None = None,
    columns: Sequence[str] | None = None,
    dtypes: Mapping[str, str] | None = None,
    split: Mapping[str, Any] | None = None,
    image_size: Sequence[int] | None = None,
    limit: int | None = None,
    **_: Any,
) -> dict[str, Any]:
    """Read a source, verify its checksum, and hand out a training and a test part.

    Args:
        context: Of the task.
        format: `idx`, `npz`, `csv`, `parquet`, `jsonl` or `image_folder`.
        local_data: A path relative to the project, or a mapping with data, labels, checksum and labels_checksum.
        online_data: The same with a URL. Exactly one of the two is given.
        test_data: A source for the test part. None: rows of the one source are split.
        target: Column to predict. IDX files and image folders call it `label`.
        columns: Those to keep beside the target. None: all.
        dtypes: Column to dtype, where the guess would be wrong.
        split: `test` (share of rows, default 0.2), `seed` (0) and `stratify` (True).
        image_size: Rows and columns that images are resized to.
        limit: Rows to keep of each part, drawn by the split's seed.

    Returns:
        `train` and `test`: Datasets with the same columns, dtypes and classes; a float target has no classes.

    Raises:
        DataError: A file, a column, a value or a checksum is not what the blueprint says.
        StorageError: A file can't be read, or a remote does not answer.
        MissingExtraError: The format or the address needs a library that is not installed.
    """
    asked = {**(dtypes or {})}
    check_dtypes(asked)
    source = local_data if online_data is None else online_data
    target = _target(format, target, source)
    common = {
        "target": target,
        "columns": None if columns is None else tuple(columns),
        "dtypes": asked,
        "image_size": None if image_size is None else (int(image_size[0]), int(image_size[1])),
    }
    if source is None:
        raise DataError("There is no source.", remedy="Give the importer `local_data` or `online_data`.")
    rule = {"test": 0.2, "seed": 0, "stratify": True} | dict(split or {})
    rows = _read(context, format, source, common)
    if test_data is None:
        labels = rows[target] if target is not None else np.zeros(_length(rows))
        train_rows, test_rows = split_rows(labels, rule["test"], rule["seed"], rule["stratify"])
        train, test = _take(rows, train_rows), _take(rows, test_rows)
    else:
        train, test = _alike(rows, _read(context, format, test_data, common), context)
    train, test = (_take(part, pick_rows(_length(part), limit, rule["seed"])) for part in (train, test))
    return _datasets(context, train, test, target)


def _target(kind: str, target: str | None, source: str | Mapping[str, Any] | None) -> str | None:
    if kind not in _READERS:
        raise DataError(f"There is no data format {kind!r}.", where="format", remedy=nearest(kind, _READERS))
    if kind not in _LABELLED:
        return target
    if target not in (None, "label"):
        raise DataError(
            f"There is no column {target!r}.", where="target", remedy=f"The target of {kind} is called 'label'."
        )
    if kind == "idx" and not (isinstance(source, Mapping) and source.get("labels")):
        if target is not None:
            raise DataError("There is no file of labels.", where="target", remedy="Name it in `local_data.labels`.")
        return None
    return "label"


def _read(context: Context, kind: str, source: str | Mapping[str, Any], common: Mapping[str, Any]) -> _Arrays:
    given: Mapping[str, Any] = {"data": source} if isinstance(source, str) else source
    data, labels = given["data"], given.get("labels")
    if labels is not None and kind != "idx":
        raise DataError(
            f"A source of format {kind} has no file of labels.", where="labels", remedy="Name the column in `target`."
        )
    request = Request(
        data=fetch(context, data, given.get("checksum"), folder=kind == "image_folder"),
        name=shown(data),
        labels=None if labels is None else fetch(context, labels, given.get("labels_checksum")),
        labels_name="" if labels is None else shown(labels),
        workdir=context.workdir,
        **common,
    )
    rows = _READERS[kind](request)
    lengths = {name: len(values) for name, values in rows.items()}
    if len(set(lengths.values())) > 1:
        raise DataError(
            f"The columns differ in length: {', '.join(f'{name} {length}' for name, length in lengths.items())}.",
            where=request.name,
            remedy="Name those that belong together in `columns`, or give `test_data` a file of its own.",
        )
    _check_target(rows, request)
    context.log(f"Read {_length(rows)} rows of {', '.join(rows)} from {request.name}")
    return rows


def _check_target(rows: _Arrays, request: Request) -> None:
    if request.target is None:
        return
    values = rows[request.target]
    missing = np.isnan(values) if values.dtype.kind == "f" else values == "" if values.dtype.kind == "U" else None
    if missing is not None and missing.any():
        raise DataError(
            "The value is missing.",
            where=f"{request.name}, column {request.target!r}, row {int(np.argwhere(missing)[0][0]) + 1}",
            remedy="Fill it in, or remove the row.",
        )


def _length(rows: _Arrays) -> int:
    return len(next(iter(rows.values()))) if rows else 0


def _take(rows: _Arrays, which: NDArray[np.intp] | None) -> _Arrays:
    return rows if which is None else {name: values[which] for name, values in rows.items()}


def _alike(train: _Arrays, test: _Arrays, context: Context) -> tuple[_Arrays, _Arrays]:
    """Give both parts the same columns with the same dtypes, as a model needs them."""
    extra = [name for name in test if name not in train]
    if extra:
        context.log(f"Columns of the test data that the training data lacks are left out: {', '.join(extra)}")
    first, second = {}, {}
    for name, values in train.items():
        if name not in test:
            raise DataError(f"The test data has no column {name!r}.", where="test_data", remedy=nearest(name, test))
        other = test[name]
        if values.shape[1:] != other.shape[1:]:
            raise DataError(
                f"Column {name!r} has the shape {values.shape[1:]} in the training data and {other.shape[1:]} in the "
                "test data.",
                where="test_data",
            )
        if (values.dtype.kind == "U") != (other.dtype.kind == "U"):
            raise DataError(
                f"Column {name!r} is {dtype_name(values.dtype)} in the training data and {dtype_name(other.dtype)} in "
                "the test data.",
                where="test_data",
                remedy=f"Say which in `dtypes`: {{{name}: string}}.",
            )
        common = np.result_type(values.dtype, other.dtype)
        first[name], second[name] = values.astype(common, copy=False), other.astype(common, copy=False)
    return first, second


def _datasets(context: Context, train: _Arrays, test: _Arrays, target: str | None) -> dict[str, Any]:
    classes: tuple[Any, ...] | None = None
    if target is not None and train[target].ndim == 1 and train[target].dtype.kind in "biuU":
        known, tested = np.unique(train[target]), np.unique(test[target])
        classes = tuple(np.union1d(known, tested).tolist())
        unseen = np.setdiff1d(tested, known)
        if len(unseen):
            names = ", ".join(str(value) for value in unseen[:10].tolist())
            context.log(f"Warning: {len(unseen)} classes are in the test part alone and can't be learnt: {names}")
    parts = {
        name: Dataset(columns=rows, target=target, classes=classes) for name, rows in (("train", train), ("test", test))
    }
    context.log(f"{len(parts['train'])} rows to train on, {len(parts['test'])} to test on")
    return dict(parts)
