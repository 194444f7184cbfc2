"""TLS of a service's ports: one certificate, its roots for clients and oldest version, for HTTP and gRPC alike."""

from __future__ import annotations

import ssl
from pathlib import Path

from modelyard.errors import InputError, StorageError
from modelyard.files import storage_errors
from modelyard.serving.auth.spec import TlsSpec

__all__ = ["check_tls", "tls_context"]


def check_tls(tls: TlsSpec) -> None:
    """Raise an error where a connection could not be made.

    Raises:
        InputError: A file is not there, or no PEM of its kind; the key is another certificate's, or it asks for a
            passphrase.
        StorageError: A file can't be read.
    """
    for setting, path in (
        ("serve_tls_certificate", tls.certificate),
        ("serve_tls_key", tls.key),
        ("serve_tls_client_ca", tls.client_ca),
    ):
        if path is not None:
            _read(path, setting)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # Without this OpenSSL would ask at the terminal for the passphrase of an encrypted key.
        context.load_cert_chain(tls.certificate, tls.key, password=_no_passphrase)
    except (ssl.SSLError, ValueError) as error:
        raise InputError(
            f"Certificate and key do not fit together: {_reason(error)}.",
            where=f"{tls.certificate}, {tls.key}",
            remedy="Give a PEM certificate (chain) and its own private key, without a passphrase.",
        ) from error
    if tls.client_ca is not None:
        try:
            context.load_verify_locations(tls.client_ca)
        except (ssl.SSLError, ValueError) as error:
            raise InputError(
                f"There is no certificate for clients to come from: {_reason(error)}.",
                where=str(tls.client_ca),
                remedy="Give a PEM file of root certificates.",
            ) from error


def _read(path: Path, setting: str) -> None:
    """See that a file can be read; a path that is wrong in the settings is no failure of the disk."""
    try:
        with storage_errors(path):
            path.read_bytes()
    except StorageError as error:
        cause = error.__cause__
        if isinstance(cause, PermissionError):
            raise StorageError(error.what, where=str(path), remedy="Let the service's user read it.") from cause
        if not isinstance(cause, FileNotFoundError | IsADirectoryError | NotADirectoryError):
            raise
        raise InputError(
            "This is a folder, and a PEM file is needed." if path.is_dir() else "There is no such file.",
            where=str(path),
            remedy=f"Put it there, or correct {setting}; relative paths count from the project folder.",
        ) from cause


def tls_context(tls: TlsSpec, protocol: str) -> ssl.SSLContext:
    """Return what connections are encrypted by; who has roots for clients demands their certificates.

    Args:
        tls: Files and the oldest version.
        protocol: What is spoken inside, by its name for ALPN (RFC 7301): `http/1.1` or `h2`.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3 if tls.minimum == "1.3" else ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(tls.certificate, tls.key)
    # HTTP/2 forbids what this would allow (RFC 9113, section 9.2.1), and HTTP/1.1 does not need it.
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols([protocol])
    if tls.client_ca is not None:
        context.load_verify_locations(tls.client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _no_passphrase() -> str:
    raise ValueError("the key is encrypted")


def _reason(error: Exception) -> str:
    return (error.reason if isinstance(error, ssl.SSLError) else None) or str(error)
