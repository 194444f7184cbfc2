"""More connections than a worker takes, fresh ones without end, and ones that speak another protocol."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import ssl
import time
from pathlib import Path

import pytest
from tests.certificates import Authority

BODY = b'{"rows":[{"x":2.0}]}'
HEAD = b"POST /v1/models/m/predict HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
REQUEST = HEAD + b"content-length: %d\r\n\r\n" % len(BODY) + BODY


def address(service) -> tuple[str, int]:
    return "127.0.0.1", int(service.client.url.rsplit(":", 1)[1])


def connect(service, seconds: float = 20.0) -> socket.socket:
    return socket.create_connection(address(service), seconds)


def is_answered(connection: socket.socket) -> bool:
    connection.sendall(REQUEST)
    return connection.recv(65536).startswith(b"HTTP/1.1 200")


def descriptors(worker: int) -> int:
    return len(list(Path(f"/proc/{worker}/fd").iterdir()))


def soft_limit(worker: int) -> int:
    return int(Path(f"/proc/{worker}/limits").read_text().split("Max open files")[1].split()[0])


def test_idle_connections_beyond_the_limit_go_and_who_asks_is_served(service):
    """Descriptors for 72 connections on a port; 200 idle ones do not keep anybody out, nor a swap from loading."""
    service.start(workers=1, descriptors=[400, 400])
    service.client.swap("m", "v1", service.package(factor=2))
    (worker,) = service.client.status().workers
    with contextlib.ExitStack() as stack:
        kept = stack.enter_context(connect(service))
        assert is_answered(kept)
        for _ in range(200):
            stack.enter_context(connect(service))
        service.until(lambda: descriptors(worker) > 72)
        assert descriptors(worker) < 400 - 128, "what loads and receives still has some"
        service.client.swap("m", "v2", service.package(factor=3))
        newcomer = stack.enter_context(connect(service))
        newcomer.sendall(REQUEST)
        newcomer.setblocking(False)
        started, answer = time.monotonic(), b""
        while not answer:
            assert is_answered(kept), "who asks again and again is not idle"
            with contextlib.suppress(BlockingIOError):
                answer = newcomer.recv(65536)
            time.sleep(0.05)
        assert answer.startswith(b"HTTP/1.1 200")
        assert time.monotonic() - started < 20
    assert service.client.status().workers == (worker,)


def test_a_worker_has_descriptors_for_as_many_connections_as_it_takes(service):
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    service.start(workers=1, descriptors=[256, hard])
    (worker,) = service.client.status().workers
    assert soft_limit(worker) == (8448 if hard == resource.RLIM_INFINITY else min(hard, 8448))


def test_connections_leave_nothing_behind(service):
    service.start(workers=1)
    service.client.swap("m", "v1", service.package(factor=2))
    (worker,) = service.client.status().workers

    def ask(times: int) -> None:
        for number in range(times):
            with connect(service) as connection:
                if number % 3:
                    assert is_answered(connection)
                elif number % 2:
                    connection.sendall(REQUEST[: number % len(REQUEST)])

    ask(30)
    before = descriptors(worker)
    ask(1000)
    service.until(lambda: descriptors(worker) <= before)


def test_who_was_let_in_before_the_end_is_answered_and_who_comes_later_is_refused(service):
    """The worker stands still, so that the kernel's queue fills; then it is told to stop, and goes on."""
    service.start(workers=1)
    service.client.swap("m", "v1", service.package(factor=2))
    (worker,) = service.client.status().workers
    place = address(service)
    with contextlib.ExitStack() as stack:
        os.kill(worker, signal.SIGSTOP)
        waiting = [stack.enter_context(connect(service)) for _ in range(30)]
        for connection in waiting:
            connection.sendall(REQUEST)
        service.process.terminate()
        service.until(lambda: any(event["event"] == "draining" for event in service.events))
        os.kill(worker, signal.SIGCONT)
        assert [connection.recv(65536)[:12] for connection in waiting] == [b"HTTP/1.1 200"] * 30
    assert service.process.wait(20) == 0
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(place, 5)


def client_hello() -> bytes:
    """What a client begins TLS with."""
    written = ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), written, server_hostname="localhost")
    with contextlib.suppress(ssl.SSLWantReadError):
        client.do_handshake()
    return written.read()


HTTP1 = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n"
HTTP2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"
NOISE = bytes(range(255, 0, -1)) * 2


def until_the_end(port: int, sent: bytes, tls: ssl.SSLContext | None = None) -> bytes:
    """Return all that is answered until the service closes the connection; a timeout where it does not."""
    with socket.create_connection(("127.0.0.1", port), 5) as plain:
        connection = tls.wrap_socket(plain, server_hostname="localhost") if tls is not None else plain
        connection.settimeout(5)
        answer = b""
        with contextlib.suppress(ConnectionResetError), connection:
            connection.sendall(sent)
            while received := connection.recv(65536):
                answer += received
        return answer


def goes_on(service, workers: tuple[int, ...]) -> None:
    status = service.client.status()
    assert (status.workers, status.restarts) == (workers, 0)
    # Each line is JSON, or `events` fails: no traceback and no complaint of a library.
    assert {event["level"] for event in service.events} <= {"debug", "info"}


def test_who_speaks_another_protocol_than_the_port_is_told_so_and_ended(service):
    service.start(workers=1, grpc_port=0)
    service.client.swap("m", "v1", service.package(factor=2))
    status = service.client.status()
    for sent in (HTTP2, client_hello(), NOISE, bytes(300)):
        assert until_the_end(status.port, sent).startswith(b"HTTP/1.1 400 "), sent[:10]
    for sent in (HTTP1, client_hello(), NOISE, bytes(300)):
        frames = until_the_end(status.grpc_port, sent)
        # Settings, which an HTTP/2 server says first (RFC 9113, 3.4), and no answer to what is no request.
        assert frames[3:4] == b"\x04", sent[:10]
        assert b"HTTP/1.1" not in frames
    assert service.predict().status == 200
    goes_on(service, status.workers)


@pytest.fixture
def certified(service, tmp_path):
    authority = Authority()
    authority.write(tmp_path / "root.pem")
    authority.issue("localhost", tmp_path / "certificate.pem", tmp_path / "key.pem")
    tls = {"certificate": str(tmp_path / "certificate.pem"), "key": str(tmp_path / "key.pem")}
    service.start(workers=1, grpc_port=0, tls=tls)
    return service, ssl.create_default_context(cafile=tmp_path / "root.pem")


def test_a_port_of_tls_ends_what_is_not_and_what_is_of_the_wrong_protocol_within(certified):
    service, context = certified
    status = service.client.status()
    for port in (status.port, status.grpc_port):
        for sent in (HTTP1, HTTP2, NOISE, bytes(300)):
            assert b"HTTP" not in until_the_end(port, sent)
    assert until_the_end(status.port, HTTP2, context).startswith(b"HTTP/1.1 400 ")
    assert b"HTTP/1.1" not in until_the_end(status.grpc_port, HTTP1, context)
    closing = HTTP1.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n")
    assert until_the_end(status.port, closing, context).startswith(b"HTTP/1.1 200 ")
    goes_on(service, status.workers)
