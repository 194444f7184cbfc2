"""SSH signatures checked in this process: the SSHSIG format of OpenSSH, as `git tag -s` makes it.

Source: https://github.com/openssh/openssh-portable/blob/master/PROTOCOL.sshsig and RFC 4253, 5656, 8032, 8332.
What is checked, and refused, follows `ssh-keygen -Y verify`; a test compares the two over good and bad signatures.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

__all__ = ["NAMESPACE", "PublicKey", "Verdict", "Verifier", "parse_public_key", "split_signature"]

NAMESPACE = "git"
"""Git signs under this name, so that a signature made for something else can't be replayed as a tag's."""

MINIMUM_RSA_BITS = 2048

_BEGIN, _END = b"-----BEGIN SSH SIGNATURE-----", b"-----END SSH SIGNATURE-----"
_ANY_BEGIN = re.compile(
    rb"^-----BEGIN (?:SSH SIGNATURE|PGP SIGNATURE|PGP MESSAGE|SIGNED MESSAGE)-----", re.MULTILINE
)  # what Git takes for the start of a signature
_MAGIC = b"SSHSIG"
_HASHES = {"sha256": hashlib.sha256, "sha512": hashlib.sha512}
_RSA_HASHES: dict[str, hashes.HashAlgorithm] = {"rsa-sha2-256": hashes.SHA256(), "rsa-sha2-512": hashes.SHA512()}
_CURVES: dict[str, tuple[str, ec.EllipticCurve, hashes.HashAlgorithm]] = {
    "ecdsa-sha2-nistp256": ("nistp256", ec.SECP256R1(), hashes.SHA256()),
    "ecdsa-sha2-nistp384": ("nistp384", ec.SECP384R1(), hashes.SHA384()),
    "ecdsa-sha2-nistp521": ("nistp521", ec.SECP521R1(), hashes.SHA512()),
}
KEY_TYPES = ("ssh-ed25519", *_CURVES, "ssh-rsa")

Check = Callable[[str, bytes, bytes], None]
"""Takes a signature's algorithm, its bytes and what was signed; raises where they do not fit."""


@dataclass(frozen=True, slots=True)
class PublicKey:
    """One public SSH key.

    Args:
        type: Such as `ssh-ed25519`.
        blob: The key in SSH's wire format.
        fingerprint: `SHA256:` and the digest as `ssh-keygen -l` prints it.
    """

    type: str
    blob: bytes
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a signature proves.

    Args:
        signer: Fingerprint of the key that signed validly; an empty text where none did.
        fault: Why not; an empty text where one did.
    """

    signer: str
    fault: str = ""


class _FaultError(ValueError):
    """A signature or key that does not fit; the text says why."""


class _Reader:
    """Reads length-prefixed fields (RFC 4251, section 5)."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, count: int) -> bytes:
        end = self._at + count
        if end > len(self._data):
            raise _FaultError("it is cut off")
        piece, self._at = self._data[self._at : end], end
        return piece

    def string(self) -> bytes:
        return self.take(int.from_bytes(self.take(4), "big"))

    def text(self) -> str:
        return self.string().decode("ascii", errors="backslashreplace")

    def number(self) -> int:
        return int.from_bytes(self.string(), "big", signed=True)

    def end(self) -> None:
        if self._at != len(self._data):
            raise _FaultError("bytes follow its end")


class Verifier:
    """Checks signatures; keeps the keys it has seen ready.

    Safe to use from several threads.
    """

    def __init__(self) -> None:
        self._checks: dict[bytes, Check] = {}

    def verify(self, payload: bytes, armored: bytes, namespace: str = NAMESPACE) -> Verdict:
        """Say which key signed the payload.

        Args:
            payload: What was signed.
            armored: The signature, from its BEGIN to its END line.
            namespace: What the signature must have been made for.

        Returns:
            The signer's fingerprint, or the fault. Whose key it is, and whether that person may, is not asked here.
        """
        try:
            return Verdict(self._signer(payload, armored, namespace))
        except (_FaultError, InvalidSignature, UnsupportedAlgorithm) as error:
            why = "it was made for other content" if isinstance(error, InvalidSignature) else str(error)
            return Verdict("", f"The signature is not valid: {why}.")

    def _signer(self, payload: bytes, armored: bytes, namespace: str) -> str:
        reader = _Reader(_dearmor(armored))
        if reader.take(len(_MAGIC)) != _MAGIC or int.from_bytes(reader.take(4), "big") != 1:
            raise _FaultError("it is no SSH signature of version 1")
        blob, made_for = reader.string(), reader.text()
        reader.string()  # reserved
        hash_name, signature = reader.text(), reader.string()
        reader.end()
        if made_for != namespace:
            raise _FaultError(f"it was made for {made_for!r}, not for {namespace!r}")
        if hash_name not in _HASHES:
            raise _FaultError(f"it uses the hash {hash_name!r}")
        fields = _Reader(signature)
        algorithm, raw = fields.text(), fields.string()
        fields.end()
        signed = _MAGIC + b"".join(
            len(part).to_bytes(4, "big") + part
            for part in (namespace.encode(), b"", hash_name.encode(), _HASHES[hash_name](payload).digest())
        )
        check = self._checks.get(blob)
        if check is None:
            check = self._checks[blob] = _check_of(blob)
        check(algorithm, raw, signed)
        return _fingerprint(blob)


