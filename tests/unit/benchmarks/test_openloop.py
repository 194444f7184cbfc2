"""The load generator charges a server with all that waits for it, and keeps what each answer says."""

from __future__ import annotations

import socket
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from benchmarks.openloop import OpenLoop, fire, quantile

REQUEST = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nok"


def answer(body: bytes, status: str = "200 OK") -> bytes:
    return f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body


@contextmanager
def server(reply: Callable[[bytes], bytes | None]) -> Iterator[int]:
    """Answer each request by what `reply` returns; None closes the connection without an answer."""

    def serve(connection: socket.socket) -> None:
        with connection:
            while (asked := connection.recv(65536)) and (told := reply(asked)) is not None:
                connection.sendall(told)

    def accept() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=accept, daemon=True).start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("fresh", [False, True])
def test_a_stall_of_a_second_is_charged_to_everything_that_was_due_meanwhile(fresh: bool) -> None:
    stall = (time.monotonic() + 0.8, time.monotonic() + 1.8)

    def reply(_: bytes) -> bytes:
        if stall[0] < time.monotonic() < stall[1]:
            time.sleep(stall[1] - time.monotonic())
        return answer(b"ok")

    with server(reply) as port:
        load = OpenLoop(port, [REQUEST], 200, 3.0, connections=8, fresh=fresh)
        samples = load.result()
    assert len(samples) == pytest.approx(600, abs=2)
    waited = [one.latency for one in samples if stall[0] < one.due < stall[1]]
    # 200 were due, and on average each waited for half of the second: a closed loop would have seen eight.
    assert len(waited) > 150
    assert 0.35 < quantile(waited, 0.5) < 1.0
    assert all(one.due + one.latency >= stall[1] for one in samples if stall[0] < one.due < stall[1])
    assert max(waited) > 0.9


def test_a_rate_is_kept_whatever_the_server_does() -> None:
    with server(lambda _: answer(b"ok")) as port:
        felt = fire(port, REQUEST, 500, 1.0)
    assert felt["requests"] == pytest.approx(500, abs=2)
    assert felt["failed"] == 0


def test_what_is_not_answered_by_200_counts_as_failed() -> None:
    with server(lambda _: answer(b"no", "503 Service Unavailable")) as port:
        felt = fire(port, REQUEST, 100, 0.5)
    assert felt["failed"] == felt["requests"] > 40


def test_a_version_and_what_it_says_are_kept_of_each_answer() -> None:
    with server(lambda _: answer(b'{"version":"v7","rows":[1]}')) as port:
        load = OpenLoop(port, [REQUEST], 100, 0.3, version='"version":"([^"]+)"', content='"rows"')
        samples = load.result()
    assert {one.version for one in samples} == {"v7"}
    assert {one.content for one in samples} == {zlib.crc32(b'"rows":[1]}')}


def test_a_request_whose_connection_was_lost_is_sent_again_and_its_wait_counts() -> None:
    seen: list[bytes] = []

    def reply(asked: bytes) -> bytes | None:
        seen.append(asked)
        return None if len(seen) == 5 else answer(b"ok")

    with server(reply) as port:
        samples = OpenLoop(port, [REQUEST], 100, 0.5, patience=5).result()
    assert {one.status for one in samples} == {200}
    assert max(one.tries for one in samples) >= 2


def test_without_patience_a_lost_connection_is_a_failed_request() -> None:
    with server(lambda _: None) as port:
        samples = OpenLoop(port, [REQUEST], 50, 0.3).result()
    assert {one.status for one in samples} == {0}


def test_another_request_is_sent_from_when_the_last_of_the_one_before_was_answered() -> None:
    with server(lambda asked: answer(asked[-1:])) as port:
        load = OpenLoop(port, [REQUEST, REQUEST[:-1] + b"2"], 200, None)
        time.sleep(0.2)
        load.send(1)
        changed = time.monotonic()
        time.sleep(0.2)
        samples = load.stop()
    assert {one.kind for one in samples} == {0, 1}
    assert all(one.ended <= changed for one in samples if one.kind == 0)
