"""TLS of a service's ports: one certificate, its roots for clients and oldest version, for HTTP and gRPC alike."""

from __future__ import annotations

import ssl

from modelyard.errors import InputError
from modelyard.files import storage_errors
from modelyard.serving.auth.spec import TlsSpec

__all__ = ["check_tls", "tls_context"]


def check_tls(tls: TlsSpec) -> None:
    """Raise an error where a connection could not be made.

    Raises:
        InputError: A file is no PEM of its kind, the key is another certificate's, or it asks for a passphrase.
        StorageError: A file can't be read.
    """
    for path in filter(None, (tls.certificate, tls.key, tls.client_ca)):
        with storage_errors(path):
            path.read_bytes()
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
