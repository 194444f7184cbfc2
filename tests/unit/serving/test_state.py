from __future__ import annotations

import multiprocessing
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.errors import IntegrityError, RefusedError, StorageError
from modelyard.serving.state import HISTORY, Committed, CommittedFile, GenerationRecord, Page, SlotRecord


def generation(number: int) -> GenerationRecord:
    return GenerationRecord(number, "m", f"v{number}", f"{number:064x}", f"/store/{number}")


def test_a_word_is_never_seen_in_part():
    page = Page.create()
    context = multiprocessing.get_context("fork")
    process = context.Process(target=_flip, args=(page.descriptor,))
    process.start()
    word = page.slot_word(0)
    seen: set[int] = set()
    deadline = time.monotonic() + 30
    # A busy machine may let the other process wait for a while.
    while len(seen) < 2 and time.monotonic() < deadline:
        seen |= {page.words[word] for _ in range(300_000)}
    process.terminate()
    process.join()
    page.close()
    assert seen <= {0, 2**64 - 1}
    assert len(seen) == 2, "both values were seen, so the test could have failed"


def _flip(descriptor: int) -> None:
    page = Page(descriptor)
    word = page.slot_word(0)
    while True:
        page.words[word] = 2**64 - 1
        page.words[word] = 0


def test_no_two_uses_of_the_page_share_a_word():
    page = Page.create()
    slots = [page.slot_word(index) + offset for index in range(page.MAX_SLOTS) for offset in range(page.SLOT_WORDS)]
    workers = [page.WORKERS + number for number in range(page.MAX_WORKERS)]
    assert len({page.READY, *workers, *slots}) == 1 + len(workers) + len(slots)
    assert max(slots) < page.WORDS
    page.close()


def test_a_slot_beyond_the_page_is_refused():
    page = Page.create()
    with pytest.raises(RefusedError, match="at most"):
        page.slot_word(page.MAX_SLOTS)
    page.close()


def test_in_flight_is_the_sum_over_the_workers():
    page = Page.create()
    page.words[page.WORKERS], page.words[page.WORKERS + 1], page.words[page.WORKERS + 2] = 2, 3, 100
    assert page.in_flight(2) == 5
    page.close()


@given(st.lists(st.sampled_from(["swap", "back"]), max_size=40))
def test_however_slots_change_the_numbers_grow_and_the_previous_one_is_the_last_that_answered(changes):
    state, answered = Committed(), []
    for change in changes:
        record = state.slots.get("m")
        if change == "swap":
            number = state.next_number("m")
            assert number > max(answered, default=0)
            new = record.after(generation(number)) if record else SlotRecord.first(generation(number))
        elif record is None or record.previous is None:
            continue
        else:
            new = record.after(record.previous)
        state = state.with_slot("m", new)
        answered.append(new.current.number)
        assert new.labels == {"stable": new.current.number}
        assert (new.previous.number if new.previous else None) == (answered[-2] if len(answered) > 1 else None)
        assert [held.number for held in new.history] == answered[-HISTORY:]


def test_a_retired_slot_never_gives_a_number_twice():
    state = Committed().with_slot("m", SlotRecord.first(generation(1)))
    state = state.with_slot("m", state.slots["m"].after(generation(2))).without_slot("m")
    assert state.slots == {}
    assert state.next_number("m") == 3


def test_what_is_written_is_read_again(tmp_path):
    file = CommittedFile(tmp_path)
    assert file.read() == Committed()
    state = (
        Committed()
        .with_slot("m", SlotRecord.first(generation(1)).after(generation(2)))
        .with_slot("n", SlotRecord.first(generation(7)))
    )
    file.write(state)
    assert CommittedFile(tmp_path).read() == state
    assert [path.name for path in tmp_path.iterdir()] == ["committed.json"]


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"slots": {"m": {}}}', b"\xff"])
def test_a_damaged_file_is_an_error_that_names_it(tmp_path, damage):
    (tmp_path / "committed.json").write_bytes(damage)
    with pytest.raises(IntegrityError, match=r"committed\.json"):
        CommittedFile(tmp_path).read()


def test_a_folder_that_can_not_be_written_is_a_storage_error(tmp_path):
    (tmp_path / "blocked").write_text("a file where a folder should be")
    with pytest.raises(StorageError):
        CommittedFile(tmp_path / "blocked").write(Committed())
