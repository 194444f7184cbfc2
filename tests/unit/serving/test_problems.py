from __future__ import annotations

import msgspec
import pytest

from modelyard.errors import ContractError, IntegrityError
from modelyard.serving.problems import media_type_of, problem_of


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


@pytest.mark.parametrize(
    ("path", "media_type"),
    [
        ("/v2/models/m/infer", "application/json"),
        ("/v2", "application/json"),
        ("/v1/models/m/predict", "application/problem+json"),
        ("/model", "application/problem+json"),
        ("/", "application/problem+json"),
    ],
)
def test_errors_of_the_open_inference_protocol_are_json_and_all_others_problem_documents(path, media_type):
    assert media_type_of(path) == media_type
