"""The worker's protocol."""

from __future__ import annotations

import os
import socket

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.engines.frames import Channel, Decoder, Done, Message, Ready, Told
from modelyard.records import Event, EventKind, Failure, TaskResult

MESSAGES: list[Message] = [
    Ready(17),
    Told(Event("run", "task", EventKind.METRIC, 1.5, {"name": "ä", "value": 0.1, "step": None})),
    Done(TaskResult(metrics={"accuracy": 0.5}, failure=Failure("step", "no"))),
]


def frame(message: Message) -> bytes:
    data = msgspec.json.encode(message)
    return len(data).to_bytes(4, "big") + data


@given(st.lists(st.sampled_from(MESSAGES)), st.integers(1, 50))
def test_messages_survive_any_cutting(messages: list[Message], size: int) -> None:
    decoder = Decoder()
    data = b"".join(map(frame, messages))
    found = [message for start in range(0, len(data), size) for message in decoder.feed(data[start : start + size])]
    assert found == messages


def test_a_closed_end_reads_as_none() -> None:
    left, right = map(Channel, socket.socketpair())
    right.send(Ready(1))
    right.close()
    assert left.receive() == Ready(1)
    assert left.receive() is None
    left.close()


def test_what_is_no_message_is_refused() -> None:
    with pytest.raises(msgspec.ValidationError):
        Decoder().feed(frame(Ready(1)).replace(b"ready", b"evalu"))


def test_a_forked_child_does_not_speak_on_its_parents_channel() -> None:
    left, right = map(Channel, socket.socketpair())
    child = os.fork()
    if child == 0:
        right.send(Ready(2))
        os._exit(0)
    os.waitpid(child, 0)
    right.send(Ready(1))
    assert left.receive() == Ready(1)
    left.close()
    right.close()
