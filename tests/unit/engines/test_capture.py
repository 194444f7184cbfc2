"""Lines, and the streams that carry them."""

from __future__ import annotations

import io
import logging
import os
import sys
import threading
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.live import Live
from rich.text import Text

from modelyard.engines.capture import LONGEST_LINE, Capture, Lines, TaskLog
from modelyard.engines.task import execute
from modelyard.records import Event, EventKind
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
        print("inside")  # noqa: T201  (it is what is captured)
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


def test_a_task_that_says_nothing_has_no_log_file(place: Workplace) -> None:
    log = TaskLog(place.call("talk"), lambda _event: None)
    with Capture().into(log):
        pass
    log.close()
    log.line("too late", "log")
    assert not place.logs.exists() or not list(place.logs.iterdir())


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


def test_a_listener_that_prints_is_not_taken_for_the_task(place: Workplace, capsys: pytest.CaptureFixture[str]) -> None:
    """The terminal's own display prints for every event; were that captured, it would make the next event."""

    def listener(event: Event) -> None:
        place.events.append(event)
        print(f"seen: {event.data['line']}")  # noqa: T201  (it must not be captured)

    execute(place.call("talk", "said"), place.store, listener)
    assert place.lines() == ["one", "two", "INFO steps: three", "four"]
    assert capsys.readouterr().out.splitlines() == [f"seen: {line}" for line in place.lines()]


def test_a_display_in_another_thread_is_not_taken_for_the_task(
    place: Workplace, capsys: pytest.CaptureFixture[str]
) -> None:
    begun, ended = threading.Event(), threading.Event()

    def display() -> None:
        begun.wait(60)
        print("three of five steps")  # noqa: T201  (it is what is captured)
        ended.set()

    thread = threading.Thread(target=display)
    thread.start()
    source = (
        "import threading\n"
        "def step(context, *, begun=None):\n"
        "    thread = threading.Thread(target=lambda: print('a thread of the step'))\n"
        "    thread.start()\n"
        "    thread.join()\n"
        "    context.progress(1, 1)\n"
    )
    (place.project / "module.py").write_text(source)

    def listener(event: Event) -> None:
        place.events.append(event)
        if event.kind is EventKind.PROGRESS:
            begun.set()
            assert ended.wait(60)

    call = msgspec.structs.replace(place.call("step"), call="module:step")
    assert execute(call, place.store, listener).failure is None
    thread.join()
    assert place.lines() == ["a thread of the step"]
    assert capsys.readouterr().out == "three of five steps\n"


def test_bytes_and_a_child_process_may_use_the_streams(place: Workplace) -> None:
    source = (
        "import sys, subprocess\n"
        "def step():\n"
        "    sys.stdout.buffer.write(b'by')\n"
        "    sys.stdout.write('tes')\n"
        "    print(file=sys.stdout, flush=True)\n"
        "    subprocess.run(['true'], stdout=sys.stdout, stderr=sys.stderr, check=True)\n"
        "    assert sys.stdout.encoding == 'utf-8' and not sys.stdout.isatty()\n"
    )
    (place.project / "module.py").write_text(source)
    call = msgspec.structs.replace(place.call("step"), call="module:step")
    assert execute(call, place.store, place.events.append).failure is None
    assert place.lines() == ["bytes"]


def test_a_live_display_shows_and_the_log_has_the_steps_lines_alone(place: Workplace) -> None:
    terminal = io.StringIO()
    before, sys.stdout = sys.stdout, terminal
    try:
        console = Console(force_terminal=True, width=60)
        with Live(Text("running"), console=console, refresh_per_second=50) as live:

            def listener(event: Event) -> None:
                place.events.append(event)
                live.update(Text(f"seen {len(place.events)}"), refresh=True)

            execute(place.call("talk", "said"), place.store, listener)
            execute(place.call("sleep", "state", parameters={"seconds": 0.1}), place.store, listener)
    finally:
        sys.stdout = before
    assert place.lines() == ["one", "two", "INFO steps: three", "four", "asleep"]
    assert "seen 5" in terminal.getvalue()
    assert "three" not in terminal.getvalue()
