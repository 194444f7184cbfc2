from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from modelyard.client import InvalidRequestError, Prediction, ServerError
from modelyard.client.encoding import encode, named
from modelyard.client.exchange import Response
from modelyard.client.prediction import read_prediction


def body(data: Any) -> bytes:
    return encode(data, "json")[1]


WANTED = {"columns": {"age": [41, 29], "name": ["Ada", "Bo"]}}


@pytest.mark.parametrize(
    "data",
    [
        [{"age": 41, "name": "Ada"}, {"age": 29, "name": "Bo"}],
        ({"age": age, "name": name} for age, name in ((41, "Ada"), (29, "Bo"))),
        {"age": [41, 29], "name": ("Ada", "Bo")},
        {"age": np.array([41, 29]), "name": np.array(["Ada", "Bo"])},
        {"age": pd.Series([41, 29]), "name": pa.array(["Ada", "Bo"])},
        pd.DataFrame({"age": [41, 29], "name": ["Ada", "Bo"]}, index=[7, 3]),
        pa.table({"age": [41, 29], "name": ["Ada", "Bo"]}),
        pa.RecordBatch.from_pydict({"age": [41, 29], "name": ["Ada", "Bo"]}),
        np.array([(41, "Ada"), (29, "Bo")], dtype=[("age", "i8"), ("name", "U3")]),
    ],
    ids=["rows", "generator", "lists", "arrays", "series", "pandas", "arrow", "batch", "structured"],
)
def test_every_form_of_a_table_is_the_same_body(data):
    assert json.loads(body(named(data))) == WANTED


def test_arrays_of_fields_are_nested_lists():
    images = np.arange(8, dtype=np.uint8).reshape(2, 2, 2)
    wanted = {"columns": {"image": images.tolist()}}
    for data in ({"image": images}, [{"image": image} for image in images], {"image": list(images)}):
        assert json.loads(body(named(data))) == wanted
    table = pa.table({"image": pa.FixedSizeListArray.from_arrays(pa.array(range(4)), 2)})
    assert json.loads(body(named(table))) == {"columns": {"image": [[0, 1], [2, 3]]}}


def test_rows_that_differ_in_their_fields_are_sent_as_they_are():
    rows = [{"x": 1.0}, {"x": None, "y": 2}, {}]
    assert json.loads(body(named(rows))) == {"rows": rows}
    assert json.loads(body(named([]))) == {"rows": []}


def test_what_is_missing_is_null():
    frame = pd.DataFrame({"x": [1.0, math.nan], "name": ["a", None]})
    assert json.loads(body(named(frame))) == {"columns": {"x": [1.0, None], "name": ["a", None]}}
    assert json.loads(body([{"x": math.nan}])) == {"columns": {"x": [None]}}


@pytest.mark.parametrize(
    ("data", "where"),
    [
        ({"x": np.array([0.0, math.inf])}, "row 1, field 'x'"),
        ({"x": np.array([[0.0, 0.0], [0.0, -math.inf]])}, "row 1, field 'x'"),
        ([{"x": 0.0}, {"x": math.inf}], "row 1, field 'x'"),
        ([{"x": None}, {"x": math.inf}], "field 'x'"),
        ({"x": [[1.0], [math.inf, 2.0]]}, "field 'x'"),
        ([{"x": 0.0}, {"y": math.inf}], "row 1"),
    ],
)
def test_infinity_is_refused_since_json_would_make_it_a_missing_number(data, where):
    with pytest.raises(InvalidRequestError, match="infinite") as caught:
        body(named(data))
    assert (caught.value.where, caught.value.sent) == (where, False)


@pytest.mark.parametrize("data", [7, "rows", b"rows", None, [1, 2], [{"x": 1}, 2]])
def test_what_has_no_rows_is_refused(data):
    with pytest.raises(InvalidRequestError, match="has no rows"):
        named(data)


def test_values_that_json_does_not_know_are_refused():
    with pytest.raises(InvalidRequestError, match="can't be written as JSON"):
        body({"x": [object()]})
    with pytest.raises(InvalidRequestError, match="one name"):
        named(pd.DataFrame([[1, 2]], columns=["x", "x"]))


def test_mixed_values_reach_the_service_as_they_are():
    assert json.loads(body({"x": [1, "a", None]})) == {"columns": {"x": [1, "a", None]}}
    assert json.loads(body({"x": [[1], [1, 2]]})) == {"columns": {"x": [[1], [1, 2]]}}


def read(**members: object) -> Prediction:
    text = json.dumps({"model": "m", "version": "v1", "generation": 3, **members}).encode()
    return read_prediction(Response(200, {"x-request-id": "r1"}, text))


def test_an_answer_is_arrays_and_rows():
    columns = {"label": ["a", "b"], "p": [[0.5, 0.5], [1.0, 0.0]], "n": [1, 2]}
    rows = [{"label": "a", "p": [0.5, 0.5], "n": 1}, {"label": "b", "p": [1.0, 0.0], "n": 2}]
    for answer in (read(columns=columns), read(rows=rows)):
        assert (answer.model, answer.version, answer.generation, answer.request_id) == ("m", "v1", 3, "r1")
        assert {name: (a.dtype.kind, a.shape) for name, a in answer.columns.items()} == {
            "label": ("U", (2,)), "p": ("f", (2, 2)), "n": ("i", (2,)),
        }  # fmt: skip
        assert answer.rows == rows
        assert len(answer) == 2


def test_a_missing_number_is_nan():
    answer = read(columns={"x": [1.0, None], "p": [[None, 1.0], [0.0, 0.0]]})
    assert math.isnan(answer.columns["x"][1])
    assert math.isnan(answer.columns["p"][0, 0])


def test_an_answer_may_have_no_rows():
    assert (read(rows=[]).rows, len(read(rows=[])), len(read(columns={"x": []}))) == ([], 0, 0)


@pytest.mark.parametrize("members", [{}, {"columns": {"x": [[1], [1, 2]]}}, {"rows": [{"x": 1}, {}]}, {"rows": [7]}])
def test_an_answer_that_is_no_prediction_is_a_server_error(members):
    with pytest.raises(ServerError, match="The answer is no prediction"):
        read(**members)
