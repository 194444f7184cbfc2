"""Lines, and the streams that carry them."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from modelyard.engines.capture import LONGEST_LINE, Capture, Lines, TaskLog
from modelyard.records import Event
from modelyard.testing.executor import Workplace


@given(st.lists(st.binary(max_size=40)))
def test_lines_do_not_depend_on_how_the_bytes_were_cut(chunks: list[bytes]) -> None:
    piecewise, whole = Lines(), Lines()
    found = [line for chunk in chunks for line in piecewise.feed(chunk)] + piecewise.finish()
    assert found == whole.feed(b"".join(chunks)) + whole.finish()


@given(st.lists(st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]))))
def test_text_comes_back_line_by_line(texts: list[str]) -> None:
    assert Lines().feed("".join(f"{text}\n" for text in texts).encode()) == texts


def test_a_progress_bar_leaves_its_last_state() -> None:
    assert Lines().feed(b" 10%\r 50%\r100%\n") == ["100%"]


def test_a_line_without_an_end_does_not_fill_the_memory() -> None:
    lines = Lines()
    assert [len(line) for line in lines.feed(b"x" * (LONGEST_LINE + 1))] == [LONGEST_LINE + 1]
    assert lines.finish() == []


def test_a_stream_kept_beyond_its_task_goes_back_to_the_terminal(place: Workplace, tmp_path: Path) -> None:
    capture, events = Capture(), list[Event]()
    log = TaskLog(place.call("talk"), events.append)
    with capture.into(log):
        kept = sys.stdout
        print("inside")  # noqa: T201
    log.close()
    target = os.open(tmp_path / "terminal", os.O_CREAT | os.O_RDWR)
    saved = os.dup(1)
    try:
        os.dup2(target, 1)
        print("outside", file=kept)
    finally:
        os.dup2(saved, 1)
        os.close(saved)
        os.close(target)
    assert [event.data["line"] for event in events] == ["inside"]
    assert (tmp_path / "terminal").read_text() == "outside\n"


def test_a_last_line_without_an_end_is_not_lost(place: Workplace) -> None:
    events: list[Event] = []
    log = TaskLog(place.call("talk"), events.append)
    with Capture().into(log):
        sys.stdout.write("no end")
    log.close()
    assert [event.data["line"] for event in events] == ["no end"]


def test_streams_and_logging_are_as_before_afterwards(place: Workplace) -> None:
    before = sys.stdout, sys.stderr, logging.getLogger().level, list(logging.getLogger().handlers)
    log = TaskLog(place.call("talk"), lambda _event: None)
    with Capture().into(log):
        pass
    log.close()
    assert (sys.stdout, sys.stderr, logging.getLogger().level, list(logging.getLogger().handlers)) == before


def test_a_lone_surrogate_is_escaped_in_file_and_event(place: Workplace) -> None:
    events: list[Event] = []
    log = TaskLog(place.call("talk"), events.append)
    log.line("bad \udcff name", "log")
    log.close()
    assert events[0].data["line"] == "bad \\udcff name" == place.log()[0]
