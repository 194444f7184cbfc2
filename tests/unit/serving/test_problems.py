from __future__ import annotations

import msgspec

from modelyard.errors import ContractError, IntegrityError
from modelyard.serving.problems import problem_of


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
