from __future__ import annotations

import json
import time

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from jwt.algorithms import OKPAlgorithm

from modelyard.errors import ForbiddenError, InputError, UnauthenticatedError
from modelyard.serving.auth.guard import PUBLIC, Guard, guard_of
from modelyard.serving.auth.keys import KeyFile
from modelyard.serving.auth.principal import Principal
from modelyard.serving.auth.spec import SCOPES, AuthSpec, IssuerSpec

PRIVATE = ed25519.Ed25519PrivateKey.generate()


@pytest.fixture
def keys(tmp_path):
    return KeyFile(tmp_path / "keys.json")


@pytest.fixture
def guard(keys, tmp_path, written):
    (tmp_path / "jwks.json").write_text(json.dumps({"keys": [OKPAlgorithm.to_jwk(PRIVATE.public_key(), as_dict=True)]}))
    issuer = IssuerSpec(issuer="https://id", audience=("runner",), jwks=str(tmp_path / "jwks.json"))
    return guard_of(AuthSpec(keys=keys.path, issuer=issuer), written.log)


def token(scope: str) -> str:
    claims = {"iss": "https://id", "aud": "runner", "sub": "ada", "exp": int(time.time()) + 60, "scope": scope}
    return jwt.encode(claims, PRIVATE, "EdDSA")


def test_a_key_is_taken_from_either_header_and_a_token_from_one(guard, keys):
    key, record = keys.add(["infer"])
    for found in (
        guard.check(f"Bearer {key}", None, "infer", "m"),
        guard.check(f"bearer  {key}", None, "infer", "m"),
        guard.check(None, key, "infer", "m"),
    ):
        assert found.name == f"key:{record.id}"
    assert guard.check(f"Bearer {token('infer')}", None, "infer", "m").name == "token:ada"
    with pytest.raises(UnauthenticatedError):
        guard.check(None, token("infer"), "infer", "m")


@pytest.mark.parametrize("scope", SCOPES)
def test_without_credentials_everything_but_health_is_refused(guard, scope):
    with pytest.raises(UnauthenticatedError) as raised:
        guard.check(None, None, scope, "m")
    assert raised.value.challenge == 'Bearer realm="modelyard"'
    assert guard.check(None, None, PUBLIC).scopes == frozenset()


@pytest.mark.parametrize(
    ("authorization", "api_key"),
    [
        ("", None), ("Bearer", None), ("Bearer ", None), ("Basic YTpi", None), (None, ""), (None, "x"),
        ("Bearer myk_a_b", None), ("Bearer myk_abc_" + "A" * 43, None), ("Bearer a.b.c", None), ("é", None),
        ("Digest x", None), (None, "Bearer x"), ("Bearer \udcff", None), (None, "\udcff"),
    ],
)  # fmt: skip
def test_wrong_credentials_are_refused(guard, authorization, api_key):
    with pytest.raises(UnauthenticatedError) as raised:
        guard.check(authorization, api_key, "infer", "m")
    assert raised.value.challenge.startswith('Bearer realm="modelyard"')


def test_two_credentials_are_one_too_many(guard, keys):
    key, _ = keys.add(["infer"])
    with pytest.raises(UnauthenticatedError, match="two"):
        guard.check(f"Bearer {key}", key, "infer", "m")


@pytest.mark.parametrize("scope", SCOPES)
def test_each_scope_opens_its_own_routes_alone_and_the_refusal_names_what_is_missing(guard, keys, scope):
    key, _ = keys.add([scope])
    for credentials in ((None, key), (f"Bearer {token(scope)}", None)):
        for wanted in SCOPES:
            if wanted == scope:
                assert guard.check(*credentials, wanted, "m")
                continue
            with pytest.raises(ForbiddenError, match=repr(wanted)) as raised:
                guard.check(*credentials, wanted, "m")
            assert f'error="insufficient_scope", scope="{wanted}"' in raised.value.challenge


def test_a_key_for_some_models_is_for_no_others_and_not_for_all_at_once(guard, keys):
    key, _ = keys.add(["infer"], models=["fraud-*", "churn"])
    for own in ("fraud-", "fraud-eu", "churn"):
        assert guard.check(None, key, "infer", own)
    for other in ("fraud", "Fraud-eu", "churn2", "xfraud-eu", "churn\n", "", None):
        with pytest.raises(ForbiddenError):
            guard.check(None, key, "infer", other)


def test_a_glob_never_becomes_a_regular_expression():
    assert Principal("x", frozenset({"read"}), ("a.c", "[")).require("read", "[") is None
    with pytest.raises(ForbiddenError):
        Principal("x", frozenset({"read"}), ("a.c",)).require("read", "abc")
    with pytest.raises(ForbiddenError):
        Principal("x", frozenset({"read"}), ()).require("read", "abc")


def test_where_credentials_are_asked_for_the_host_does_not_matter(guard):
    guard.admit("models.example.org", "https://elsewhere.example.org", "cross-site")


def test_without_authentication_everybody_is_anybody_and_web_pages_are_kept_out(written):
    guard = guard_of(None, written.log, hosts=("models.test",))
    assert guard.open
    assert guard.check(None, None, "promote", "m").name == "anybody"
    assert guard.check("Bearer nonsense", None, "promote").name == "anybody"
    guard.admit("localhost", None, None)
    guard.admit("models.test", None, None)
    with pytest.raises(ForbiddenError):
        guard.admit("evil.com", None, None)
    with pytest.raises(ForbiddenError):
        guard.admit("localhost", "https://evil.com", "cross-site")


def test_what_anybody_may_do_can_be_less(written):
    guard = guard_of(None, written.log, anonymous=("infer",))
    assert guard.check(None, None, "infer")
    with pytest.raises(ForbiddenError, match="'load'"):
        guard.check(None, None, "load")


def test_authentication_that_nobody_could_pass_is_refused():
    with pytest.raises(InputError):
        AuthSpec().check()


def test_a_guard_with_keys_alone_takes_no_tokens(keys, written):
    guard = guard_of(AuthSpec(keys=keys.path), written.log)
    with pytest.raises(UnauthenticatedError):
        guard.check(f"Bearer {token('infer')}", None, "infer")
    assert not Guard(tokens=guard).open


def denied(guard, credential: str, scope: str) -> UnauthenticatedError | ForbiddenError | None:
    try:
        guard.check(f"Bearer {credential}", None, scope, "m")
    except (UnauthenticatedError, ForbiddenError) as error:
        return error
    return None


def test_credentials_are_in_no_error_and_no_log(guard, keys, written):
    key, _ = keys.add(["infer"])
    for credential in (key, key[:-1] + "_", token("infer"), token("infer")[:-6] + "AAAAAA"):
        for scope in ("infer", "load"):
            error = denied(guard, credential, scope)
            assert error is None or credential[-20:] not in f"{error!r} {error} {error.challenge}"
    assert key[-43:] not in written.text
