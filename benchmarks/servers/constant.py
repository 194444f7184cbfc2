"""The ceiling: Modelyard's own HTTP server with a constant behind it, `constant.py PORT WORKERS ANSWER READ`.

READ is `read` where the body is read first, as whoever predicts must, and `skip` where it is not.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Sequence

from modelyard.serving.accepting import new_event_loop
from modelyard.serving.http.exchange import Exchange
from modelyard.serving.http.server import HttpServer


def main() -> None:
    """Serve in as many processes as asked for, all of which accept from one socket, until killed."""
    port, workers, answer, read = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3].encode(), sys.argv[4] == "read"
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind(("127.0.0.1", port))
    listening.listen(1024)
    listening.setblocking(False)
    next((number for number in range(1, workers) if os.fork() == 0), 0)
    headers = [("content-type", "application/json")]

    async def reply(exchange: Exchange) -> None:
        if read:
            await exchange.read()
        exchange.answer(200, headers, answer)

    def application(turn: Sequence[Exchange]) -> None:
        for exchange in turn:
            if read and not exchange.complete:
                waiting.add(loop.create_task(reply(exchange)))
            else:
                exchange.take()
                exchange.answer(200, headers, answer)

    loop = new_event_loop()
    waiting: set[asyncio.Task[None]] = set()
    server = HttpServer(application, lambda problem: (headers, problem.detail.encode()), loop, listening.fileno(), 30.0)
    loop.call_soon(server.start)
    loop.run_forever()


if __name__ == "__main__":
    main()
