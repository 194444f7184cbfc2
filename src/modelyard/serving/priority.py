"""Work that steady traffic must not feel: it is done in threads of low priority."""

from __future__ import annotations

import contextvars
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

__all__ = ["at_low_priority", "lower_priority"]

NICENESS = 10

T = TypeVar("T")


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
