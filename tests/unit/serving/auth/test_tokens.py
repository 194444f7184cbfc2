from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import time
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import get_default_algorithms

from modelyard.errors import BusyError, InputError, UnauthenticatedError
from modelyard.files import write_atomically
from modelyard.serving.auth.jwks import FetchedKeys, fetch_keys, parse_keys
from modelyard.serving.auth.spec import IssuerSpec
from modelyard.serving.auth.tokens import TokenVerifier, source_of

RSA, OTHER, SHORT = (rsa.generate_private_key(65537, size) for size in (2048, 2048, 1024))
P256 = ec.generate_private_key(ec.SECP256R1())
P384 = ec.generate_private_key(ec.SECP384R1())
ED = ed25519.Ed25519PrivateKey.generate()
ISSUER = "https://id.example.org/realm"


def jwk(key: Any, algorithm: str, kid: str | None, **more: Any) -> dict[str, Any]:
    found = get_default_algorithms()[algorithm].to_jwk(key, as_dict=True)
    return {**found, **({"kid": kid} if kid is not None else {}), **more}


KEYS = {
    "keys": [
        jwk(RSA.public_key(), "RS256", "rsa", alg="RS256", use="sig"),
        jwk(P256.public_key(), "ES256", "ec"),
        jwk(ED.public_key(), "EdDSA", "ed"),
    ]
}


def claims(**more: Any) -> dict[str, Any]:
    now = int(time.time())
    found = {"iss": ISSUER, "aud": "runner", "sub": "ada", "iat": now, "exp": now + 60, "scope": "infer read openid"}
    return {name: value for name, value in (found | more).items() if value is not None}


def token(key: Any = RSA, algorithm: str = "RS256", kid: str | None = "rsa", head: Any = None, **more: Any) -> str:
    return jwt.encode(claims(**more), key, algorithm, headers={**({"kid": kid} if kid else {}), **(head or {})})


def part(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def by_hand(header: dict[str, Any], secret: bytes | None = None, **more: Any) -> str:
    """A token as an attacker writes it, with no library that would refuse to."""
    text = f"{part(header)}.{part(claims(**more))}"
    signature = b"" if secret is None else hmac.digest(secret, text.encode(), hashlib.sha256)
    return f"{text}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "keys.json"
    path.write_text(json.dumps(KEYS))
    return path


@pytest.fixture
def make(file, written):
    def made(**more: Any) -> TokenVerifier:
        spec = IssuerSpec(**{"issuer": ISSUER, "audience": ("runner",), "jwks": str(file), **more})
        spec.check()
        return TokenVerifier(spec, source_of(spec, written.log))

    return made


@pytest.fixture
def verifier(make):
    return make()


def refused(verifier: TokenVerifier, given: str) -> str:
    with pytest.raises(UnauthenticatedError) as raised:
        verifier.verify(given)
    assert 'error="invalid_token"' in raised.value.challenge
    return raised.value.what


@pytest.mark.parametrize(
    ("key", "algorithm", "kid"), [(RSA, "RS256", "rsa"), (P256, "ES256", "ec"), (ED, "EdDSA", "ed")]
)
def test_a_token_stands_for_its_subject_and_scopes(verifier, key, algorithm, kid):
    for _ in range(2):
        principal = verifier.verify(token(key, algorithm, kid))
        assert principal.name == "token:ada"
        assert principal.scopes == {"infer", "read"}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"exp": int(time.time()) - 31}, "expired"),
        ({"nbf": int(time.time()) + 3600}, "not valid yet"),
        ({"iat": int(time.time()) + 3600}, "not valid yet"),
        ({"aud": "another"}, "another audience"),
        ({"aud": ["another", "third"]}, "another audience"),
        ({"iss": "https://evil.com"}, "another issuer"),
        ({"iss": ISSUER + "/"}, "another issuer"),
        ({"exp": None}, "no 'exp'"),
        ({"aud": None}, "no 'aud'"),
        ({"iss": None}, "no 'iss'"),
        ({"sub": None}, "names nobody"),
        ({"exp": float("inf")}, "does not fit"),
        ({"exp": "soon"}, "does not fit"),
    ],
)  # fmt: skip
def test_what_a_token_claims_must_hold(verifier, change, says):
    assert says in refused(verifier, token(**change))


def test_clocks_may_differ_by_the_leeway(make):
    late = token(exp=int(time.time()) - 10)
    assert make(leeway=30).verify(late)
    assert "expired" in refused(make(leeway=5), late)


def test_an_unsigned_token_never_counts(verifier):
    for name in ("none", "None", "NONE", "nOnE", ""):
        assert "does not count" in refused(verifier, by_hand({"alg": name, "kid": "rsa", "typ": "JWT"}))


