"""An nginx site in front of a service: TLS, HTTP/1.1, HTTP/2 and gRPC on one port (https://nginx.org/en/docs/)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from modelyard.errors import InputError, RefusedError
from modelyard.serving.auth.loopback import is_loopback
from modelyard.serving.spec import ServiceSpec

__all__ = ["FORMS", "UPLOADS", "Front", "nginx_site"]

MEMORY_BYTES = 16 * 1024 * 1024
"""Bodies up to this are kept in nginx's memory; a longer one, where the service takes it, in a file."""

UPLOADS = r"^(/modelrunner)?/(model|putModel|transform|transformCSV|transformJSON)$"
"""Paths that take a model, as Acumos's clients send it."""

FORMS = (
    r"^(/modelrunner)?/(getBinary(JSON)?(Default)?|transform(CSV|JSON)?Default"
    r"|proto|putProto|model/configuration|putModelConfig)$"
)
"""Paths that take the file of a request, or a small one, in a form."""

_FORM_BYTES = 512 * 1024
"""Beside its file a form has a proto file, boundaries and heads of parts; the service itself counts to the byte."""

_UPLOAD_BUFFER = 128 * 1024
_MARGIN = 10
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,252}[A-Za-z0-9])?")
_GRPC = r"^/(inference\.GRPCInferenceService|grpc\.health\.v1\.Health|grpc\.reflection\.v1(alpha)?\.ServerReflection)/"

_PROBLEMS = (
    (413, "Content Too Large", "too-large", "The body is longer than this service takes."),
    (502, "Bad Gateway", "unreachable", "The service can not be reached."),
    (504, "Gateway Timeout", "deadline", "The service did not answer in time."),
)
"""What nginx itself has to say, in the form of the service's own problem documents (RFC 9457)."""

_SITE = """\
# nginx in front of the Modelyard service %(name)s. Written by `modelyard deploy nginx`; include it in `http`.
%(upstreams)s
# The client's own request id where it is harmless, else one of nginx's: the same in both logs and in the answer.
map $http_x_request_id $modelyard_%(own)s_request_id {
    default $request_id;
    "~^[A-Za-z0-9._:-]{1,64}$" $http_x_request_id;
}

server {
    listen %(listen)s ssl http2;
    server_name %(server)s;
    server_tokens off;

    ssl_certificate %(certificate)s;
    ssl_certificate_key %(key)s;
    ssl_protocols TLSv1.2 TLSv1.3;
    ssl_session_cache shared:modelyard_%(own)s:2m;
    ssl_session_tickets off;
    add_header Strict-Transport-Security "max-age=31536000" always;

    # As long as the service's own limits, here and below. A body is read whole, in memory, before the service hears of
    # it: who sends slowly holds no place there, and nothing is written to the disk.
    client_max_body_size %(body)d;
    client_body_buffer_size %(memory)d;
    client_body_timeout %(body_seconds)ds;
    proxy_max_temp_file_size 0;
    # Tokens are long.
    large_client_header_buffers 4 16k;

    proxy_http_version 1.1;
    proxy_set_header Connection "";
    proxy_set_header Host $host;
    proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
    proxy_set_header X-Forwarded-Proto $scheme;
    proxy_set_header X-Request-Id $modelyard_%(own)s_request_id;
    proxy_connect_timeout 2s;
    # Loading a model by hand may take so long.
    proxy_read_timeout %(read)ds;
    # Sent again is only what can't have been heard, or does no more if done twice (RFC 9110, 9.2.2): no POST.
    proxy_next_upstream error;
    proxy_next_upstream_tries 3;
    proxy_next_upstream_timeout 5s;

    location / {
        proxy_pass http://modelyard_%(own)s;
    }

    # Forms are longer than the files in them.
    location ~ "%(forms)s" {
        client_max_body_size %(form)d;
        client_body_buffer_size %(form_memory)d;
        proxy_pass http://modelyard_%(own)s;
    }

    # Models are passed on as they come: who may upload none is refused before much was sent. The service ends what
    # comes too slowly, and takes few at a time.
    location ~ "%(uploads)s" {
        client_max_body_size %(upload)d;
        client_body_buffer_size %(upload_buffer)d;
        proxy_request_buffering off;
        proxy_pass http://modelyard_%(own)s;
    }
%(grpc)s
    location = /healthz {
        access_log off;
        proxy_pass http://modelyard_%(own)s;
    }

    # Metrics are for this machine's collector.
    location = /metrics {
        allow 127.0.0.1;
        allow ::1;
        deny all;
        proxy_pass http://modelyard_%(own)s;
    }
%(problems)s}
"""


@dataclass(frozen=True, slots=True)
class Front:
    """What clients see.

    Args:
        name: Host name that clients ask.
        certificate: PEM file of its certificate and those between it and its root.
        key: PEM file of the private key.
        listen: Port, or address and port, such as `443` or `127.0.0.1:8443`.
    """

    name: str
    certificate: Path
    key: Path
    listen: str = "443"


