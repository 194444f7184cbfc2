"""What a service answered."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from modelyard.client.encoding import ARROW
from modelyard.client.errors import ServerError
from modelyard.client.exchange import Response
from modelyard.contracts import Columns

__all__ = ["Prediction", "read_prediction"]


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """The answer to one request.

    Arrow keeps the outputs' dtypes. JSON knows numbers alone: integers come as int64, others as float64, missing ones
    as NaN.

    Args:
        model: Who answered.
        version: Such as `v1.2.0`.
        generation: Of the service's slot; it grows with each swap.
        columns: One array for each output; their first dimension are the rows.
        request_id: Names the request in the service's log.
    """

    model: str
    version: str
    generation: int
    columns: Columns
    request_id: str | None = None

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()))) if self.columns else 0

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The outputs of each row, as Python values."""
        lists = [values.tolist() for values in self.columns.values()]
        return [dict(zip(self.columns, row, strict=True)) for row in zip(*lists, strict=True)]


class _Body(msgspec.Struct):
    model: str
    version: str
    generation: int
    columns: dict[str, list[Any]] | None = None
    rows: list[dict[str, Any]] | None = None


def read_prediction(response: Response) -> Prediction:
    """Return what an answer with status 200 says.

    Raises:
        ServerError: It is no prediction.
    """
    request_id = response.header("x-request-id")
    if (response.header("content-type") or "").startswith(ARROW):
        return _read_arrow(response, request_id)
    try:
        body = msgspec.json.decode(response.body, type=_Body)
        lists = _columns(body.rows) if body.columns is None else body.columns
        arrays = {name: _array(values) for name, values in lists.items()}
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, KeyError, TypeError, ValueError) as error:
        raise ServerError(
            f"The answer is no prediction: {error}.",
            remedy="Look at the URL: is this a service?",
            status=response.status,
            request_id=request_id,
        ) from error
    return Prediction(body.model, body.version, body.generation, arrays, request_id)


def _read_arrow(response: Response, request_id: str | None) -> Prediction:
    model, version = response.header("x-model"), response.header("x-model-version")
    generation = response.header("x-model-generation") or ""
    if model is None or version is None or not generation.isdecimal():
        raise ServerError(
            "The answer does not say who gave it.", remedy="Does a proxy drop the headers x-model…?",
            status=response.status, request_id=request_id,
        )  # fmt: skip
    columns = importlib.import_module("modelyard.client.arrow").decode(response.body)
    return Prediction(model, version, int(generation), columns, request_id)


def _columns(rows: Sequence[Mapping[str, Any]] | None) -> dict[str, list[Any]]:
    if rows is None:
        raise ValueError("it has neither columns nor rows")
    return {name: [row[name] for row in rows] for name in rows[0]} if rows else {}


def _array(values: list[Any]) -> NDArray[Any]:
    array = np.asarray(values)
    # None among numbers, at any depth, is a number that is missing.
    return array if array.dtype != object else np.asarray(values, dtype=np.float64)
