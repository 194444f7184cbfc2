from __future__ import annotations

import ssl
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat
from tests.certificates import Authority

from modelyard.errors import InputError
from modelyard.serving.auth.spec import TlsSpec
from modelyard.serving.auth.tls import check_tls, tls_context


@pytest.fixture
def files(tmp_path):
    authority = Authority()
    authority.write(tmp_path / "ca.pem")
    authority.issue("localhost", tmp_path / "server.pem", tmp_path / "server.key")
    authority.issue("other", tmp_path / "other.pem", tmp_path / "other.key")
    return tmp_path


def test_clients_need_a_certificate_wherever_there_are_roots_for_it(files):
    plain = TlsSpec(certificate=files / "server.pem", key=files / "server.key")
    check_tls(plain)
    context = tls_context(plain, "http/1.1")
    assert (context.verify_mode, context.minimum_version) == (ssl.CERT_NONE, ssl.TLSVersion.TLSv1_2)
    mutual = TlsSpec(certificate=plain.certificate, key=plain.key, client_ca=files / "ca.pem", minimum="1.3")
    check_tls(mutual)
    context = tls_context(mutual, "h2")
    assert (context.verify_mode, context.minimum_version) == (ssl.CERT_REQUIRED, ssl.TLSVersion.TLSv1_3)
    assert len(context.get_ca_certs()) == 1


def encrypted(files: Path) -> Path:
    key = Authority().key
    data = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x"))
    (files / "encrypted.key").write_bytes(data)
    return files / "encrypted.key"


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda files: {"key": files / "other.key"}, InputError),
        (lambda files: {"key": files / "server.pem"}, InputError),
        (lambda files: {"key": encrypted(files)}, InputError),
        (lambda files: {"certificate": files / "server.key"}, InputError),
        (lambda files: {"client_ca": files / "server.key"}, InputError),
        (lambda files: {"certificate": files / "none"}, InputError),
        (lambda files: {"certificate": files}, InputError),
        (lambda files: {"key": files / "none"}, InputError),
        (lambda files: {"client_ca": files / "none"}, InputError),
    ],
)
def test_files_that_make_no_connection_are_told_before_the_start(files, change, error):
    given = {"certificate": files / "server.pem", "key": files / "server.key", **change(files)}
    with pytest.raises(error) as raised:
        check_tls(TlsSpec(**given))
    assert str(files) in (raised.value.where or "")