def test_a_public_key_is_never_taken_for_a_shared_secret(verifier):
    """The classic confusion: signed by HMAC with the text of the public key, which everybody knows."""
    public = RSA.public_key()
    for form in (PublicFormat.SubjectPublicKeyInfo, PublicFormat.PKCS1):
        for encoding in (Encoding.PEM, Encoding.DER):
            secret = public.public_bytes(encoding, form)
            assert "does not count" in refused(verifier, by_hand({"alg": "HS256", "kid": "rsa"}, secret))


def test_a_key_checks_only_its_own_algorithm(make):
    every = make(algorithms=("RS256", "RS384", "PS256", "ES256", "EdDSA"))
    assert "not the issuer's" in refused(every, token(RSA, "RS384"))  # the set says RS256
    assert "not the issuer's" in refused(every, token(RSA, "PS256"))
    assert "not the issuer's" in refused(every, token(P256, "ES256", "rsa"))
    assert "does not count" in refused(make(algorithms=("ES256",)), token(RSA, "RS256"))


@pytest.mark.parametrize("kid", ["../../../../dev/null", "/dev/null", "' OR 1=1 --", "http://evil.com/k", "", "rsa\0"])
def test_a_key_id_is_nothing_but_a_name(verifier, kid):
    assert "not the issuer's" in refused(verifier, by_hand({"alg": "RS256", "kid": kid}, b""))


def test_a_key_that_a_token_brings_along_does_not_count(verifier):
    mine = jwk(OTHER.public_key(), "RS256", "rsa")
    for head in ({"jwk": mine}, {"jku": "http://127.0.0.1:1/k"}, {"x5u": "http://127.0.0.1:1/c"}, {"x5c": ["AAAA"]}):
        assert "does not fit" in refused(verifier, token(OTHER, head=head))
        assert verifier.verify(token(RSA, head=head))


def test_a_critical_extension_that_is_not_known_is_refused(verifier):
    refused(verifier, token(head={"crit": ["exp2"], "exp2": 1}))
    refused(verifier, by_hand({"alg": "RS256", "kid": "rsa", "b64": False, "crit": ["b64"]}))


def test_another_key_of_the_same_name_does_not_count(verifier):
    assert "does not fit" in refused(verifier, token(OTHER))


def test_a_token_that_was_changed_in_any_part_is_refused_though_the_whole_one_is_remembered(verifier):
    good = token()
    verifier.verify(good)
    head, body, signature = good.split(".")
    promoted = part(claims(scope="promote"))
    for wrong in (
        f"{head}.{promoted}.{signature}", f"{head}.{body}.{signature[:-4]}AAAA", f"{head}.{body}.", f"{head}.{body}",
        f"{good}.", f".{good}", good + "=",
        good.replace(".", ".."), "", ".", "..", "a.b.c", "é", "\udcff", "x" * 20_000,
    ):  # fmt: skip
        refused(verifier, wrong)


def test_nothing_that_is_no_json_object_gets_through(verifier):
    for head in ([], "x", None, 1, [[]] * 100):
        refused(verifier, f"{part(head)}.{part(claims())}.AAAA")
    refused(verifier, f"{base64.urlsafe_b64encode(b'[' * 10_000).decode().rstrip('=')}.e30.AAAA")
    for odd in ({"alg": ["RS256"]}, {"alg": None}, {"alg": "RS256", "kid": 1}, {"alg": "RS256", "kid": ["rsa"]}, {}):
        refused(verifier, by_hand(odd))


def test_a_token_without_a_key_id_is_checked_by_the_only_key_of_its_algorithm(make, file):
    assert make().verify(token(kid=None))
    both = [jwk(RSA.public_key(), "RS256", "one"), jwk(OTHER.public_key(), "RS256", "two")]
    file.write_text(json.dumps({"keys": both}))
    assert "not the issuer's" in refused(make(), token(kid=None))


@pytest.mark.parametrize(
    ("given", "settings", "scopes"),
    [
        ({"scope": "infer promote"}, {}, {"infer", "promote"}),
        ({"scope": None, "scp": ["infer", "load"]}, {}, {"infer", "load"}),
        ({"scope": "infer", "scp": "read"}, {}, {"infer", "read"}),
        ({"scope": None}, {}, set()),
        ({"scope": 7, "scp": [1, {"infer": 1}, None]}, {}, set()),
        ({"scope": "admin infer"}, {"scopes": {"admin": ("load", "promote")}}, {"load", "promote"}),
        ({"roles": ["ops"]}, {"claim": "roles", "scopes": {"ops": ("read",)}}, {"read"}),
        ({"realm": {"roles": ["infer"]}}, {"claim": "realm.roles"}, {"infer"}),
        ({"realm": "infer"}, {"claim": "realm.roles"}, set()),
        ({"scope": "promote", "roles": ["infer"]}, {"claim": "roles"}, {"infer"}),
    ],
)
def test_scopes_come_from_the_claims_that_are_named(make, given, settings, scopes):
    assert make(**settings).verify(token(**given)).scopes == scopes


