"""The bus between real processes, some of which are killed."""

from __future__ import annotations

import random
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

from modelyard.releases import FileBus

PRELUDE = """
import os, sys, time
from pathlib import Path
from modelyard.releases import FileBus
bus = FileBus(Path(sys.argv[1]))
"""


def start(code: str, folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", PRELUDE + code, str(folder), *arguments],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def kill(process: subprocess.Popen[str]) -> list[str]:
    process.send_signal(signal.SIGKILL)
    with process:
        assert process.stdout is not None
        # Not by `communicate`, which passes over what `readline` has read ahead.
        output = process.stdout.read()
    assert process.returncode == -signal.SIGKILL
    return output.split()


def test_two_processes_publish_at_once_and_nothing_is_lost(tmp_path: Path) -> None:
    code = """
print("ready", flush=True)
input()
for number in range(100):
    bus.publish("t", {"sender": sys.argv[2], "number": number, "filler": "x" * (number * 97 % 9000)})
"""
    children = [start(code, tmp_path, name) for name in "ab"]
    assert [line(child) for child in children] == ["ready", "ready"]
    for child in children:
        assert child.stdin is not None
        child.stdin.write("\n")
        child.stdin.flush()
    for child in children:
        child.communicate()
        assert child.returncode == 0
    messages = list(FileBus(tmp_path).history("t"))
    for name in "ab":
        assert [message["number"] for message in messages if message["sender"] == name] == list(range(100))
    assert len(messages) == 200


def test_a_publisher_killed_at_any_moment_loses_nothing_that_it_had_published(tmp_path: Path) -> None:
    code = """
number = 0
while True:
    bus.publish("t", {"attempt": int(sys.argv[2]), "number": number, "filler": "x" * 60_000})
    print(number, flush=True)
    number += 1
"""
    for attempt in range(6):
        child = start(code, tmp_path, str(attempt))
        first = line(child)
        time.sleep(random.uniform(0, 0.05))
        done = [int(word) for word in [first, *kill(child)]]
        found = [m["number"] for m in FileBus(tmp_path).history("t") if m["attempt"] == attempt]
        assert found[: len(done)] == done == list(range(len(done)))
        assert len(found) <= len(done) + 1


def test_a_publisher_killed_inside_a_line_leaves_a_topic_that_goes_on(tmp_path: Path) -> None:
    code = """
import modelyard.releases.bus as module
def half(file, data, position):
    os.pwrite(file, data[: len(data) // 2], position)
    print("inside", flush=True)
    time.sleep(60)
bus.publish("t", {"n": 0})
module._write_at = half
bus.publish("t", {"n": "never published, and long enough to be cut"})
"""
    child = start(code, tmp_path)
    assert line(child) == "inside"
    kill(child)
    bus = FileBus(tmp_path)
    assert (tmp_path / "t" / "messages.jsonl").read_bytes().startswith(b'{"n":0}\n{"n":"never')
    assert list(bus.subscribe("t", "c")) == [{"n": 0}]
    bus.publish("t", {"n": 1})
    assert list(bus.subscribe("t", "c")) == [{"n": 1}]


def test_a_consumer_killed_before_it_goes_on_sees_the_message_again(tmp_path: Path) -> None:
    bus = FileBus(tmp_path)
    for number in range(3):
        bus.publish("t", {"n": number})
    code = """
for message in bus.subscribe("t", "c"):
    print(message["n"], flush=True)
    if message["n"] == 1:
        time.sleep(60)
"""
    for expected in (["0", "1"], ["1"]):
        child = start(code, tmp_path)
        assert [line(child) for _ in expected] == expected
        kill(child)
    assert list(bus.subscribe("t", "c")) == [{"n": 1}, {"n": 2}]
    assert list(bus.subscribe("t", "c")) == []


def test_a_consumer_killed_at_any_moment_misses_nothing(tmp_path: Path) -> None:
    bus = FileBus(tmp_path)
    for number in range(150):
        bus.publish("t", {"n": number})
    code = """
for message in bus.subscribe("t", "c"):
    print(message["n"], flush=True)
"""
    seen: list[int] = []
    for _ in range(4):
        child = start(code, tmp_path)
        seen.append(int(line(child)))
        time.sleep(random.uniform(0, 0.03))
        seen += [int(word) for word in kill(child)]
    seen += [message["n"] for message in bus.subscribe("t", "c")]
    assert sorted(set(seen)) == list(range(150))
    assert len(seen) <= 150 + 4, "only the message at hand comes again"


def test_a_full_disk_is_one_clear_error_and_the_topic_stays_as_it_was(tmp_path: Path) -> None:
    code = """
import resource
from modelyard.errors import StorageError
bus.publish("t", {"n": 0})
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
try:
    bus.publish("t", {"n": "x" * 20_000})
except StorageError as error:
    print(error.where, os.path.getsize(error.where), flush=True)
bus.publish("t", {"n": 1})
"""
    child = start(code, tmp_path)
    output, _ = child.communicate()
    assert child.returncode == 0
    assert output.strip() == f"{tmp_path / 't' / 'messages.jsonl'} 8"
    assert list(FileBus(tmp_path).history("t")) == [{"n": 0}, {"n": 1}]


def test_a_waiting_process_wakes_within_fifty_milliseconds(tmp_path: Path) -> None:
    code = """
bus.wait("t", 0)
for _ in range(15):
    print("waiting", flush=True)
    bus.wait("t", 30)
    now = time.monotonic()
    print(now - max(message["at"] for message in bus.history("t")), flush=True)
"""
    child = start(code, tmp_path)
    bus = FileBus(tmp_path)
    delays = []
    for _ in range(15):
        assert line(child) == "waiting"
        time.sleep(random.uniform(0.01, 0.06))
        bus.publish("t", {"at": time.monotonic()})
        delays.append(float(line(child)))
    child.communicate()
    # From before the write and its fsync to after the look; the median, for the machine has other things to do.
    assert statistics.median(delays) < 0.05, delays


def test_waiting_costs_next_to_nothing(tmp_path: Path) -> None:
    bus = FileBus(tmp_path)
    bus.publish("t", {})
    bus.wait("t", 0)
    before = time.process_time()
    assert bus.wait("t", 2.0) is False
    used = (time.process_time() - before) / 2.0
    assert used < 0.02


@pytest.mark.parametrize("victim", ["publisher", "consumer"])
def test_a_stopped_process_that_holds_no_lock_holds_up_nobody(tmp_path: Path, victim: str) -> None:
    code = """
bus.publish("t", {"n": 0})
reader = bus.subscribe("t", "c")
next(reader)
print("ready", flush=True)
input()
"""
    child = start(code, tmp_path)
    assert line(child) == "ready"
    child.send_signal(signal.SIGSTOP)
    started = time.monotonic()
    if victim == "publisher":
        assert len(list(FileBus(tmp_path).subscribe("t", "other"))) == 1
    else:
        FileBus(tmp_path).publish("t", {"n": 1})
    assert time.monotonic() - started < 5
    child.send_signal(signal.SIGCONT)
    child.communicate("\n")
