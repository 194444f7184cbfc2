"""A signature is valid for its key, its text and its purpose, and for nothing else."""

from __future__ import annotations

import base64

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given
from hypothesis import strategies as st

from modelyard.center.signatures import Verifier, parse_public_key, split_signature
from modelyard.testing.tags import PrivateKey, public_half, public_line, sign

TEXT = b"object 1\n\n{}\n"
KEYS: dict[str, PrivateKey] = {
    "ed25519": ed25519.Ed25519PrivateKey.generate(),
    "nistp256": ec.generate_private_key(ec.SECP256R1()),
    "nistp384": ec.generate_private_key(ec.SECP384R1()),
    "nistp521": ec.generate_private_key(ec.SECP521R1()),
    "rsa": rsa.generate_private_key(public_exponent=65537, key_size=2048),
}
verifier = Verifier()


@pytest.mark.parametrize("digest", ["sha256", "sha512"])
@pytest.mark.parametrize("kind", KEYS)
def test_every_key_type_signs_and_is_told(kind: str, digest: str) -> None:
    verdict = verifier.verify(TEXT, sign(TEXT, KEYS[kind], digest=digest))
    assert (verdict.signer, verdict.fault) == (public_half(KEYS[kind]).fingerprint, "")


@pytest.mark.parametrize("rsa_type", ["rsa-sha2-256", "rsa-sha2-512"])
def test_both_rsa_schemes_are_accepted(rsa_type: str) -> None:
    assert verifier.verify(TEXT, sign(TEXT, KEYS["rsa"], rsa_type=rsa_type)).signer


@pytest.mark.parametrize("kind", KEYS)
def test_another_text_is_not_signed(kind: str) -> None:
    verdict = verifier.verify(TEXT + b" ", sign(TEXT, KEYS[kind]))
    assert verdict.signer == ""
    assert "made for other content" in verdict.fault


def test_a_signature_for_another_purpose_is_refused() -> None:
    verdict = verifier.verify(TEXT, sign(TEXT, KEYS["ed25519"], namespace="file"))
    assert verdict.fault == "The signature is not valid: it was made for 'file', not for 'git'."


def flipped(armored: bytes, place: int, bit: int) -> bytes:
    lines = armored.split(b"\n")
    raw = bytearray(base64.b64decode(b"".join(lines[1:-2])))
    raw[place % len(raw)] ^= 1 << bit
    return b"\n".join((lines[0], base64.b64encode(bytes(raw)), lines[-2], b""))


@given(st.sampled_from(sorted(KEYS)), st.integers(0, 5000), st.integers(0, 7))
def test_no_flipped_bit_passes_as_the_same_signer(kind: str, place: int, bit: int) -> None:
    good = sign(TEXT, KEYS[kind])
    verdict = verifier.verify(TEXT, flipped(good, place, bit))
    assert verdict.signer == ""
    assert verdict.fault


@given(st.binary(max_size=200))
def test_no_bytes_make_the_verifier_raise(data: bytes) -> None:
    armored = b"-----BEGIN SSH SIGNATURE-----\n" + base64.b64encode(b"SSHSIG\0\0\0\1" + data)
    assert verifier.verify(TEXT, armored + b"\n-----END SSH SIGNATURE-----\n").signer == ""
    assert verifier.verify(TEXT, data).signer == ""


@given(st.integers(0, 300))
def test_a_cut_off_signature_is_refused(length: int) -> None:
    good = sign(TEXT, KEYS["ed25519"]).rstrip()
    assert verifier.verify(TEXT, good[: min(length, len(good) - 1)]).signer == ""


def test_a_text_signed_by_nobody_says_so() -> None:
    assert verifier.verify(TEXT, b"").fault == "The signature is not valid: there is none."


def test_a_signature_is_split_off_at_its_last_beginning() -> None:
    inner, outer = sign(b"x", KEYS["ed25519"]), sign(TEXT, KEYS["ed25519"])
    assert split_signature(TEXT + inner + outer) == (TEXT + inner, outer)
    assert split_signature(TEXT) == (TEXT, b"")
    assert split_signature(b"a -----BEGIN SSH SIGNATURE-----") == (b"a -----BEGIN SSH SIGNATURE-----", b"")


@pytest.mark.parametrize("line", ["", "ssh-ed25519", "ssh-ed25519 !!!", "ssh-ed25519 AAAA", "hello AAAA"])
def test_what_is_no_key_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match=r"\."):
        parse_public_key(line)


def test_a_key_with_bytes_after_its_end_is_refused() -> None:
    kind, text = public_line(KEYS["ed25519"]).split()
    with pytest.raises(ValueError, match="bytes follow"):
        parse_public_key(f"{kind} {base64.b64encode(base64.b64decode(text) + b'x').decode()}")
