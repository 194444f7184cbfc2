"""Threads that answer run soon after they wake; those that prepare give way."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import struct
import threading

import pytest

from modelyard.serving.priority import (
    NICENESS,
    SLICE_NANOSECONDS,
    ask_for_short_slices,
    at_low_priority,
    lower_priority,
)

KNOWN = {"x86_64": 315, "aarch64": 275}
"""Of sched_getattr(2)."""


def attributes() -> tuple[int, int]:
    """Return niceness and slice of this thread, as the kernel says."""
    text = ctypes.create_string_buffer(48)
    assert ctypes.CDLL(None).syscall(KNOWN[platform.machine()], 0, text, len(text), 0) == 0
    told = struct.unpack("IIQiIQQQ", text.raw)
    return told[3], told[5]


def in_a_thread(work):
    told = []
    thread = threading.Thread(target=lambda: told.append(work()))
    thread.start()
    thread.join()
    return told[0]


@pytest.mark.skipif(platform.machine() not in KNOWN, reason="the number of the system call is not known here")
def test_short_slices_are_of_the_thread_that_asks_and_of_nothing_that_it_starts():
    def ask():
        before = attributes()
        assert ask_for_short_slices()
        return before, attributes(), in_a_thread(attributes)

    before, after, child = in_a_thread(ask)
    assert before == child == attributes()
    assert after[0] == before[0], "it is as nice as before"
    major, minor = map(int, re.match(r"(\d+)\.(\d+)", platform.release()).groups())
    if (major, minor) >= (6, 12):
        assert after[1] == SLICE_NANOSECONDS < before[1]


def test_low_priority_is_of_one_thread():
    def niceness():
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    own = niceness()
    assert in_a_thread(lambda: (lower_priority(), niceness())[1]) == NICENESS
    assert at_low_priority(niceness) == NICENESS
    assert niceness() == own
    with pytest.raises(ZeroDivisionError):
        at_low_priority(lambda: 1 // 0)
