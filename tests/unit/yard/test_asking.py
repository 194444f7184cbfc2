"""Who asks a service and gets no answer is told what is there and what to do, by no word of a library."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelyard.errors import ContractError, InputError, ModelyardError, RunError
from modelyard.yard.asking import ask

LOW_LEVEL = (
    "Errno",
    "BadStatusLine",
    "RemoteDisconnected",
    "IncompleteRead",
    "urlopen",
    "SSL:",
    "JSONDecode",
    "Expecting",
)


@contextlib.contextmanager
def listener(answer: bytes | None) -> Iterator[str]:
    """What reads a request and sends this; None: it never answers."""
    over = threading.Event()

    def serve(server: socket.socket) -> None:
        with server.accept()[0] as peer:
            # To its end: who closes with bytes unread resets the connection, and the answer is lost.
            request = peer.recv(65536)
            while request.startswith(b"POST") and not request.endswith(b"{}"):
                request += peer.recv(65536)
            if answer is None:
                over.wait(30)
            else:
                peer.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve, args=(server,), daemon=True)
        thread.start()
        try:
            yield f"127.0.0.1:{server.getsockname()[1]}"
        finally:
            over.set()
            thread.join(30)


def told(url: str, patience: float = 30.0) -> ModelyardError:
    with pytest.raises(ModelyardError) as caught:
        ask(url, "dev", "trees", b"{}", "application/json", patience=patience)
    assert not [word for word in LOW_LEVEL if word in str(caught.value)]
    assert caught.value.remedy
    return caught.value


@pytest.mark.parametrize(
    ("answer", "what", "remedy"),
    [
        (b"220 mail.example.org ESMTP\r\n", "does not speak HTTP", "modelyard down dev, then modelyard up dev"),
        (b"", "closed the connection", "modelyard services dev"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 90\r\n\r\n{", "broke off", "modelyard services dev"),
        (b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<p/>", "status 200, text/html", "up dev"),
        (b"HTTP/1.1 502 Bad\r\nContent-Length: 2\r\n\r\n[]", "no service of Modelyard: status 502", "up dev"),
    ],
)  # fmt: skip
def test_what_listens_there_instead_of_a_service_is_told(answer: bytes, what: str, remedy: str) -> None:
    with listener(answer) as place:
        error = told(f"http://{place}")
    assert isinstance(error, RunError)
    assert what in error.what
    assert remedy in str(error.remedy)
    assert error.where == f"http://{place}"


def test_a_service_that_is_gone_is_told_with_how_to_start_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        place = f"127.0.0.1:{server.getsockname()[1]}"
    error = told(f"http://{place}")
    assert "Nothing listens there" in error.what
    assert "modelyard up dev" in str(error.remedy)


def test_a_service_that_does_not_answer_is_told_with_the_seconds() -> None:
    with listener(None) as place:
        assert "no answer within 1 s" in told(f"http://{place}", patience=1.0).what


def test_a_service_that_should_encrypt_and_does_not_is_told() -> None:
    with listener(b"HTTP/1.1 400 Bad Request\r\n\r\n") as place:
        assert "does not speak TLS" in told(f"https://{place}").what


def test_a_file_of_roots_that_is_not_there_is_wrong_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "roots.pem"))
    error = told("https://127.0.0.1:1")
    assert isinstance(error, InputError)
    assert error.where == str(tmp_path / "roots.pem")


def test_what_a_service_says_of_wrong_rows_is_passed_on() -> None:
    body = b'{"detail": "Row 0 lacks a field.", "where": "row 0", "remedy": "Add it."}'
    answer = b"HTTP/1.1 422 Unprocessable\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    with listener(answer) as place:
        error = told(f"http://{place}")
    assert isinstance(error, ContractError)
    assert (error.what, error.where) == ("Row 0 lacks a field.", f"http://{place}, row 0")
