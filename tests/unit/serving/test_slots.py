from __future__ import annotations

import time

import pytest

from modelyard.data import Field
from modelyard.packages.contract import Contract
from modelyard.serving.loading import Served
from modelyard.serving.route import MILLION, Route, Sampling, Window, label_word
from modelyard.serving.slots import Generation, Slot, Slots
from modelyard.serving.state import GenerationRecord, Page

SERVED = Served(Contract((Field("x", "float64"),), (Field("y", "float64"),)), lambda columns: columns, {}, {})


def generation(number: int, version: str = "", column: str = "x") -> Generation:
    served = Served(Contract((Field(column, "float64"),), SERVED.contract.outputs), lambda columns: columns, {}, {})
    return Generation(GenerationRecord(number, 'm"', version or f"v{number}", "d" * 64, "/store"), served)


@pytest.fixture
def slots():
    page = Page.create()
    yield Slots(page)
    page.close()


def commit(slots: Slots, number: int, canary: int = 0, ppm: int = 0) -> None:
    store(slots, Page.ROUTE, Route(number, canary, ppm).pack())


def store(slots: Slots, offset: int, word: int) -> None:
    slots.page.words[slots.page.slot_word(0) + offset] = word


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


def test_a_canary_answers_its_share_and_the_same_clients_each_time(slots):
    for number in (1, 2):
        slots.hold("m", 0, generation(number))
    commit(slots, 1, 2, 100_000)
    keys = [f"client-{number}" for number in range(20_000)]
    chosen = {key for key in keys if slots["m"].take(key).number == 2}
    assert chosen == {key for key in keys if slots["m"].take(key).number == 2}
    assert 0.09 < len(chosen) / len(keys) < 0.11
    commit(slots, 1, 2, 300_000)
    wider = {key for key in keys if slots["m"].take(key).number == 2}
    assert chosen < wider, "who was a canary's client stays one while its share grows"


def test_requests_without_a_key_are_drawn_one_by_one(slots):
    for number in (1, 2):
        slots.hold("m", 0, generation(number))
    commit(slots, 1, 2, 250_000)
    share = sum(slots["m"].take().number == 2 for _ in range(20_000)) / 20_000
    assert 0.23 < share < 0.27


def test_another_canary_takes_other_clients(slots):
    keys = [f"client-{number:05}" for number in range(20_000)]
    chosen = {}
    for number in range(2, 12):
        slots.hold("m", 0, generation(number))
        commit(slots, 1, number, 500_000)
        slots.hold("m", 0, generation(1))
        chosen[number] = {key for key in keys if slots["m"].take(key).number == number}
    for first in chosen:
        for second in chosen:
            if first < second:
                both = len(chosen[first] & chosen[second]) / len(keys)
                assert 0.2 < both < 0.3, "independent halves have a quarter in common"


@pytest.mark.parametrize(("ppm", "number"), [(0, 1), (MILLION, 2)])
def test_no_share_is_no_request_and_the_whole_share_is_each(slots, ppm, number):
    for held in (1, 2):
        slots.hold("m", 0, generation(held))
    commit(slots, 1, 2, ppm)
    assert {slots["m"].take(str(key)).number for key in range(2000)} == {number}
    assert {slots["m"].take().number for _ in range(2000)} == {number}


def test_answers_of_a_canary_are_counted_and_those_of_the_stable_one_are_not(slots):
    for held in (1, 2):
        slots.hold("m", 0, generation(held))
    commit(slots, 1, 2, MILLION)
    canary = slots["m"].take()
    assert canary.stats.collect() is None
    canary.stats.answered(500, 0.002)
    assert (seen := canary.stats.collect()).requests == seen.errors == 1
    commit(slots, 1)
    assert slots["m"].take().stats is None


def test_a_version_is_taken_from_what_answers_and_never_from_what_is_only_prepared(slots):
    for number in range(1, 7):
        slots.hold("m", 0, generation(number))
    commit(slots, 3, 4, 1)
    store(slots, Page.PREVIOUS, 2)
    store(slots, Page.LABELS, label_word("old"))
    store(slots, Page.LABELS + 1, 1)
    slot = slots["m"]
    assert [slot.take_version(f"v{number}").number for number in (1, 2, 3, 4)] == [1, 2, 3, 4]
    assert slot.take_version("v5") is None
    store(slots, Page.GRACE + 1, Window(6, 1).pack())
    assert slot.take_version("v6").in_flight == 1


def test_of_two_generations_of_a_version_the_stable_one_is_taken(slots):
    slots.hold("m", 0, generation(1, "v1"))
    slots.hold("m", 0, generation(2, "v1"))
    commit(slots, 2)
    store(slots, Page.PREVIOUS, 1)
    assert slots["m"].take_version("v1").number == 2


def test_labels_name_generations_and_one_that_is_not_held_names_none(slots):
    for number in (1, 2, 3):
        slots.hold("m", 0, generation(number))
    commit(slots, 1, 2, 0)
    slot = slots["m"]
    assert (slot.take_label("stable").number, slot.take_label("canary").number) == (1, 2)
    assert slot.take_label("gold") is None
    last = Page.LABELS + 2 * (Page.MAX_LABELS - 1)
    store(slots, last, label_word("gold"))
    store(slots, last + 1, 3)
    assert slot.take_label("gold").in_flight == 1
    store(slots, last + 1, 9)
    assert slot.take_label("gold") is None


def test_a_generation_in_grace_is_given_while_its_window_is_open_and_only_for_another_contract(slots):
    now = time.monotonic_ns() // 1_000_000
    for number, column in ((1, "x"), (2, "y"), (3, "y")):
        slots.hold("m", 0, generation(number, column=column))
    commit(slots, 2)
    slot, current = slots["m"], slots["m"].generations[2]
    assert slot.previous_in_grace(current) is None
    store(slots, Page.GRACE, Window(1, now + 60_000).pack())
    assert (before := slot.previous_in_grace(current)).number == 1
    assert before.in_flight == 1
    assert slot.previous_in_grace(before) is None, "a generation is not before itself"
    store(slots, Page.GRACE + 1, Window(3, now + 70_000).pack())
    assert slot.previous_in_grace(current).number == 1, "what has the same contract can't help"
    store(slots, Page.GRACE, Window(1, now - 1).pack())
    assert slot.previous_in_grace(current) is None, "the window is over"


def test_what_does_not_fit_a_canary_of_another_contract_is_for_the_stable_one(slots):
    slots.hold("m", 0, generation(1, column="x"))
    slots.hold("m", 0, generation(2, column="y"))
    commit(slots, 1, 2, MILLION)
    canary = slots["m"].take()
    assert slots["m"].previous_in_grace(canary).number == 1
    commit(slots, 2)
    assert slots["m"].previous_in_grace(canary) is None


def test_a_shadow_sees_its_share_and_answers_nobody(slots):
    for number in (1, 2):
        slots.hold("m", 0, generation(number))
    commit(slots, 1)
    slot = slots["m"]
    assert slot.shadow() is None
    store(slots, Page.SHADOW, Sampling(2, 250_000).pack())
    seen = [slot.shadow() for _ in range(20_000)]
    assert 0.23 < sum(one is not None for one in seen) / 20_000 < 0.27
    assert slot.generations[2].in_flight == sum(one is not None for one in seen)
    assert slot.take_version("v2") is None
    assert slot.take().number == 1
