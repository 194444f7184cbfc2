from __future__ import annotations

import msgspec
import pytest

from modelyard.errors import ContractError, IntegrityError
from modelyard.serving.loading import CSV, JSON
from modelyard.serving.plain import _acceptable, _media_type
from modelyard.serving.problems import HttpProblem, problem_of
from modelyard.serving.spec import ServiceSpec


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
    assert _acceptable(accept, kind) == expected


@pytest.mark.parametrize("accept", ["image/png", "text/csv;q=0", "*/*;q=0", ""])
def test_nothing_acceptable_is_a_problem(accept):
    with pytest.raises(HttpProblem) as caught:
        _acceptable(accept, JSON)
    assert caught.value.status == 406


@pytest.mark.parametrize(
    ("given", "expected"),
    [(None, JSON), ("application/json; charset=UTF-8", JSON), ('Text/CSV; charset="utf-8"; header=present', CSV)],
)
def test_media_types_are_read_with_their_parameters(given, expected):
    assert _media_type(given) == expected


def test_a_problem_that_is_not_the_clients_fault_tells_no_particulars():
    problem = problem_of(IntegrityError("The file /secret/place differs.", where="/secret/place"))
    assert problem.status == 500
    assert b"secret" not in problem.document("1")


def test_a_problem_document_has_the_members_of_rfc_9457():
    document = msgspec.json.decode(problem_of(ContractError("No.", where="row 1")).document("id-1"))
    assert document == {
        "type": "urn:modelyard:problem:contract",
        "title": "Unprocessable Entity",
        "status": 422,
        "detail": "No.",
        "where": "row 1",
        "request_id": "id-1",
    }


@pytest.mark.parametrize(("option", "value"), [("host", "0.0.0.0"), ("workers", 0), ("port", 70000)])
def test_a_service_that_can_not_be_is_refused_before_anything_starts(tmp_path, option, value):
    with pytest.raises(Exception, match=r"impossible|authentication"):
        ServiceSpec(name="dev", folder=tmp_path, **{option: value}).check()
