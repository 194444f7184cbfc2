"""The worker process: takes tasks from a socket, one after the other, and runs them until the socket closes."""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import os
import signal
import socket
import sys

from modelyard.engines.frames import Channel, Done, Prepare, Ready, Run, Told
from modelyard.engines.task import Workbench, execute
from modelyard.records import Event
from modelyard.store.store import Store

__all__ = ["main"]


def main(descriptor: int) -> None:
    """Serve one executor.

    Args:
        descriptor: The connected socket.
    """
    # A terminal's Ctrl-C is the executor's affair: it decides which tasks end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    faulthandler.enable()
    # When memory runs out the kernel shall take the step, not the scheduler that has to report it.
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("500")
    connection = socket.socket(fileno=descriptor)
    connection.set_inheritable(False)
    channel = Channel(connection)
    owner = os.getpid()
    bench = Workbench()
    stores: dict[str, Store] = {}

    def emit(event: Event) -> None:
        channel.send(Told(event))

    channel.send(Ready(owner))
    while isinstance(message := channel.receive(), Run | Prepare):
        if isinstance(message, Prepare):
            for module in message.modules:
                # Whatever is wrong with it, the task that needs it says it better.
                with contextlib.suppress(Exception):
                    importlib.import_module(module)
            continue
        call = message.call
        store = stores.get(call.store)
        if store is None:
            store = stores[call.store] = Store.open(call.store)
        result = execute(call, store, emit, bench)
        if os.getpid() != owner:
            # The step forked, and this is the child coming back: only the parent may answer.
            os._exit(0)
        channel.send(Done(result))
    # Threads that a step left behind, and exit handlers of its libraries, must not hold up whoever waits for us.
    os._exit(0)


if __name__ == "__main__":
    main(int(sys.argv[1]))
