from __future__ import annotations

import time

import msgspec
import pytest

from modelyard.errors import RefusedError, StorageError
from modelyard.records import Failure
from modelyard.serving.board import Board
from modelyard.serving.faults import Faults
from modelyard.serving.logs import Log
from modelyard.serving.route import HIGHEST, Route, Window, label_word
from modelyard.serving.state import Committed, CommittedFile, GenerationRecord, Page, Share, SlotRecord


def generation(number: int, model: str = "m") -> GenerationRecord:
    return GenerationRecord(number, model, f"v{number}", f"{number:064x}", f"/store/{number}")


@pytest.fixture
def make_board(tmp_path):
    pages = []

    def make(committed: Committed | None = None, faults: Faults | None = None) -> Board:
        page = Page.create()
        pages.append(page)
        return Board(CommittedFile(tmp_path), committed or Committed(), page, faults or Faults(), Log("error"))

    yield make
    for page in pages:
        page.close()


def word(board: Board, name: str) -> int:
    return board.page.words[board.page.slot_word(board.index(name))]


def test_the_state_is_on_disk_before_the_word_is_stored(make_board, tmp_path):
    seen = {}

    class Watch(Faults):
        def at(self, point: str) -> None:
            seen[point] = (CommittedFile(tmp_path).read().slots["m"].current.number, word(board, "m"))

    board = make_board(faults=Watch())
    board.commit("m", SlotRecord.first(generation(1)))
    assert seen == {"state-written": (1, 0), "words-stored": (1, 0), "word-stored": (1, 1)}


def test_a_state_that_can_not_be_written_leaves_the_word_as_it_was(make_board, tmp_path):
    board = make_board()
    board.commit("m", SlotRecord.first(generation(1)))
    (tmp_path / "committed.json").unlink()
    (tmp_path / "committed.json").mkdir()
    with pytest.raises(StorageError):
        board.commit("m", board.committed.slots["m"].after(generation(2)))
    assert word(board, "m") == 1
    assert board.committed.slots["m"].current.number == 1


def test_a_number_that_was_given_is_not_given_again_even_if_nothing_was_committed(make_board):
    board = make_board()
    assert [board.new_number("m"), board.new_number("m"), board.new_number("n")] == [1, 2, 1]


def test_after_the_highest_number_the_next_one_is_refused_before_anything_is_done(make_board):
    board = make_board(Committed().with_slot("m", SlotRecord.first(generation(HIGHEST - 1))))
    assert board.new_number("m") == HIGHEST
    for _ in range(2):
        with pytest.raises(RefusedError, match="room"):
            board.new_number("m")


def test_what_stands_beside_the_route_is_stored_before_it_and_a_window_keeps_its_place(make_board):
    seen = []

    class Watch(Faults):
        def at(self, point: str) -> None:
            if point == "words-stored":
                seen.append((Route.unpack(word(board, "m")).stable, windows(board)))

    def windows(board: Board) -> list[int]:
        first = board.page.slot_word(board.index("m")) + Page.GRACE
        return [Window.unpack(board.page.words[first + place]).generation for place in range(Page.GRACES)]

    board = make_board(faults=Watch())
    now = time.time()
    record = SlotRecord.first(msgspec.structs.replace(generation(1), inputs="a"))
    board.commit("m", record)
    for number in (2, 3):
        record = record.after(msgspec.structs.replace(generation(number), inputs=str(number)), now, 30.0)
        board.commit("m", record)
    # While the route still names 2, a request that took it finds the window of 1, and one that takes 3 that of 2.
    assert seen == [(0, [0, 0]), (1, [1, 0]), (2, [1, 2])]


def test_a_label_has_a_place_as_long_as_it_is_given_and_a_restart_finds_it(make_board):
    def labels(board: Board) -> dict[int, int]:
        first = board.page.slot_word(board.index("m")) + Page.LABELS
        words = board.page.words[first : first + 2 * Page.MAX_LABELS].tolist()
        return {name: number for name, number in zip(words[::2], words[1::2], strict=True) if name}

    board = make_board()
    record = SlotRecord.first(generation(1)).with_label("gold", generation(1)).with_label("old", generation(1))
    board.commit("m", record)
    assert labels(board) == {label_word("gold"): 1, label_word("old"): 1}
    board.commit("m", record.with_label("gold", None).with_label("new", generation(1)))
    assert labels(board) == {label_word("new"): 1, label_word("old"): 1}
    assert labels(make_board(board.committed)) == labels(board)
    board.retire("m")
    assert labels(board) == {}


def test_a_generation_that_nobody_can_hold_is_forgotten_durably_and_the_current_one_never(make_board, tmp_path):
    board = make_board()
    record = SlotRecord.first(generation(1)).with_canary(Share(generation(2), 5)).with_label("gold", generation(2))
    board.commit("m", record)
    board.mark_broken({"m": Failure("integrity", "It is damaged.")})
    board.forget("m", 2)
    board.forget("m", 1)
    assert CommittedFile(tmp_path).read().slots["m"].labels == {"stable": 1}
    assert Route.unpack(word(board, "m")) == Route(1)
    assert "m" in board.broken


def test_what_was_committed_stands_in_the_page_after_a_restart(make_board):
    board = make_board(Committed().with_slot("m", SlotRecord.first(generation(4))))
    assert word(board, "m") == 4


def test_a_place_in_the_page_is_never_given_to_another_model(make_board):
    board = make_board()
    first = board.index("m")
    board.commit("m", SlotRecord.first(generation(1)))
    board.retire("m")
    assert word(board, "m") == 0
    assert board.index("n") != first
    assert board.index("m") == first


def test_a_starting_worker_is_told_of_current_and_previous_generations_and_of_expected_slots(make_board):
    board = make_board()
    board.commit("m", SlotRecord.first(generation(1)))
    board.commit("m", board.committed.slots["m"].after(generation(2)))
    board.commit("m", board.committed.slots["m"].after(generation(3)))
    board.expect(["m", "n"])
    told = {load.name: [held.number for held in load.generations] for load in board.loads()}
    assert told == {"m": [3, 2], "n": []}


def test_ready_means_that_every_expected_slot_is_committed_and_a_worker_accepts(make_board):
    board = make_board()
    board.workers_accept()
    assert not board.ready, "nobody said yet what should be live"
    board.expect(["m"])
    assert not board.ready
    board.commit("m", SlotRecord.first(generation(1)))
    assert board.ready


def test_ready_after_a_restart_needs_only_what_was_committed(make_board):
    board = make_board(Committed().with_slot("m", SlotRecord.first(generation(4))))
    assert not board.ready
    board.workers_accept()
    assert board.ready


def test_a_model_that_is_added_does_not_take_readiness_back_and_a_broken_one_does(make_board):
    board = make_board()
    board.expect([])
    board.workers_accept()
    assert board.ready
    board.expect(["m"])
    assert board.ready
    board.commit("m", SlotRecord.first(generation(1)))
    board.mark_broken({"m": Failure("integrity", "It is damaged.")})
    assert not board.ready
    board.mend("m")
    assert board.ready
