"""What holds for every test."""

from __future__ import annotations

import signal
import threading


def pytest_configure() -> None:
    # A shell starts its background jobs deaf to Ctrl-C, and children inherit it; our tests send that signal.
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
