from __future__ import annotations

import pytest

from modelyard.data import Field
from modelyard.packages.contract import Contract
from modelyard.serving.loading import Served
from modelyard.serving.observer import Observer
from modelyard.serving.route import MILLION, Route, Sampling
from modelyard.serving.slots import Generation, Slots
from modelyard.serving.state import GenerationRecord, Page

SERVED = Served(Contract((Field("x", "float64"),), (Field("y", "float64"),)), lambda columns: columns, {}, {})


@pytest.fixture
def slots():
    page = Page.create()
    slots = Slots(page)
    for number in (1, 2):
        slots.hold("m", 0, Generation(GenerationRecord(number, "m", f"v{number}", "d" * 64, "/store"), SERVED))
    yield slots
    page.close()


def route(slots: Slots, canary: int = 0, shadow: int = 0) -> None:
    first = slots.page.slot_word(0)
    slots.page.words[first + Page.ROUTE] = Route(1, canary, MILLION).pack()
    slots.page.words[first + Page.SHADOW] = Sampling(shadow, MILLION).pack()


def test_what_a_canary_answered_is_told_once(slots):
    told = []
    observer = Observer(slots, lambda frame: told.append(frame) or True)
    route(slots, canary=2)
    slots["m"].take().stats.answered(200, 0.001)
    assert observer.look()
    assert observer.look()
    assert [(frame.slot, frame.number, frame.role, frame.observation.requests) for frame in told] == [
        ("m", 2, "canary", 1)
    ]


def test_what_was_counted_of_a_shadow_is_not_held_against_the_canary_that_it_becomes(slots):
    told = []
    observer = Observer(slots, lambda frame: told.append(frame) or True)
    route(slots, shadow=2)
    stats = slots["m"].shadow().stats
    stats.answered(500, 0.001)
    observer.look()
    stats.answered(500, 0.001)
    route(slots, canary=2)
    observer.look()
    stats.answered(200, 0.001)
    observer.look()
    assert [(frame.role, frame.observation.errors) for frame in told] == [("shadow", 1), ("canary", 0)]


def test_what_has_no_role_any_more_is_counted_no_more(slots):
    observer = Observer(slots, lambda _: pytest.fail("there is nothing to say"))
    route(slots, canary=2)
    canary = slots["m"].take()
    canary.stats.answered(200, 0.001)
    slots.page.words[slots.page.slot_word(0)] = Route(2).pack()
    assert observer.look()
    assert canary.stats is None


def test_it_ends_with_the_supervisor(slots):
    route(slots, canary=2)
    slots["m"].take().stats.answered(200, 0.001)
    assert not Observer(slots, lambda _: False).look()
