"""What a client sends, and how it takes answers that a healthy service gives seldom or never."""

from __future__ import annotations

import datetime
import json
import socket
import ssl
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from tests.integration.client.conftest import RESET, Script, answer

from modelyard.client import (
    ConnectionLostError,
    InvalidRequestError,
    OverloadedError,
    Retries,
    ServerError,
    ServiceTimeoutError,
    UnauthorizedError,
)
from modelyard.data import Field
from modelyard.packages.codecs import arrow
from modelyard.packages.contract import Contract

ROWS = [{"x": 1.0}]
QUICK = Retries(attempts=4, first_pause=0.001, longest_pause=0.002)


def test_every_request_says_who_asks_for_whom_and_how_long_somebody_waits(connect):
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    with Script([answer()]) as script:
        connect(script.url, api_key="my-secret").predict("a b/c", ROWS, routing_key="ada", traceparent=trace, timeout=7)
        with pytest.raises(ServerError):
            connect(script.url, token="a.b.c").models()
    first, second = script.heads
    assert first[""] == "POST /v1/models/a%20b%2Fc/predict HTTP/1.1"
    assert (first["x-api-key"], first["x-routing-key"], first["traceparent"]) == ("my-secret", "ada", trace)
    assert 6.0 < float(first["x-request-timeout"]) <= 7.0
    assert (first["content-type"], first["accept"]) == ("application/json", "application/json")
    assert second["authorization"] == "Bearer a.b.c"
    assert "x-api-key" not in second
    assert len(first["x-request-id"]) == 32
    assert first["x-request-id"] != second["x-request-id"]


def test_a_trace_of_opentelemetry_is_continued(connect):
    from opentelemetry import trace

    span = trace.NonRecordingSpan(trace.SpanContext(0xAB, 0xCD, is_remote=False, trace_flags=trace.TraceFlags(1)))
    with Script([answer()]) as script, trace.use_span(span):
        connect(script.url).predict("m", ROWS)
    assert script.heads[0]["traceparent"] == f"00-{0xAB:032x}-{0xCD:016x}-01"


def test_one_connection_carries_many_requests(connect):
    with Script([answer()]) as script:
        client = connect(script.url)
        for _ in range(20):
            assert client.predict("m", ROWS).rows == [{"value": 2.0}]
    assert (len(script.heads), script.connections) == (20, 1)


def test_a_prediction_whose_answer_was_lost_is_asked_again_under_the_same_id(connect):
    with Script([RESET, RESET, answer()]) as script:
        assert connect(script.url, retries=QUICK).predict("m", ROWS).version == "v1"
    assert len({head["x-request-id"] for head in script.heads}) == 1
    left = [float(head["x-request-timeout"]) for head in script.heads]
    assert len(left) == 3
    assert left == sorted(left, reverse=True)


def test_a_connection_that_always_breaks_is_an_error_after_the_last_attempt(connect):
    with Script([RESET]) as script, pytest.raises(ConnectionLostError) as caught:
        connect(script.url, retries=QUICK).predict("m", ROWS)
    assert (caught.value.attempts, caught.value.sent, caught.value.status) == (4, True, None)
    assert caught.value.request_id == script.heads[0]["x-request-id"]
    assert isinstance(caught.value, ConnectionError)


def test_a_refused_connection_is_an_error_that_says_so(connect):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    client = connect(f"http://127.0.0.1:{port}", retries=QUICK)
    with pytest.raises(ConnectionLostError, match="There is no connection") as caught:
        client.predict("m", ROWS)
    assert (caught.value.attempts, caught.value.sent) == (4, False)
    assert client.live() is False
    assert client.ready() is False


def test_retry_after_is_waited_for(connect):
    busy = answer(503, b'{"type":"urn:modelyard:problem:not-ready","detail":"Not yet."}', retry_after="1")
    begun = time.monotonic()
    with Script([busy, answer()]) as script:
        connect(script.url, retries=QUICK).predict("m", ROWS)
    assert time.monotonic() - begun >= 1.0
    assert len(script.heads) == 2


def test_a_wait_that_does_not_fit_into_the_timeout_is_an_error_at_once(connect):
    busy = answer(429, b'{"type":"urn:modelyard:problem:busy","detail":"Too many."}', retry_after="30")
    begun = time.monotonic()
    with Script([busy]) as script, pytest.raises(OverloadedError, match=r"Too many\.") as caught:
        connect(script.url, timeout=5).predict("m", ROWS)
    assert time.monotonic() - begun < 2.0
    assert (caught.value.retry_after, caught.value.problem, caught.value.status) == (30.0, "busy", 429)
    assert len(script.heads) == 1