def split_signature(content: bytes) -> tuple[bytes, bytes]:
    """Split a tag object's content as Git does: at the last line that starts a signature.

    Returns:
        What was signed, and the signature; the latter is empty where there is none.
    """
    start = len(content)
    for match in _ANY_BEGIN.finditer(content):
        start = match.start()
    return content[:start], content[start:]


def parse_public_key(line: str) -> PublicKey:
    """Return the key in a line such as `ssh-ed25519 AAAA… comment`, the form of a `.pub` file.

    Raises:
        ValueError: It is no public key, its type is none of `KEY_TYPES`, or it is an RSA key under 2048 bits.
    """
    words = line.split()
    if len(words) < 2:
        raise ValueError("A key is two words: its type and its base64 text.")
    kind, text = words[0], words[1]
    if kind not in KEY_TYPES:
        raise ValueError(f"The key type {kind!r} is none of {', '.join(KEY_TYPES)}.")
    try:
        blob = base64.b64decode(text, validate=True)
        if _Reader(blob).text() != kind:
            raise _FaultError("its text says another type")
        _check_of(blob)
    except (binascii.Error, ValueError, UnsupportedAlgorithm) as error:
        raise ValueError(f"This is no {kind} key: {error}.") from error
    return PublicKey(kind, blob, _fingerprint(blob))


def _fingerprint(blob: bytes) -> str:
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")


def _dearmor(armored: bytes) -> bytes:
    if not armored:
        raise _FaultError("there is none")
    if not armored.startswith(_BEGIN):
        raise _FaultError("it is no SSH signature")
    end = armored.find(b"\n" + _END)
    if end < 0:
        raise _FaultError("it has no END line")
    try:
        return base64.b64decode(b"".join(armored[len(_BEGIN) : end].split()), validate=True)
    except binascii.Error as error:
        raise _FaultError("it is not base64") from error


def _check_of(blob: bytes) -> Check:
    reader = _Reader(blob)
    kind = reader.text()
    try:
        if kind == "ssh-ed25519":
            return _check_ed25519(reader)
        if kind in _CURVES:
            return _check_ecdsa(kind, reader)
        if kind == "ssh-rsa":
            return _check_rsa(reader)
    except (_FaultError, UnsupportedAlgorithm):
        raise
    except ValueError as error:
        raise _FaultError(f"its {kind} key is malformed") from error
    raise _FaultError(f"the key type {kind!r} is none of {', '.join(KEY_TYPES)}")


def _check_ed25519(reader: _Reader) -> Check:
    raw = reader.string()
    reader.end()
    key = ed25519.Ed25519PublicKey.from_public_bytes(raw)

    def check(algorithm: str, signature: bytes, signed: bytes) -> None:
        _expect(algorithm, "ssh-ed25519")
        key.verify(signature, signed)

    return check


def _check_ecdsa(kind: str, reader: _Reader) -> Check:
    name, curve, digest = _CURVES[kind]
    named, point = reader.text(), reader.string()
    reader.end()
    if named != name:
        raise _FaultError(f"its key is of {named!r} and says {kind}")
    key = ec.EllipticCurvePublicKey.from_encoded_point(curve, point)

    def check(algorithm: str, signature: bytes, signed: bytes) -> None:
        _expect(algorithm, kind)
        numbers = _Reader(signature)
        r, s = numbers.number(), numbers.number()
        numbers.end()
        if r <= 0 or s <= 0:
            raise InvalidSignature
        key.verify(encode_dss_signature(r, s), signed, ec.ECDSA(digest))

    return check


def _check_rsa(reader: _Reader) -> Check:
    exponent, modulus = reader.number(), reader.number()
    reader.end()
    if modulus.bit_length() < MINIMUM_RSA_BITS:
        raise _FaultError(f"its RSA key has {modulus.bit_length()} bits; {MINIMUM_RSA_BITS} are the least")
    key = rsa.RSAPublicNumbers(exponent, modulus).public_key()
    length = (key.key_size + 7) // 8

    def check(algorithm: str, signature: bytes, signed: bytes) -> None:
        if algorithm not in _RSA_HASHES:  # ssh-rsa itself means SHA-1
            raise _FaultError(f"an RSA key signed with {algorithm!r}")
        if len(signature) > length:
            raise InvalidSignature
        key.verify(signature.rjust(length, b"\0"), signed, padding.PKCS1v15(), _RSA_HASHES[algorithm])

    return check


def _expect(algorithm: str, kind: str) -> None:
    if algorithm != kind:
        raise _FaultError(f"a {kind} key signed with {algorithm!r}")