def nginx_site(spec: ServiceSpec, front: Front) -> str:
    """Return the text of a site, to be included in nginx's `http` block.

    Args:
        spec: The service; its ports are fixed.
        front: What clients see.

    Raises:
        InputError: A port is left open, the name or a path can't be one, or the service would refuse the name.
        RefusedError: The service would let everybody change what it serves, or encrypts itself.
    """
    _check(spec, front)
    own = re.sub(r"[^a-z0-9]", "_", spec.name.lower())
    host = f"[{spec.host}]" if ":" in spec.host else spec.host
    grpc_upstream = _upstream(f"modelyard_{own}_grpc", f"{host}:{spec.grpc_port}") if spec.grpc_port else ""
    return _SITE % {
        "name": spec.name,
        "own": own,
        "upstreams": _upstream(f"modelyard_{own}", f"{host}:{spec.port}") + grpc_upstream,
        "listen": front.listen,
        "server": front.name,
        "certificate": _quoted(front.certificate),
        "key": _quoted(front.key),
        "body": spec.limits.body_bytes,
        "memory": min(spec.limits.body_bytes, MEMORY_BYTES),
        "forms": FORMS,
        "form": spec.limits.body_bytes + _FORM_BYTES,
        "form_memory": min(spec.limits.body_bytes, MEMORY_BYTES) + _FORM_BYTES,
        "uploads": UPLOADS,
        "upload": spec.limits.upload_bytes + spec.limits.body_bytes + _FORM_BYTES,
        "upload_buffer": _UPLOAD_BUFFER,
        "body_seconds": max(1, round(spec.limits.body_seconds)),
        "read": round(spec.prepare_seconds) + _MARGIN,
        "grpc": _grpc_location(spec, own),
        "problems": "".join(_problem(own, *problem) for problem in _PROBLEMS),
    }


def _check(spec: ServiceSpec, front: Front) -> None:
    if not spec.port or spec.grpc_port == 0:
        raise InputError("nginx needs to know the ports.", remedy="Give --port, and --grpc-port where it is spoken.")
    if not _NAME.fullmatch(front.name):
        raise InputError(f"{front.name!r} is no host name.", remedy="Give one such as models.example.org.")
    if not re.fullmatch(r"(?:[A-Za-z0-9.:\[\]-]+:)?[0-9]{1,5}", front.listen):
        raise InputError(f"{front.listen!r} can't be listened on.", remedy="Give 443, or 127.0.0.1:8443.")
    if spec.tls is not None:
        raise RefusedError(
            "The service encrypts by itself.",
            remedy="Let clients reach it without nginx, or take serve_tls_certificate out and let nginx encrypt.",
        )
    if not is_loopback(spec.host):
        raise RefusedError(
            f"The service listens on {spec.host!r}, where others reach it past nginx.",
            remedy="Let it listen on 127.0.0.1.",
        )
    if spec.auth is not None:
        return
    changing = [scope for scope in ("load", "promote") if scope in spec.anonymous]
    if changing:
        raise RefusedError(
            "Everybody who reaches nginx could change what the service serves.",
            remedy='Set serve_keys or serve_issuer, or serve_anonymous = "infer, read".',
        )
    if front.name not in spec.hosts:
        raise InputError(
            f"The service would refuse requests to {front.name}: it knows no such name.",
            remedy=f'Set serve_hosts = "{front.name}".',
        )


def _upstream(name: str, address: str) -> str:
    return f"""
upstream {name} {{
    server {address} max_fails=0;
    keepalive 64;
}}
"""


def _grpc_location(spec: ServiceSpec, own: str) -> str:
    if not spec.grpc_port:
        return ""
    return f"""
    location ~ {_GRPC} {{
        # A stream has no length; the service limits its messages.
        client_max_body_size 0;
        grpc_set_header Host $host;
        grpc_set_header X-Request-Id $modelyard_{own}_request_id;
        grpc_connect_timeout 2s;
        grpc_read_timeout 1h;
        grpc_send_timeout 1h;
        grpc_next_upstream error;
        grpc_pass grpc://modelyard_{own}_grpc;
    }}
"""


def _problem(own: str, status: int, title: str, code: str, detail: str) -> str:
    document = (
        f'{{"type":"urn:modelyard:problem:{code}","title":"{title}","status":{status},"detail":"{detail}",'
        f'"error":"{detail}","request_id":"$modelyard_{own}_request_id"}}'
    )
    return f"""
    error_page {status} @modelyard_{status};
    location @modelyard_{status} {{
        internal;
        default_type application/problem+json;
        return {status} '{document}';
    }}
"""


def _quoted(path: Path) -> str:
    text = str(path)
    if not text.isprintable() or not path.is_absolute() or set(text) & set("\"'\\${};"):
        raise InputError(f"{text!r} can't stand in nginx's settings.", remedy="Name the file from / on.")
    return f'"{text}"'