def test_an_answer_that_never_ends_is_cut_off_by_the_timeout_and_not_asked_for_again(connect):
    endless = [b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n", *([b" "] * 1000)]
    begun = time.monotonic()
    with Script([endless], trickle=0.05) as script, pytest.raises(ServiceTimeoutError) as caught:
        connect(script.url, timeout=0.5, retries=QUICK).predict("m", ROWS)
    assert time.monotonic() - begun < 2.0
    assert (caught.value.attempts, len(script.heads)) == (1, 1)
    assert isinstance(caught.value, TimeoutError)


def test_what_is_wrong_is_not_asked_again(connect):
    document = b'{"type":"urn:modelyard:problem:unauthenticated","detail":"Who are you?","remedy":"Send a key."}'
    with Script([answer(401, document)]) as script, pytest.raises(UnauthorizedError) as caught:
        connect(script.url, retries=QUICK).predict("m", ROWS)
    assert str(caught.value) == "Who are you? Send a key."
    assert len(script.heads) == 1


def test_a_gateway_that_lost_its_server_is_asked_again(connect):
    with Script([answer(502, b"<html>Bad Gateway</html>"), answer()]) as script:
        connect(script.url, retries=QUICK).predict("m", ROWS)
    assert len(script.heads) == 2


@pytest.mark.parametrize("body", [b"<html>hello</html>", b"{}", b"[]", b"\xff", b'{"model":"m","version":1}'])
def test_an_answer_of_something_else_is_a_server_error(connect, body):
    with Script([answer(200, body)]) as script, pytest.raises(ServerError, match="The answer is no prediction"):
        connect(script.url).predict("m", ROWS)


def test_credentials_stand_in_no_text(connect):
    with Script([answer()]) as script:
        client = connect(script.url, api_key="my-secret")
        client.live()
    assert "my-secret" not in repr(client)
    with pytest.raises(InvalidRequestError) as caught:
        connect("http://127.0.0.1:1", api_key="my-secret\n")
    assert "my-secret" not in str(caught.value)


CONTRACT = Contract((Field("x", "float32"),), (Field("value", "float32"), Field("p", "float64", (2, 2))))
LARGE = {"x": np.arange(2000, dtype=np.float32)}


def test_large_arrays_travel_as_arrow_and_their_answers_keep_their_dtypes(connect):
    outputs = {"value": LARGE["x"] * 2, "p": np.ones((2000, 2, 2))}
    named = {"x_model": "m", "x_model_version": "v1", "x_model_generation": "7"}
    with Script([answer(200, arrow.encode(outputs), content_type=arrow.STREAM_TYPE, **named)]) as script:
        given = connect(script.url).predict("m", LARGE)
    assert script.heads[0]["content-type"] == arrow.STREAM_TYPE
    assert arrow.decode(CONTRACT, script.bodies[0])["x"].tolist() == LARGE["x"].tolist()
    assert (given.model, given.version, given.generation) == ("m", "v1", 7)
    for name, values in outputs.items():
        assert given.columns[name].dtype == values.dtype
        assert np.array_equal(given.columns[name], values)


def test_an_arrow_answer_that_is_nameless_or_damaged_is_a_server_error(connect):
    whole = arrow.encode({"value": LARGE["x"]})
    named = {"x_model": "m", "x_model_version": "v1", "x_model_generation": "7"}
    for body, headers in ((whole, {}), (whole[:100], named), (b"", named)):
        line = answer(200, body, content_type=arrow.STREAM_TYPE, **headers)
        with Script([line]) as script, pytest.raises(ServerError):
            connect(script.url).predict("m", LARGE)


def test_a_service_without_arrow_is_asked_in_json_from_then_on(connect):
    unsupported = answer(415, b'{"type":"urn:modelyard:problem:media-type","detail":"JSON or CSV."}')
    with Script([unsupported, answer()]) as script:
        client = connect(script.url)
        client.predict("m", LARGE)
        client.predict("m", pa.table(LARGE))
    kinds = [head["content-type"] for head in script.heads]
    assert kinds == [arrow.STREAM_TYPE, "application/json", "application/json"]
    assert json.loads(script.bodies[2])["columns"]["x"] == LARGE["x"].tolist()


def test_an_encoding_that_was_asked_for_is_kept(connect):
    unsupported = answer(415, b'{"type":"urn:modelyard:problem:media-type","detail":"JSON or CSV."}')
    with Script([unsupported]) as script:
        with pytest.raises(InvalidRequestError, match="JSON or CSV"):
            connect(script.url).predict("m", ROWS, encoding="arrow")
        with pytest.raises(InvalidRequestError, match="no encoding 'xml'"):
            connect(script.url).predict("m", ROWS, encoding="xml")
    assert len(script.heads) == 1


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ssl.SSLContext]:
    """A certificate for 127.0.0.1 that no system trusts, and a server's context with it."""
    import ipaddress

    folder = tmp_path_factory.mktemp("tls")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return folder / "cert.pem", context


def test_a_certificate_counts_only_where_its_authority_is_trusted(connect, authority):
    certificate, context = authority
    with Script([answer()], tls=context) as script:
        with pytest.raises(ConnectionLostError, match="certificate is not trusted") as caught:
            connect(script.url, retries=QUICK).predict("m", ROWS)
        assert (caught.value.problem, caught.value.attempts) == ("tls", 1)
        assert connect(script.url, verify=certificate).predict("m", ROWS).version == "v1"