def until(true, seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def verdict(verifier: TokenVerifier, given: str) -> str:
    try:
        verifier.verify(given)
    except (UnauthenticatedError, BusyError) as error:
        return error.what
    return "counts"


def test_a_remembered_token_ends_when_it_ends(make):
    verifier = make(leeway=0)
    given = token(exp=int(time.time()) + 2)
    assert verdict(verifier, given) == "counts"
    until(lambda: "expired" in verdict(verifier, given))


def test_memory_for_tokens_is_bounded(verifier):
    tokens = [token(ED, "EdDSA", "ed", jti=str(number)) for number in range(4200)]
    for given in tokens:
        verifier.verify(given)
    assert len(verifier._remembered) == 4096


def test_a_withdrawn_key_ends_the_tokens_that_are_remembered(verifier, file):
    given = token()
    assert verdict(verifier, given) == "counts"
    write_atomically(file, json.dumps({"keys": KEYS["keys"][1:]}).encode())
    until(lambda: "not the issuer's" in verdict(verifier, given))


def test_while_the_file_of_keys_is_damaged_no_token_counts(verifier, file, written):
    assert verdict(verifier, token()) == "counts"
    file.write_text("{")
    until(lambda: "has no keys" in verdict(verifier, token()))
    assert written.events[-1]["event"] == "token-keys-unreadable"


@pytest.mark.parametrize(
    "key",
    [
        {"kty": "oct", "k": base64.urlsafe_b64encode(b"x" * 32).decode(), "kid": "s", "alg": "HS256"},
        {"kty": "oct", "k": base64.urlsafe_b64encode(b"x" * 32).decode(), "kid": "s", "alg": "RS256"},
        jwk(RSA, "RS256", "private"),
        jwk(SHORT.public_key(), "RS256", "short"),
        jwk(RSA.public_key(), "RS256", "enc", use="enc"),
        jwk(RSA.public_key(), "RS256", "ops", key_ops=["encrypt"]),
        jwk(RSA.public_key(), "RS256", "hs", alg="HS256"),
        jwk(P384.public_key(), "ES384", "not allowed"),
        {**jwk(RSA.public_key(), "RS256", "odd"), "kid": 7},
        {"kty": "RSA", "n": "!", "e": "AQAB"},
        {"kty": ["RSA"]},
        {},
    ],
)
def test_keys_that_should_check_nothing_are_passed_over(key):
    allowed = ("RS256", "ES256", "EdDSA")
    with pytest.raises(InputError, match="No key"):
        parse_keys(json.dumps({"keys": [key]}).encode(), allowed)
    assert len(parse_keys(json.dumps({"keys": [key, KEYS["keys"][0], "x"]}).encode(), allowed).keys) == 1


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"keys": 7}', b"\xff", b"[" * 5000, b'{"keys": null}'])
def test_what_is_no_set_of_keys_is_told(data):
    with pytest.raises(InputError, match="no set of keys"):
        parse_keys(data, ("RS256",))


def shared(tmp_path: Path, secret: bytes) -> Path:
    path = tmp_path / "secret"
    path.write_bytes(secret + b"\n")
    return path


def test_a_shared_secret_counts_where_it_is_asked_for_and_public_keys_are_not(make, tmp_path):
    secret = os.urandom(48).hex().encode()
    verifier = make(jwks="", secret_file=shared(tmp_path, secret))
    assert verifier.verify(token(secret, "HS256", kid="whatever")).name == "token:ada"
    assert "does not fit" in refused(verifier, token(b"y" * 48, "HS256"))
    assert "does not count" in refused(verifier, token())
    assert "does not count" in refused(verifier, token(secret, "HS512"))


def test_a_short_secret_is_refused(make, tmp_path):
    with pytest.raises(InputError, match="32 bytes"):
        make(jwks="", secret_file=shared(tmp_path, b"x" * 31))


