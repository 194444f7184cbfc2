from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.serving.http.acumos_uploads import read_configuration
from modelyard.serving.problems import HttpProblem


@pytest.mark.parametrize(
    "text",
    [
        "modelName=a b\nmodelMethod:go\nmodelInputType JSON\nclasses = x, y",
        "# told by a person\n! and another\r\nmodelName = a\\\n   \\u0020b\n\n\tmodelMethod=go\n"
        "MODELINPUTTYPE=json\nclasses=x,y",
        '{"modelName": "a b", "operation": "go", "inputType": "json", "classes": ["x", "y"]}',
    ],
)
def test_properties_and_json_say_the_same(text):
    wishes, ignored = read_configuration(text)
    assert wishes == {"model": "a b", "operation": "go", "input_type": "JSON", "classes": ["x", "y"]}
    assert ignored == ()


def test_what_means_nothing_here_is_told():
    assert read_configuration("modelClassName=a.B\nname=\nz=1")[1] == ("modelClassName", "z")
    assert read_configuration("") == ({}, ())


@pytest.mark.parametrize("text", ['{"a": 1', "[1]\n=x", "inputType=XML", "name=\\ud800", "=value"])
def test_what_makes_no_sense_is_refused(text):
    with pytest.raises(HttpProblem) as refused:
        read_configuration(text)
    assert refused.value.status == 400


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(text):
    status = 200
    wishes: dict[str, Any] = {}
    try:
        wishes, _ = read_configuration(text)
    except HttpProblem as problem:
        status = problem.status
    assert status in (200, 400)
    assert set(wishes) <= {"model", "operation", "input_type", "classes"}
