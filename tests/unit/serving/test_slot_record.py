from __future__ import annotations

import msgspec
import pytest

from modelyard.serving.state import GenerationRecord, Share, SlotRecord


def generation(number: int, inputs: str = "a") -> GenerationRecord:
    return GenerationRecord(number, "m", f"v{number}", f"{number:064x}", f"/store/{number}", inputs=inputs)


@pytest.fixture
def slot() -> SlotRecord:
    return SlotRecord.first(generation(1)).after(generation(2), 100.0, 30.0)


def test_every_generation_that_is_routed_to_is_held(slot):
    slot = slot.with_canary(Share(generation(3), 10)).with_shadow(Share(generation(4), 10))
    slot = slot.with_label("gold", generation(1))
    assert list(slot.held) == [2, 3, 4, 1]
    assert slot.routed == {3, 4, 1}
    slot = slot.after(generation(5), 110.0, 30.0).after(generation(6), 120.0, 30.0)
    assert set(slot.held) == {6, 5, 4, 1}, "the label keeps 1, and the shadow 4; the canary ended with the swap"
    assert slot.labels == {"stable": 6, "gold": 1}
    assert set(slot.with_label("gold", None).held) == {6, 5, 4}


def test_a_promotion_is_the_canary_becoming_current(slot):
    canary = generation(3)
    after = slot.with_canary(Share(canary, 10)).after(canary, 110.0, 30.0)
    assert (after.current.number, after.previous.number, after.canary) == (3, 2, None)
    assert after.labels == {"stable": 3}


def test_a_new_contract_opens_a_window_and_the_same_one_does_not(slot):
    assert slot.grace == ()
    other = slot.after(generation(3, "b"), 200.0, 30.0)
    assert [(one.generation.number, one.until) for one in other.grace] == [(2, 230.0)]
    assert slot.after(generation(3, "b"), 200.0, 0.0).grace == ()
    assert slot.after(generation(3, ""), 200.0, 30.0).grace == (), "nobody knows that contract yet"


def test_a_window_outlives_further_swaps_and_two_are_open_at_most(slot):
    slot = slot.after(generation(3, "b"), 200.0, 30.0).after(generation(4, "b"), 210.0, 30.0)
    assert [one.generation.number for one in slot.grace] == [2]
    assert 2 in slot.held
    slot = slot.after(generation(5, "c"), 215.0, 30.0).after(generation(6, "d"), 220.0, 30.0)
    assert [one.generation.number for one in slot.grace] == [5, 4]
    assert slot.after(generation(7, "d"), 246.0, 30.0).grace[0].generation.number == 5
    assert slot.without_old_graces(250.0).grace == ()


def test_a_rollback_over_a_contract_change_opens_a_window_the_other_way(slot):
    slot = slot.after(generation(3, "b"), 200.0, 30.0)
    back = slot.after(slot.previous, 205.0, 30.0)
    assert [(one.generation.number, one.until) for one in back.grace] == [(3, 235.0), (2, 230.0)]


def test_what_can_not_be_held_leaves_no_trace(slot):
    slot = slot.with_canary(Share(generation(3), 10)).with_label("gold", generation(3)).with_label("old", generation(1))
    gone = slot.without(3)
    assert (gone.canary, gone.labels, set(gone.held)) == (None, {"stable": 2, "old": 1}, {2, 1})
    assert gone.without(1).previous is None


def test_a_slot_is_read_as_it_was_written_and_one_of_before_without_roles_too(slot):
    slot = slot.with_canary(Share(generation(3), 10)).with_label("gold", generation(1))
    assert msgspec.json.decode(msgspec.json.encode(slot), type=SlotRecord) == slot
    before = b'{"current":{"number":1,"model":"m","version":"v1","package":"p","folder":"/f"},"labels":{"stable":1}}'
    assert list(msgspec.json.decode(before, type=SlotRecord).held) == [1]
