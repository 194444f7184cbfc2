"""What steady traffic must not feel is done in threads of low priority, and what answers does not wait for them."""

from __future__ import annotations

import contextvars
import ctypes
import os
import platform
import struct
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

__all__ = ["at_low_priority", "ask_for_short_slices", "lower_priority"]

NICENESS = 10
SLICE_NANOSECONDS = 100_000
"""The least that Linux grants."""

_SCHED_SETATTR = {"x86_64": 314, "aarch64": 274}
_RESET_ON_FORK = 0x01
_ATTRIBUTES = struct.Struct("IIQiIQQQ")
"""struct sched_attr: size, policy, flags, niceness, priority, runtime, deadline, period."""

T = TypeVar("T")


def ask_for_short_slices() -> bool:
    """Have the calling thread run as soon as it wakes; return whether Linux, which heeds it since 6.12, took it.

    A thread of low priority that runs already keeps its processor to the end of its slice, milliseconds after another
    one has become ready; unless that one has shorter slices. It gets no more time than before, and nothing that it
    starts has them too. Source: sched_setattr(2); Documentation/scheduler/sched-eevdf.rst of Linux.
    """
    number = _SCHED_SETATTR.get(platform.machine())
    if number is None:
        return False
    niceness = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    attributes = _ATTRIBUTES.pack(
        _ATTRIBUTES.size, os.SCHED_OTHER, _RESET_ON_FORK, niceness, 0, SLICE_NANOSECONDS, 0, 0
    )
    # glibc has no function for it before 2.41; a kernel that refuses leaves all as it was.
    refused: int = ctypes.CDLL(None).syscall(number, 0, attributes, 0)
    return not refused


def lower_priority() -> None:
    """Make the calling thread give way to others for the rest of its life; Linux gives each its own niceness."""
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)


def at_low_priority(work: Callable[[], T]) -> T:
    """Return what some work returns, done in a thread of its own, in this one's context; raises what it raises."""
    done: Future[T] = Future()
    context = contextvars.copy_context()

    def run() -> None:
        lower_priority()
        try:
            done.set_result(context.run(work))
        except BaseException as error:
            done.set_exception(error)

    # A thread can't take its niceness back, and the one that waits has a commit before it.
    threading.Thread(target=run, name="staging", daemon=True).start()
    return done.result()
