"""Signed tags without a process for each: for tests of forgeries and for benchmarks with thousands of tags."""

from __future__ import annotations

import base64
import hashlib
import subprocess
import textwrap
from collections.abc import Iterable, Mapping
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_ssh_private_key

from modelyard.center.events import Event, Registered, message_of, tag_name_of
from modelyard.center.signatures import NAMESPACE, PublicKey, parse_public_key
from modelyard.center.tags import Actor

__all__ = ["PrivateKey", "import_tags", "load_key", "public_half", "public_line", "sign"]

PrivateKey = ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


def load_key(path: Path) -> PrivateKey:
    """Return the private key of a file that ssh-keygen wrote without a passphrase."""
    key = load_ssh_private_key(path.read_bytes(), password=None)
    if not isinstance(key, PrivateKey):
        raise TypeError(f"{type(key).__name__} can't sign here")
    return key


def public_line(key: PrivateKey) -> str:
    """Return the public half as a line of a `.pub` file."""
    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def public_half(key: PrivateKey) -> PublicKey:
    """Return the public half."""
    return parse_public_key(public_line(key))


def _field(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


def _number(value: int) -> bytes:
    return _field(value.to_bytes(value.bit_length() // 8 + 1, "big"))


def sign(
    payload: bytes,
    key: PrivateKey,
    *,
    namespace: str = NAMESPACE,
    digest: str = "sha512",
    rsa_type: str = "rsa-sha2-512",
) -> bytes:
    """Return an armored SSHSIG signature, as `ssh-keygen -Y sign` makes it.

    Args:
        payload: What is signed.
        key: Whose it is.
        namespace: What it is made for.
        digest: `sha256` or `sha512`, of the payload.
        rsa_type: For an RSA key: `rsa-sha2-256` or `rsa-sha2-512`.
    """
    parts = (namespace.encode(), b"", digest.encode(), hashlib.new(digest, payload).digest())
    signed = b"SSHSIG" + b"".join(_field(part) for part in parts)
    if isinstance(key, ed25519.Ed25519PrivateKey):
        kind, raw = "ssh-ed25519", key.sign(signed)
    elif isinstance(key, rsa.RSAPrivateKey):
        chosen = hashes.SHA256() if rsa_type == "rsa-sha2-256" else hashes.SHA512()
        kind, raw = rsa_type, key.sign(signed, padding.PKCS1v15(), chosen)
    else:
        matching = {256: hashes.SHA256(), 384: hashes.SHA384(), 521: hashes.SHA512()}[key.curve.key_size]
        r, s = decode_dss_signature(key.sign(signed, ec.ECDSA(matching)))
        kind, raw = f"ecdsa-sha2-nistp{key.curve.key_size}", _number(r) + _number(s)
    fields = (public_half(key).blob, namespace.encode(), b"", digest.encode(), _field(kind.encode()) + _field(raw))
    blob = b"SSHSIG" + (1).to_bytes(4, "big") + b"".join(_field(part) for part in fields)
    lines = textwrap.wrap(base64.b64encode(blob).decode(), 70)
    return "\n".join(("-----BEGIN SSH SIGNATURE-----", *lines, "-----END SSH SIGNATURE-----", "")).encode()


def import_tags(repository: Path, events: Iterable[Event], actors: Mapping[str, Actor]) -> None:
    """Record events as signed tags by two calls of `git fast-import`, whatever the rules say of them.

    Args:
        repository: Has a commit.
        events: With actor, time and number set; the commit of each version is made, or taken from its registration.
        actors: Who signs, by the event's actor.
    """
    events = list(events)
    keys = {email: load_key(actor.signing_key) for email, actor in actors.items() if actor.signing_key}
    commits = _import_commits(repository, [event for event in events if isinstance(event, Registered)], actors)
    stream = []
    for event in events:
        name = tag_name_of(event)
        commit = event.commit or commits[event.model, event.version]
        tagger = f"tagger {actors[event.actor].name} <{event.actor}> {event.time} +0000\n"
        message = message_of(event).encode()
        payload = f"object {commit}\ntype commit\ntag {name}\n{tagger}\n".encode() + message
        data = message + sign(payload, keys[event.actor])
        stream.append(f"tag {name}\nfrom {commit}\n{tagger}data {len(data)}\n".encode() + data + b"\n")
    _fast_import(repository, b"".join(stream))


def _import_commits(
    repository: Path, registrations: list[Registered], actors: Mapping[str, Actor]
) -> dict[tuple[str, str], str]:
    marks = repository / ".git" / "modelyard-marks"
    head = subprocess.run(("git", "rev-parse", "HEAD"), cwd=repository, check=True, capture_output=True).stdout.decode()
    stream = []
    for mark, event in enumerate(registrations, start=1):
        who = f"{actors[event.actor].name} <{event.actor}> {event.time} +0000"
        message = f"Register {event.model} v{event.version}\n"
        # `reset` first: each commit has HEAD as its parent, not the commit before it in this stream.
        stream.append(
            f"reset refs/modelyard/import\nfrom {head.strip()}\n\ncommit refs/modelyard/import\nmark :{mark}\n"
        )
        stream.append(f"author {who}\ncommitter {who}\ndata {len(message)}\n{message}\n")
    stream.append("reset refs/modelyard/import\nfrom 0000000000000000000000000000000000000000\n\n")
    _fast_import(repository, "".join(stream).encode(), f"--export-marks={marks}")
    found = dict(line.split() for line in marks.read_text(encoding="ascii").splitlines())
    marks.unlink()
    return {(event.model, event.version): found[f":{mark}"] for mark, event in enumerate(registrations, start=1)}


def _fast_import(repository: Path, stream: bytes, *options: str) -> None:
    subprocess.run(("git", "fast-import", "--quiet", "--force", *options), cwd=repository, input=stream, check=True)
