from __future__ import annotations

import socket
import threading

import msgspec
import pytest

from modelyard.errors import (
    BusyError,
    ContractError,
    IntegrityError,
    ModelyardError,
    NotFoundError,
    StorageError,
    WorkerLostError,
)
from modelyard.records import Failure
from modelyard.serving.state import GenerationRecord
from modelyard.serving.wire import Abort, Channel, Drain, Load, Prepare, SlotLoad, ToWorker, error_of, failure_of

RECORD = GenerationRecord(3, "m", "v1", "d" * 64, "/store/d")


@pytest.fixture
def ends():
    first, second = socket.socketpair()
    yield Channel(first, ToWorker), Channel(second, ToWorker)
    first.close()
    second.close()


@pytest.mark.parametrize(
    "frame",
    [
        Load((SlotLoad("m", 0, (RECORD,)),)),
        Prepare("m", 1, RECORD, {"request": "r-1"}),
        Abort("m\n\u2028", 2),
        Drain(),
    ],
)
def test_a_frame_arrives_as_it_was_sent(ends, frame):
    assert ends[0].send(frame)
    assert ends[1].receive() == frame


def test_frames_sent_by_several_threads_arrive_whole(ends):
    def send(start: int) -> None:
        for number in range(start, start + 200):
            ends[0].send(Abort("m" * 300, number))

    threads = [threading.Thread(target=send, args=(start,)) for start in (0, 200, 400)]
    for thread in threads:
        thread.start()
    assert {ends[1].receive().number for _ in range(600)} == set(range(600))
    for thread in threads:
        thread.join()


def test_the_end_of_the_other_side_is_none_and_sending_to_it_says_so(ends):
    ends[1].close()
    assert ends[0].receive() is None
    assert not ends[0].send(Drain())


def test_a_line_that_is_no_frame_is_an_error(ends):
    ends[0].connection.sendall(b'{"frame":"Explode"}\n')
    with pytest.raises(msgspec.ValidationError, match="Explode"):
        ends[1].receive()


@pytest.mark.parametrize(
    "kind", [BusyError, ContractError, IntegrityError, NotFoundError, StorageError, WorkerLostError]
)
def test_an_error_keeps_class_place_and_remedy_on_its_way(kind):
    error = error_of(failure_of(kind("It broke.", where="row 3", remedy="Mend it.")))
    assert type(error) is kind
    assert (error.what, error.where, error.remedy) == ("It broke.", "row 3", "Mend it.")


def test_a_foreign_error_keeps_its_name_and_text_and_an_unknown_code_is_an_error_too():
    assert "ZeroDivisionError: by zero" in str(error_of(failure_of(ZeroDivisionError("by zero"))))
    assert isinstance(error_of(Failure("from-the-future", "What?")), ModelyardError)
