from __future__ import annotations

import pytest

from modelyard.data import Field
from modelyard.packages.contract import Contract
from modelyard.serving.loading import Served
from modelyard.serving.slots import Generation, Slot, Slots
from modelyard.serving.state import GenerationRecord, Page

SERVED = Served(Contract((Field("x", "float64"),), (Field("y", "float64"),)), lambda columns: columns, {}, {})


def generation(number: int) -> Generation:
    return Generation(GenerationRecord(number, 'm"', f"v{number}", "d" * 64, "/store"), SERVED)


@pytest.fixture
def slots():
    page = Page.create()
    yield Slots(page)
    page.close()


def commit(slots: Slots, number: int) -> None:
    slots.page.words[slots.page.slot_word(0)] = number


def test_a_prepared_generation_is_not_taken_before_it_is_committed(slots):
    slots.hold("m", 0, generation(1))
    assert slots["m"].take() is None
    commit(slots, 1)
    assert slots["m"].take().number == 1


def test_a_request_keeps_the_generation_that_it_took(slots):
    slots.hold("m", 0, generation(1))
    commit(slots, 1)
    taken = slots["m"].take()
    slots.hold("m", 0, generation(2))
    commit(slots, 2)
    assert (taken.number, taken.in_flight) == (1, 1)
    assert slots["m"].take().number == 2
    assert [gone.number for gone in slots.keep("m", (2,))] == [1]
    Slot.release(taken)
    assert taken.in_flight == 0


def test_a_committed_generation_that_is_not_held_is_not_replaced_by_another(slots):
    slots.hold("m", 0, generation(1))
    commit(slots, 2)
    assert slots["m"].take() is None


def test_keeping_nothing_removes_the_slot(slots):
    slots.hold("m", 0, generation(1))
    slots.keep("m", ())
    assert "m" not in slots
    assert slots.keep("m", ()) == []


def test_the_start_of_an_answer_is_json_whatever_the_names_hold(slots):
    assert generation(1).json_prefix == b'{"model":"m\\"","version":"v1","generation":1'
