"""TLS of the gRPC port: the same certificate, roots and oldest version as HTTP's."""

from __future__ import annotations

import ssl

from modelyard.serving.auth.spec import TlsSpec

__all__ = ["tls_context"]


def tls_context(tls: TlsSpec) -> ssl.SSLContext:
    """Return what connections are encrypted by; who has roots for clients demands their certificates."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3 if tls.minimum == "1.3" else ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(tls.certificate, tls.key)
    # HTTP/2 forbids what this would allow (RFC 9113, section 9.2.1).
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["h2"])
    if tls.client_ca is not None:
        context.load_verify_locations(tls.client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context
