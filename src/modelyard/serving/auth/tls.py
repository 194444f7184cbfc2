"""TLS as granian's worker takes it. The files are tried with OpenSSL first, which says what is wrong with them."""

from __future__ import annotations

import ssl

from modelyard.errors import InputError
from modelyard.files import storage_errors
from modelyard.serving.auth.spec import TlsSpec

__all__ = ["PLAINTEXT", "TlsArguments", "check_tls", "tls_arguments"]

TlsArguments = tuple[bool, str | None, str | None, str | None, str, str | None, list[str], bool]
"""Whether there is TLS; certificate, key, its passphrase; oldest version; clients' roots, revoked, whether required."""

PLAINTEXT: TlsArguments = (False, None, None, None, "tls1.3", None, [], False)


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


def tls_arguments(tls: TlsSpec | None) -> TlsArguments:
    """Return the last arguments of granian's RSGIWorker before its metrics; None is plain text.

    A client's certificate is demanded wherever there are roots for it: granian by itself goes on without when either
    is missing.
    """
    if tls is None:
        return PLAINTEXT
    roots = str(tls.client_ca.resolve()) if tls.client_ca is not None else None
    return (
        True, str(tls.certificate.resolve()), str(tls.key.resolve()), None, f"tls{tls.minimum}", roots, [],
        roots is not None,
    )  # fmt: skip


def _no_passphrase() -> str:
    raise ValueError("the key is encrypted")


def _reason(error: Exception) -> str:
    return (error.reason if isinstance(error, ssl.SSLError) else None) or str(error)
