from __future__ import annotations

import pickle
import time
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.client import (
    AccessDeniedError,
    ConflictError,
    ConnectionLostError,
    InvalidRequestError,
    ModelNotFoundError,
    OverloadedError,
    Retries,
    ServerError,
    ServiceError,
    ServiceTimeoutError,
    TooLargeError,
    UnauthorizedError,
)
from modelyard.client.errors import error_of
from modelyard.client.exchange import Response
from modelyard.errors import InputError

LATER = 1000.0


@given(attempt=st.integers(1, 200), left=st.floats(0.0, 100.0), first=st.floats(0.0, 1.0))
def test_a_pause_is_within_its_bound_and_within_the_time_that_is_left(attempt, left, first):
    retries = Retries(attempts=1000, first_pause=first, longest_pause=2.0)
    pause = retries.pause(ConnectionLostError("lost"), attempt=attempt, idempotent=True, left=left)
    assert pause is None or 0.0 <= pause <= min(2.0, first * 2.0 ** (attempt - 1))
    assert pause is None or pause < left
    assert pause is not None or left <= 2.0


def test_pauses_are_drawn_from_the_whole_range_below_the_bound():
    retries = Retries(attempts=10, first_pause=1.0, longest_pause=1.0)
    drawn = [retries.pause(ConnectionLostError("lost"), attempt=1, idempotent=True, left=LATER) for _ in range(200)]
    assert min(drawn) < 0.2
    assert max(drawn) > 0.8


@pytest.mark.parametrize(
    ("error", "idempotent", "otherwise"),
    [
        (ConnectionLostError("refused", sent=False), True, True),
        (ConnectionLostError("lost", sent=True), True, False),
        (ConnectionLostError("not trusted", sent=False, problem="tls"), False, False),
        (OverloadedError("busy", status=429), True, True),
        (OverloadedError("not ready", status=503), True, True),
        (ServiceTimeoutError("not connected", sent=False), True, True),
        (ServiceTimeoutError("no answer", sent=True), False, False),
        (ServiceTimeoutError("too late", status=504), False, False),
        (ServerError("a gateway's", status=502), True, False),
        (ServerError("the model failed", status=500), False, False),
        (InvalidRequestError("wrong", status=422), False, False),
        (ModelNotFoundError("missing", status=404), False, False),
        (UnauthorizedError("who?", status=401), False, False),
        (AccessDeniedError("no", status=403), False, False),
        (TooLargeError("too much", status=413), False, False),
        (ConflictError("not now", status=409), False, False),
    ],
)
def test_only_what_is_safe_is_sent_again(error, idempotent, otherwise):
    for may, repeatable in ((idempotent, True), (otherwise, False)):
        assert (Retries().pause(error, attempt=1, idempotent=repeatable, left=LATER) is not None) is may


def test_the_last_attempt_is_the_last():
    retries = Retries(attempts=3)
    paused = [retries.pause(OverloadedError("busy"), attempt=n, idempotent=True, left=LATER) for n in (1, 2, 3)]
    assert [pause is None for pause in paused] == [False, False, True]
    assert Retries(attempts=1).pause(OverloadedError("busy"), attempt=1, idempotent=True, left=LATER) is None


def test_retry_after_is_the_least_that_is_waited():
    error = OverloadedError("busy", retry_after=7.0)
    assert Retries().pause(error, attempt=1, idempotent=True, left=LATER) == 7.0
    assert Retries().pause(error, attempt=1, idempotent=True, left=6.9) is None


@pytest.mark.parametrize("impossible", [{"attempts": 0}, {"first_pause": -1.0}, {"first_pause": 3.0}])
def test_impossible_retries_are_refused(impossible):
    with pytest.raises(InputError, match="impossible"):
        Retries(**impossible)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, InvalidRequestError), (401, UnauthorizedError), (403, AccessDeniedError), (404, ModelNotFoundError),
        (405, InvalidRequestError), (408, ServiceTimeoutError), (409, ConflictError), (413, TooLargeError),
        (415, InvalidRequestError), (422, InvalidRequestError), (429, OverloadedError), (500, ServerError),
        (502, ServerError), (503, OverloadedError), (504, ServiceTimeoutError), (301, ServerError),
    ],
)  # fmt: skip
def test_each_status_has_its_error(status, kind):
    assert type(error_of(Response(status, {}, b""))) is kind


def test_a_problem_document_says_what_where_and_the_remedy():
    body = (
        b'{"type":"urn:modelyard:problem:contract","title":"Unprocessable Entity","status":422,'
        b'"detail":"Expected `array`, got `int`.","where":"row 3, field \'image\' at [0]",'
        b'"remedy":"Give \'image\' as uint8[8, 8].","request_id":"e1-1"}'
    )
    error = error_of(Response(422, {}, body), "mine")
    assert isinstance(error, InvalidRequestError)
    assert (error.what, error.where) == ("Expected `array`, got `int`.", "row 3, field 'image' at [0]")
    assert (error.row, error.field, error.status) == (3, "image", 422)
    assert (error.remedy, error.request_id, error.problem) == ("Give 'image' as uint8[8, 8].", "e1-1", "contract")


def test_an_error_without_a_document_still_says_what_came():
    error = error_of(Response(500, {"x-request-id": "e1-2"}, b"<html>\n  Oops</html>"), "mine")
    assert "<html> Oops</html>" in error.what
    assert error.request_id == "e1-2"
    assert error_of(Response(500, {}, b""), "mine").request_id == "mine"


def test_the_error_object_of_other_protocols_is_read():
    assert error_of(Response(404, {}, b'{"error":"no such model"}')).what == "no such model"


@pytest.mark.parametrize(
    ("given", "seconds"),
    [("7", 7.0), ("", None), ("soon", None), ("-1", None), ("1e3", None), ("Fri, 31 Dec 1999 23:59:59 GMT", 0.0)],
)
def test_retry_after_is_read(given, seconds):
    assert Response(503, {"retry-after": given}, b"").retry_after == seconds


def test_retry_after_may_be_a_date():
    given = formatdate(time.time() + 100, usegmt=True)
    assert 95.0 < Response(503, {"retry-after": given}, b"").retry_after <= 100.0


def test_an_error_survives_the_way_between_processes():
    error = OverloadedError("busy", where="there", remedy="wait", status=429, request_id="1", retry_after=2.0)
    error.attempts = 3
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is OverloadedError
    assert vars(again) == vars(error)
    assert str(again) == str(error) == "there: busy wait"
    timed_out = pickle.loads(pickle.dumps(ServiceTimeoutError("late", sent=False)))
    assert (str(timed_out), timed_out.sent) == ("late", False)


def test_no_two_errors_share_a_code():
    from modelyard import errors

    others = [kind.code for kind in vars(errors).values() if isinstance(kind, type) and hasattr(kind, "code")]
    codes = [ServiceError.code, *(kind.code for kind in ServiceError.__subclasses__())]
    assert len(codes) == len(set(codes)) == 11
    assert not set(codes) & set(others)
