"""What the client writes in Arrow is what the runner's codec reads, and the other way round."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from modelyard.client import InvalidRequestError, ServerError
from modelyard.client import arrow as ours
from modelyard.client.encoding import encode, named, usual
from modelyard.data import Field, schema_of
from modelyard.packages.codecs import arrow as codec
from modelyard.packages.contract import DTYPES, Contract


def column(dtype: str, shape: tuple[int, ...], rows: int = 3) -> np.ndarray:
    values = np.arange(rows * math.prod(shape)).reshape(rows, *shape)
    return values.astype(np.str_) if dtype == "string" else (values % 2).astype(dtype)


@pytest.mark.parametrize("rows", [3, 0])
@pytest.mark.parametrize("shape", [(), (4,), (2, 3), (2, 1, 2)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_and_shape_goes_there_and_back(dtype, shape, rows):
    columns = {"x": column(dtype, shape, rows)}
    fields = (Field("x", dtype, shape),)
    there = codec.decode(Contract(fields, fields), ours.encode(columns))["x"]
    back = ours.decode(codec.encode(columns))["x"]
    for arrived in (there, back):
        assert np.array_equal(arrived, columns["x"])
        assert schema_of({"x": arrived}) == fields


def test_frames_tables_and_rows_are_the_same_columns():
    wanted = {"age": [41, 29], "name": ["Ada", ""], "p": [[0.5, 0.5], [1.0, 0.0]]}
    texts = ["Ada", None]
    contract = Contract(
        (Field("age", "int64"), Field("name", "string"), Field("p", "float64", (2,))), (Field("y", "bool"),)
    )
    for data in (
        pa.table({"age": [41, 29], "name": texts, "p": wanted["p"]}),
        pd.DataFrame({"age": [41, 29], "name": texts, "p": wanted["p"]}),
        {"age": [41, 29], "name": texts, "p": np.array(wanted["p"])},
        [dict(zip(wanted, row, strict=True)) for row in zip(wanted["age"], texts, wanted["p"], strict=True)],
    ):
        decoded = codec.decode(contract, encode(named(data), "arrow")[1])
        assert {name: values.tolist() for name, values in decoded.items()} == wanted


def test_infinity_and_nan_keep_their_values():
    values = np.array([math.inf, -math.inf, math.nan, 0.0])
    contract = Contract((Field("x", "float64"),), (Field("y", "bool"),))
    assert np.array_equal(codec.decode(contract, ours.encode({"x": values}))["x"], values, equal_nan=True)


@pytest.mark.parametrize(
    "data", [{"x": [1, "a"]}, {"x": [True, 2]}, {"x": [1], "y": [1, 2]}, {"x": [object()]}, [{"x": 1}, {"y": 1}]]
)
def test_what_is_no_table_is_refused(data):
    with pytest.raises(InvalidRequestError, match="can't be written as Arrow"):
        ours.encode(data)


@pytest.mark.parametrize("body", [b"", b"hello", codec.encode({"x": np.arange(100)})[:200]])
def test_what_is_no_stream_is_a_server_error(body):
    with pytest.raises(ServerError, match="no Arrow stream"):
        ours.decode(body)


def test_tables_and_large_arrays_are_arrow_and_what_is_small_is_json():
    assert usual(pa.table({"x": [1.0]})) == "arrow"
    assert usual({"x": np.zeros(512)}) == "arrow"
    assert usual({"x": np.zeros(511)}) == "json"
    assert usual({"x": [0.0] * 10_000}) == "json"
    assert usual([{"x": np.zeros(10_000)}]) == "json"
