"""What the compiler prints becomes part of what it found; what others print meanwhile goes where it was to go."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest

from modelyard.errors import InputError
from modelyard.packages.codecs.proto_notes import notes_of, printed
from modelyard.packages.codecs.proto_schema import parse

UNUSED = 'syntax = "proto3"; import "google/protobuf/any.proto"; message M { int64 x = 1; } // %s'
NO_SYNTAX = "message M { optional int64 x = 1; } // %s"


def test_warnings_are_told_and_not_printed(capfd):
    assert parse(UNUSED % "told").warnings == ("line 1, column 20: Import google/protobuf/any.proto is unused.",)
    (said,) = parse("\n" + NO_SYNTAX % "told").warnings
    assert said.startswith("No edition or syntax specified")
    assert parse('syntax = "proto3"; message M { int64 x = 1; }').warnings == ()
    assert capfd.readouterr().err == ""


def test_a_text_that_is_wrong_prints_nothing_either(capfd):
    with pytest.raises(InputError):
        parse(UNUSED % "wrong" + "\n}")
    with pytest.raises(InputError):
        parse("nonsense")
    assert capfd.readouterr().err == ""


def test_lines_of_others_are_whole_and_none_is_lost_whatever_is_compiled_meanwhile(capfd):
    written: list[bytes] = []
    done = threading.Event()

    def write() -> None:
        while not done.is_set():
            written.append(b'{"line":%d}\n' % len(written))
            os.write(2, written[-1])

    thread = threading.Thread(target=write)
    thread.start()
    for count in range(30):
        parse(UNUSED % f"{count} beside")
    done.set()
    thread.join()
    assert len(written) > 30
    # One that was caught may come behind the next.
    assert sorted(capfd.readouterr().err.encode().splitlines(keepends=True)) == sorted(written)
    assert count > 1


def test_a_process_without_standard_error_compiles():
    script = (
        f"import os; os.close(2)\nfrom modelyard.packages.codecs.proto_schema import parse\nprint(parse({NO_SYNTAX!r}))"
    )
    done = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, timeout=60, check=True)
    assert b"Schema" in done.stdout


def test_the_place_of_a_file_is_not_told_and_many_warnings_are_cut():
    line = b"/tmp/modelyard-proto-x/in/model.proto:%d:3: warning: Something.\n"
    text = b"other\n" + b"".join(line % number for number in range(1, 200)) + b"half a line"
    notes, others = notes_of(text)
    assert notes[0] == "line 1, column 3: Something."
    assert len(notes) == 50
    assert others == b"other\nhalf a line"


def test_standard_error_is_put_back_where_something_fails(tmp_path, capfd):
    def fail() -> None:
        with printed(tmp_path / "file"):
            os.write(2, b"meanwhile\n")
            raise ValueError("so")

    with pytest.raises(ValueError, match="so"):
        fail()
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "meanwhile\nafter\n"
