"""A worker's way to ask the supervisor for what it can't do in its own process, such as a swap."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable

from modelyard.errors import BusyError, IntegrityError
from modelyard.serving.asking import ControlReply, ControlRequest, Failed
from modelyard.serving.problems import HttpProblem
from modelyard.serving.tracing import NOBODY, Origin
from modelyard.serving.wire import Ask, error_of

__all__ = ["Liaison"]


class Liaison:
    """Asks the supervisor, and waits for its answers. It belongs to the event loop's thread.

    Args:
        send: Sends a frame to the supervisor; says whether there still is one.
    """

    def __init__(self, send: Callable[[Ask], bool]) -> None:
        self._send = send
        self._ids = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[ControlReply]] = {}

    async def ask(self, request: ControlRequest, origin: Origin = NOBODY) -> ControlReply:
        """Return what the supervisor answers; a swap that was asked for goes on where the asker gives up.

        Args:
            request: What a client on this machine may ask, too.
            origin: The client's request, for the supervisor's log and spans.

        Raises:
            BusyError: The supervisor is gone.
            HttpProblem: 409, the package can't be trusted.
            ModelyardError: Why it was not done.
        """
        number = next(self._ids)
        answer: asyncio.Future[ControlReply] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        try:
            if not self._send(Ask(number, request, origin)):
                raise BusyError("The service is stopping.", remedy="Try again when it has started.")
            reply = await answer
        finally:
            del self._waiting[number]
        if isinstance(reply, Failed):
            error = error_of(reply.failure)
            if isinstance(error, IntegrityError):
                # It may name files.
                raise HttpProblem(
                    409, error.code, "The model can't be served: it is damaged, or does not answer as its samples say.",
                    remedy="The service's log has the reason.",
                ) from error  # fmt: skip
            raise error
        return reply

    def answered(self, number: int, reply: ControlReply) -> None:
        """Take an answer."""
        answer = self._waiting.get(number)
        if answer is not None and not answer.done():
            answer.set_result(reply)