@pytest.mark.parametrize(
    "wrong",
    [
        {"issuer": ""}, {"audience": ()}, {"audience": ("",)}, {"algorithms": ("none",)}, {"algorithms": ("HS256",)},
        {"algorithms": ("RS256", "HS256")}, {"jwks": "http://id.example.org/k"}, {"jwks": "ftp://id.example.org/k"},
        {"issuer": "http://id.example.org", "jwks": ""}, {"secret_file": Path("s")},
        {"secret_file": Path("s"), "jwks": "", "algorithms": ("RS256",)},
    ],
)  # fmt: skip
def test_an_issuer_that_would_be_unsafe_is_refused(wrong):
    spec = IssuerSpec(**{"issuer": ISSUER, "audience": ("runner",), "jwks": "keys.json", **wrong})
    with pytest.raises(InputError):
        spec.check()


def of(issuer, **more: Any) -> IssuerSpec:
    given = {
        "issuer": issuer.url, "audience": ("runner",), "jwks": f"{issuer.url}/keys", "refresh_seconds": 60.0,
        "cooldown_seconds": 0.1, **more,
    }  # fmt: skip
    spec = IssuerSpec(**given)
    spec.check()
    return spec


def test_an_issuer_is_discovered(issuer, written):
    issuer.documents = {
        "/.well-known/openid-configuration": {"issuer": issuer.url, "jwks_uri": f"{issuer.url}/jwks"},
        "/jwks": KEYS,
    }
    spec = of(issuer, jwks="")
    verifier = TokenVerifier(spec, source_of(spec, written.log))
    assert verifier.verify(token(iss=issuer.url)).name == "token:ada"
    verifier.close()
    assert issuer.asked == ["/.well-known/openid-configuration", "/jwks"]


def test_another_issuers_configuration_does_not_count(issuer):
    issuer.documents = {"/.well-known/openid-configuration": {"issuer": "https://x", "jwks_uri": f"{issuer.url}/k"}}
    with pytest.raises(Exception, match="another issuer"):
        fetch_keys(of(issuer, jwks=""))
    for url in ("http://id.example.org/k", "file:///etc/passwd"):
        issuer.documents = {"/.well-known/openid-configuration": {"issuer": issuer.url, "jwks_uri": url}}
        with pytest.raises(InputError, match="https alone"):
            fetch_keys(of(issuer, jwks=""))


def test_a_redirect_is_not_followed(issuer):
    issuer.documents = {"/keys": "/elsewhere", "/elsewhere": KEYS}
    with pytest.raises(Exception, match="does not answer"):
        fetch_keys(of(issuer))
    assert issuer.asked == ["/keys"]


def test_a_new_key_is_fetched_soon_after_a_token_names_it_and_not_while_the_token_waits(issuer, written):
    issuer.documents["/keys"] = {"keys": KEYS["keys"][:1]}
    spec = of(issuer)
    verifier = TokenVerifier(spec, source_of(spec, written.log))
    assert verifier.verify(token(iss=issuer.url))
    issuer.documents["/keys"] = KEYS
    rotated = token(P256, "ES256", "ec", iss=issuer.url)
    started = time.perf_counter()
    refused(verifier, rotated)
    assert time.perf_counter() - started < 0.05
    until(lambda: verdict(verifier, rotated) == "counts")
    verifier.close()


def test_however_many_unknown_keys_are_named_the_issuer_is_asked_seldom(issuer, written):
    issuer.documents["/keys"] = KEYS
    spec = of(issuer, cooldown_seconds=0.5)
    verifier = TokenVerifier(spec, source_of(spec, written.log))
    verifier.verify(token(iss=issuer.url))
    started = time.monotonic()
    for number in range(500):
        refused(verifier, by_hand({"alg": "RS256", "kid": f"k{number}"}))
    assert len(issuer.asked) <= 2 + (time.monotonic() - started) / 0.5
    verifier.close()


def test_while_the_issuer_is_down_its_keys_count_for_the_stated_time_and_no_longer(issuer, written):
    issuer.documents["/keys"] = KEYS
    spec = of(issuer, refresh_seconds=0.2, stale_seconds=1.0)
    verifier = TokenVerifier(spec, source_of(spec, written.log))
    given = token(iss=issuer.url)
    assert verifier.verify(given)
    issuer.up = False
    asked = len(issuer.asked)
    until(lambda: len(issuer.asked) >= asked + 2)
    assert verifier.verify(given)
    until(lambda: "has no keys" in verdict(verifier, given))
    issuer.up = True
    until(lambda: verdict(verifier, given) == "counts")
    verifier.close()
    assert any(e["event"] == "token-keys-not-fetched" and e["known"] for e in written.events)
    assert given not in written.text


def test_before_the_first_keys_no_token_counts_and_the_start_goes_on(issuer, written):
    issuer.up = False
    spec = of(issuer)
    source = source_of(spec, written.log)
    assert isinstance(source, FetchedKeys)
    with pytest.raises(BusyError):
        TokenVerifier(spec, source).verify(token(iss=issuer.url))
    source.close()
