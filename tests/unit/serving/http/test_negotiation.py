from __future__ import annotations

import pytest

from modelyard.serving.http.negotiation import acceptable, media_type
from modelyard.serving.http.plain import KINDS
from modelyard.serving.loading import CSV, JSON
from modelyard.serving.problems import HttpProblem


@pytest.mark.parametrize(
    ("accept", "kind", "expected"),
    [
        ("*/*", CSV, CSV),
        ("*/*;q=0.1", JSON, JSON),
        ("application/*", CSV, JSON),
        ("text/csv, application/json", JSON, JSON),
        ("text/csv, application/json;q=0.9", JSON, CSV),
        ("TEXT/CSV", JSON, CSV),
        ("text/csv;q=0, */*", CSV, JSON),
        ("text/csv;q=nonsense, application/json;q=0.1", CSV, JSON),
    ],
)
def test_accept_is_read_as_http_defines_it(accept, kind, expected):
    assert acceptable(accept, KINDS, kind) == expected


@pytest.mark.parametrize("accept", ["image/png", "text/csv;q=0", "*/*;q=0", ""])
def test_nothing_acceptable_is_a_problem(accept):
    with pytest.raises(HttpProblem) as caught:
        acceptable(accept, KINDS, JSON)
    assert caught.value.status == 406


@pytest.mark.parametrize(
    ("given", "expected"),
    [(None, JSON), ("application/json; charset=UTF-8", JSON), ('Text/CSV; charset="utf-8"; header=present', CSV)],
)
def test_media_types_are_read_with_their_parameters(given, expected):
    assert media_type(given, KINDS) == expected
