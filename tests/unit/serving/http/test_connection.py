"""What a connection owes its client, and what it does not let a client cost: over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import threading
import time
import weakref
from collections.abc import Iterator, Sequence

import pytest

from modelyard.serving import accepting
from modelyard.serving.accepting import new_event_loop
from modelyard.serving.http import connection as module
from modelyard.serving.http.exchange import BodyLostError, Exchange
from modelyard.serving.http.server import HttpServer

HOST = b"host: localhost\r\n"


class Front:
    """A server in a thread of its own, and what it was asked."""

    def __init__(self, stall: float = 30.0) -> None:
        listening = socket.create_server(("127.0.0.1", 0))
        self.port = listening.getsockname()[1]
        self.asked: list[tuple[str, str, str, dict[str, str]]] = []
        self.lost = threading.Event()
        self.tasks: set[asyncio.Task[None]] = set()
        self.loop = new_event_loop()
        self.server = HttpServer(
            self.application, lambda problem: ([], problem.code.encode()), self.loop, listening.detach(), stall
        )
        self.drained = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        async def serve() -> None:
            self.server.start()
            await self.server.wait_drained()
            self.drained.set()

        asyncio.set_event_loop(self.loop)
        self.loop.run_until_complete(serve())

    def application(self, turn: Sequence[Exchange]) -> None:
        """Answer each request in a task of its own."""
        for exchange in turn:
            task = self.loop.create_task(self.reply(exchange))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

    async def reply(self, exchange: Exchange) -> None:
        """Answer by the path: echo, early, slow, large, broken, split or gone."""
        self.asked.append((exchange.method, exchange.path, exchange.query, dict(exchange.headers)))
        if exchange.path == "/early":
            exchange.answer(401, [], b"early")
            return
        if exchange.path == "/pieces":
            answer = b"|".join([piece async for piece in exchange.pieces()])
            exchange.answer(200, [], answer)
            return
        try:
            body = await exchange.read()
        except BodyLostError:
            self.lost.set()
            exchange.answer(400, [], b"lost")
            return
        if exchange.path == "/slow":
            await asyncio.sleep(0.2)
        elif exchange.path == "/large":
            body = b"x" * 32_000_000
        elif exchange.path == "/split":
            with pytest.raises(ValueError, match="line break"):
                exchange.answer(200, [("x", "a\r\nset-cookie: b")], b"")
        elif exchange.path == "/gone":
            exchange.abandon()
            return
        exchange.answer(200, [("x-path", exchange.path)], body)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=10)

    def ask(self, request: bytes) -> bytes:
        """Send what is the last of a connection, and return everything that comes until its end."""
        with self.connect() as wire:
            wire.sendall(request)
            return all_of(wire)

    def close(self) -> None:
        self.server.drain()
        for client in list(self.server.clients):
            self.loop.call_soon_threadsafe(client._transport.abort)
        assert self.drained.wait(5)
        self._thread.join(5)


@pytest.fixture
def fronts() -> Iterator[list[Front]]:
    made: list[Front] = []
    yield made
    for front in made:
        front.close()


@pytest.fixture
def front(fronts) -> Front:
    fronts.append(Front())
    return fronts[0]


@pytest.fixture
def hurried(monkeypatch) -> None:
    """All patience is short."""
    monkeypatch.setattr(accepting, "SWEEP_SECONDS", 0.05)
    for name in ("HEAD_SECONDS", "IDLE_SECONDS", "LINGER_SECONDS", "FRESH_SECONDS"):
        monkeypatch.setattr(module, name, 0.2)


def all_of(wire: socket.socket) -> bytes:
    got = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := wire.recv(1 << 20):
            got += piece
    return got


def one_of(wire: socket.socket) -> tuple[bytes, bytes]:
    """Return head and body of one answer."""
    got = b""
    while b"\r\n\r\n" not in got:
        piece = wire.recv(65536)
        assert piece, got
        got += piece
    head, _, body = got.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
    while len(body) < length:
        body += wire.recv(65536)
    return head, body


def post(path: bytes, body: bytes, *fields: bytes, version: bytes = b"1.1") -> bytes:
    head = [b"POST %b HTTP/%b" % (path, version), b"host: localhost", b"content-length: %d" % len(body), *fields]
    return b"\r\n".join(head) + b"\r\n\r\n" + body


CLOSE = b"connection: close"


def test_requests_of_one_connection_are_answered_in_their_order_even_if_the_first_is_slow(front):
    with front.connect() as wire:
        wire.sendall(post(b"/slow", b"1") + post(b"/echo", b"2") + post(b"/echo", b"3", CLOSE))
        answers = all_of(wire)
    assert [part[:1] for part in answers.split(b"\r\n\r\n")[1:]] == [b"1", b"2", b"3"]
    assert answers.count(b"HTTP/1.1 200 OK") == 3
    assert answers.count(b"connection: close") == 1


def test_a_request_may_come_byte_by_byte(front):
    with front.connect() as wire:
        for byte in post(b"/echo", b"abc", b"x-one: 1"):
            wire.sendall(bytes([byte]))
        assert one_of(wire)[1] == b"abc"
        wire.sendall(post(b"/echo", b"d"))
        assert one_of(wire)[1] == b"d"


def test_chunks_are_joined_and_trailers_dropped(front):
    chunked = b"POST /echo HTTP/1.1\r\n" + HOST + b"transfer-encoding: chunked\r\n\r\n"
    with front.connect() as wire:
        wire.sendall(chunked + b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nhost: evil\r\n\r\n")
        assert one_of(wire)[1] == b"abcde"
        wire.sendall(post(b"/echo", b"next"))
        assert one_of(wire)[1] == b"next"
    assert [asked[3]["host"] for asked in front.asked] == ["localhost", "localhost"]


@pytest.mark.parametrize("end", [b"zz\r\n", b"3\r\nabcd", b"-1\r\n"])
def test_a_broken_chunk_loses_the_body_and_ends_the_connection(front, end):
    chunked = b"POST /echo HTTP/1.1\r\n" + HOST + b"transfer-encoding: chunked\r\n\r\n"
    with front.connect() as wire:
        wire.sendall(chunked + b"3\r\nabc\r\n")
        time.sleep(0.05)
        wire.sendall(end)
        answer = all_of(wire)
    assert answer.startswith(b"HTTP/1.1 400")
    assert answer.endswith(b"lost")


def test_a_client_that_closed_its_half_is_answered(front):
    with front.connect() as wire:
        wire.sendall(post(b"/slow", b"half"))
        wire.shutdown(socket.SHUT_WR)
        assert all_of(wire).endswith(b"half")


def test_a_body_that_is_cut_off_is_told_to_its_reader(front):
    with front.connect() as wire:
        wire.sendall(post(b"/echo", b"whole")[:-2])
        wire.shutdown(socket.SHUT_WR)
        assert all_of(wire).startswith(b"HTTP/1.1 400")
    assert front.lost.is_set()


def test_a_client_that_goes_away_wakes_its_reader(front):
    wire = front.connect()
    wire.sendall(post(b"/echo", b"whole")[:-2])
    wire.close()
    assert front.lost.wait(5)


@pytest.mark.parametrize("upgrade", [b"h2c", b"websocket"])
def test_a_wish_for_another_protocol_is_not_taken_up_and_the_body_is_kept(front, upgrade):
    fields = (b"connection: Upgrade, HTTP2-Settings", b"upgrade: " + upgrade, b"http2-settings: AAMAAABkAAQAAP__")
    with front.connect() as wire:
        wire.sendall(post(b"/echo", b"body", *fields))
        assert one_of(wire)[1] == b"body"
        wire.sendall(post(b"/echo", b"again"))
        assert one_of(wire)[1] == b"again"


@pytest.mark.parametrize(
    ("version", "connection"), [(b"1.1", b"upgrade, Close"), (b"1.0", b"upgrade"), (b"1.0", b"upgrade, keep-alive")]
)
def test_who_wishes_for_another_protocol_and_an_end_gets_the_end(front, version, connection):
    fields = (b"connection: " + connection, b"upgrade: h2c")
    answer = front.ask(post(b"/echo", b"body", *fields, version=version) + post(b"/echo", b"more"))
    assert answer.count(b"HTTP/1.1 200") == 1
    assert answer.endswith(b"body")
    assert len(front.asked) == 1


@pytest.mark.parametrize("fields", [[], [b"connection: upgrade", b"upgrade: h2c"]])
def test_as_many_requests_as_a_client_likes_may_be_sent_ahead(front, fields):
    """Reads that end within heads are no long head, and none of them stands on the stack of another."""
    request = post(b"/echo", b"", *fields)
    with front.connect() as wire:
        sender = threading.Thread(target=wire.sendall, args=(request * 4_000 + post(b"/echo", b"z", CLOSE),))
        sender.start()
        answers = all_of(wire)
        sender.join(5)
    assert answers.count(b"HTTP/1.1 200 OK") == 4_001


def test_bodies_that_are_sent_ahead_come_whole(front):
    bodies = [bytes([65 + number]) * size for number, size in enumerate([1, 100_000, 17_000, 3, 700_000, 20, 5])]
    requests = [post(b"/slow", body) for body in bodies]
    with front.connect() as wire:
        sender = threading.Thread(target=wire.sendall, args=(b"".join(requests) + post(b"/echo", b"", CLOSE),))
        sender.start()
        answers = all_of(wire)
        sender.join(5)
    assert [part.partition(b"\r\n\r\n")[2] for part in answers.split(b"HTTP/1.1 200 OK\r\n")[1:]] == [*bodies, b""]


def test_what_is_sent_ahead_waits_as_bytes_and_not_as_requests(front):
    with front.connect() as wire:
        wire.sendall(post(b"/slow", b"") + post(b"/echo", b"") * 3_000 + post(b"/echo", b"", CLOSE))
        while not front.asked:
            time.sleep(0.01)
        (waiting,) = [len(client._waiting) for client in front.server.clients]
        assert all_of(wire).count(b"HTTP/1.1 200 OK") == 3_002
    assert 0 < waiting <= module.PORTION / len(post(b"/echo", b""))


def test_a_head_that_waits_behind_others_is_not_slow(hurried, front):
    with front.connect() as wire:
        wire.sendall(b"".join(post(b"/slow", b"", b"x: " + b"a" * 6_000) for _ in range(5)))
        for _ in range(5):
            assert one_of(wire)[0].startswith(b"HTTP/1.1 200")


def test_http_1_0_gets_no_answer_before_its_answer(front):
    with front.connect() as wire:
        wire.sendall(post(b"/echo", b"body", b"expect: 100-continue", version=b"1.0")[:-4])
        while not front.asked:
            time.sleep(0.01)
        wire.sendall(b"body")
        assert all_of(wire).startswith(b"HTTP/1.1 200")


def test_a_client_that_ends_after_an_early_answer_is_waited_for_no_longer(front):
    with front.connect() as wire:
        wire.sendall(post(b"/early", b"x" * 1000)[:-500])
        one_of(wire)
        wire.shutdown(socket.SHUT_WR)
        started = time.monotonic()
        assert all_of(wire) == b""
        assert time.monotonic() - started < module.LINGER_SECONDS / 2


def test_who_expects_to_be_told_is_told_to_go_on(front):
    with front.connect() as wire:
        wire.sendall(post(b"/echo", b"body", b"expect: 100-continue")[:-4])
        assert wire.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        wire.sendall(b"body")
        assert one_of(wire)[1] == b"body"


def test_who_expects_to_be_told_and_is_refused_sends_no_body(front, hurried):
    with front.connect() as wire:
        wire.sendall(post(b"/early", b"body", b"expect: 100-continue")[:-4])
        head, body = one_of(wire)
        assert head.startswith(b"HTTP/1.1 401")
        assert (b"connection: close" in head, body) == (True, b"early")
        assert all_of(wire) == b""


def test_after_an_early_answer_a_small_rest_is_read_and_the_connection_stays(front):
    request = post(b"/early", b"x" * 1000)
    with front.connect() as wire:
        wire.sendall(request[:-500])
        assert one_of(wire)[1] == b"early"
        wire.sendall(request[-500:] + post(b"/echo", b"next"))
        assert one_of(wire)[1] == b"next"


def test_after_an_early_answer_a_large_rest_ends_the_connection_and_the_answer_is_read(front, hurried):
    with front.connect() as wire:
        wire.sendall(
            post(b"/early", b"")[:-4].replace(b"content-length: 0", b"content-length: 900000000") + b"\r\n\r\n"
        )
        sender = threading.Thread(target=_send_without_end, args=(wire,), daemon=True)
        sender.start()
        answer = all_of(wire)
        sender.join(5)
    assert answer.startswith(b"HTTP/1.1 401")
    assert b"connection: close" in answer


def _send_without_end(wire: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            wire.sendall(b"x" * 65536)


def test_a_body_that_nobody_reads_yet_is_held_back_and_then_comes_whole(front):
    body = b"x" * 5_000_000
    assert front.ask(post(b"/slow", body, CLOSE)).endswith(body)
    pieces = front.ask(post(b"/pieces", body, CLOSE)).partition(b"\r\n\r\n")[2]
    assert pieces.replace(b"|", b"") == body
    assert pieces.count(b"|") > 2


def test_head_is_answered_without_a_body(front):
    with front.connect() as wire:
        wire.sendall(post(b"/echo", b"abc").replace(b"POST", b"HEAD", 1) + post(b"/echo", b"d", CLOSE))
        first, second = all_of(wire).split(b"HTTP/1.1 200 OK\r\n")[1:]
    assert b"content-length: 3" in first
    assert first.endswith(b"\r\n\r\n")
    assert second.endswith(b"\r\n\r\nd")


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
@pytest.mark.parametrize("connection", [b"", CLOSE, b"connection: keep-alive"])
def test_a_connection_is_kept_where_http_1_1_says_so(front, version, connection):
    kept = version == b"1.1" and connection != CLOSE
    with front.connect() as wire:
        wire.sendall(post(b"/echo", b"a", *filter(None, [connection]), version=version))
        head, _ = one_of(wire)
        assert (b"connection: close" not in head) is kept
        if kept:
            wire.sendall(post(b"/echo", b"b"))
            assert one_of(wire)[1] == b"b"
        else:
            assert wire.recv(1) == b""


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + HOST + HOST + b"\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + HOST + b"content-length: 3\r\ntransfer-encoding: chunked\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + HOST + b"content-length: 3\r\ncontent-length: 4\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + HOST + b"x : y\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + HOST + b"x: a\x00b\r\n\r\n", 400),
        *(
            (b"POST / HTTP/1.1\r\n" + HOST + b"transfer-encoding: " + coding + b"\r\n\r\n0\r\n\r\n", status)
            for coding, status in [
                (b"xchunked", 400),
                (b"chunked, identity", 400),
                (b"identity", 400),
                (b'"chunked"', 400),
                (b"", 400),
                (b"chunked;x=1", 400),
                (b"chunked,", 400),
                (b"chunked\r\ntransfer-encoding: chunked", 400),
                (b"gzip, chunked", 501),
            ]
        ),
        (b"POST / HTTP/1.0\r\n" + HOST + b"transfer-encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"GET http://me@other/ HTTP/1.1\r\n" + HOST + b"\r\n", 400),
        (b"GET http:///a HTTP/1.1\r\n" + HOST + b"\r\n", 400),
        (b"GET ftp://other/a HTTP/1.1\r\n" + HOST + b"\r\n", 400),
        (b"GET http://other/a HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/2.0\r\n\r\n", 505),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc", 400),
        (b"BREW /pot HTTP/1.1\r\n" + HOST + b"\r\n", 501),
        (b"CONNECT a:1 HTTP/1.1\r\n" + HOST + b"\r\n", 405),
        (b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n", 414),
        (b"GET / HTTP/1.1\r\n" + HOST + b"x: " + b"a" * 70_000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\n" + HOST + b"x: " + b"a" * 3_000_000, 431),
        (b"GET / HTTP/1.1\r\n" + HOST + b"".join(b"x%d: a\r\n" % number for number in range(200)) + b"\r\n", 431),
    ],
)
def test_what_is_no_request_is_told_once_and_the_connection_ends(front, request_bytes, status):
    answer = front.ask(request_bytes)
    assert answer.startswith(b"HTTP/1.1 %d" % status), answer[:100]
    assert answer.count(b"HTTP/1.1") == 1
    assert b"connection: close" in answer
    assert front.asked == []


def test_what_follows_a_good_request_and_is_none_does_not_spoil_its_answer(front):
    answer = front.ask(post(b"/slow", b"good") + b"\x00\x01garbage\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.endswith(b"good")
    assert answer.count(b"HTTP/1.1") == 1


def test_a_trailer_without_end_is_not_kept(front):
    with front.connect() as wire, contextlib.suppress(ConnectionError):
        wire.sendall(b"POST /echo HTTP/1.1\r\n" + HOST + b"transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nx: ")
        sent = 0
        while not front.lost.is_set() and sent < 64_000_000:
            sent += wire.send(b"a" * 65536)
    assert front.lost.is_set()


def test_a_whole_url_says_which_host_is_asked(front):
    front.ask(b"GET http://other:81/a%20b?c=%20 HTTP/1.1\r\n" + HOST + CLOSE + b"\r\n\r\n")
    ((method, path, query, headers),) = front.asked
    assert (method, path, query, headers["host"]) == ("GET", "/a b", "c=%20", "other:81")


@pytest.mark.parametrize(("target", "path", "query"), [(b"?a=/b", "/", "a=/b"), (b"", "/", ""), (b"/a?b", "/a", "b")])
def test_a_whole_url_ends_its_host_where_urls_do(front, target, path, query):
    front.ask(b"GET HTTP://other" + target + b" HTTP/1.1\r\n" + HOST + CLOSE + b"\r\n\r\n")
    assert [(*asked[1:3], asked[3]["host"]) for asked in front.asked] == [(path, query, "other")]


def test_paths_are_remembered_without_their_queries(front):
    for target in (b"/a?x=1", b"/a", b"/a?x=2", b"/a", b"/a%2Fb", b"/a%2Fb"):
        front.ask(b"GET %b HTTP/1.1\r\n" % target + HOST + CLOSE + b"\r\n\r\n")
    assert [(path, query) for _, path, query, _ in front.asked] == [
        ("/a", "x=1"), ("/a", ""), ("/a", "x=2"), ("/a", ""), ("/a/b", ""), ("/a/b", ""),
    ]  # fmt: skip


def test_fields_that_come_twice_are_joined(front):
    front.ask(b"GET / HTTP/1.1\r\n" + HOST + b"Accept: a\r\nACCEPT: b\r\n" + CLOSE + b"\r\n\r\n")
    assert front.asked[0][3]["accept"] == "a, b"


def test_a_line_break_in_a_header_is_never_sent(front):
    answer = front.ask(post(b"/split", b"x", CLOSE))
    assert b"set-cookie" not in answer
    assert answer.startswith(b"HTTP/1.1 200")


def test_what_is_abandoned_ends_the_connection(front):
    assert front.ask(post(b"/gone", b"x")) == b""


def test_a_slow_head_is_408(hurried, front):
    with front.connect() as wire:
        wire.sendall(b"GET / HT")
        assert all_of(wire).startswith(b"HTTP/1.1 408")


@pytest.mark.parametrize("before", [b"", post(b"/echo", b"x")])
def test_an_idle_connection_is_closed_without_a_word(hurried, front, before):
    with front.connect() as wire:
        wire.sendall(before)
        if before:
            one_of(wire)
        started = time.monotonic()
        assert all_of(wire) == b""
        assert time.monotonic() - started > 0.15


def test_who_takes_nothing_of_an_answer_is_cut_off_and_who_takes_it_slowly_is_not(hurried, fronts):
    fronts.append(front := Front(stall=0.5))
    with front.connect() as stuck, front.connect() as slow:
        for wire in (stuck, slow):
            wire.sendall(post(b"/large", b"", CLOSE))
        got = 0
        while piece := slow.recv(65536):
            got += len(piece)
            if got < 6_000_000:
                time.sleep(0.02)
        assert got > 32_000_000
        assert len(all_of(stuck)) < 32_000_000


def test_draining_answers_what_is_asked_or_on_its_way_and_ends_what_is_idle(hurried, fronts):
    fronts.append(front := Front())
    with front.connect() as idle, front.connect() as used, front.connect() as busy, front.connect() as fresh:
        for wire in (idle, used):
            wire.sendall(post(b"/echo", b"x"))
            one_of(wire)
        busy.sendall(post(b"/slow", b"busy"))
        while len(front.asked) < 3 or len(front.server.clients) < 4:
            time.sleep(0.01)
        front.server.drain()
        for wire, word in ((used, b"used"), (fresh, b"fresh")):
            wire.sendall(post(b"/echo", word))
            head, body = one_of(wire)
            assert (b"connection: close" in head, body) == (True, word)
        head, body = one_of(busy)
        assert (b"connection: close" in head, body) == (True, b"busy")
        assert all_of(idle) == b""
    assert front.drained.wait(5)


def test_a_connection_is_freed_when_it_is_over_without_a_search_for_cycles(front):
    gc.collect()
    gc.disable()
    try:
        with front.connect() as wire:
            wire.sendall(post(b"/echo", b"x"))
            one_of(wire)
            (client,) = [weakref.ref(client) for client in front.server.clients]
        deadline = time.monotonic() + 5
        while client() is not None and time.monotonic() < deadline:
            time.sleep(0.01)
        assert client() is None
    finally:
        gc.enable()
