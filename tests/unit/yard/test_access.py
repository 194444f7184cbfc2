from __future__ import annotations

from pathlib import Path

import pytest

from modelyard.config import Settings, load_settings
from modelyard.errors import SettingsError
from modelyard.serving.auth.spec import SCOPES, AuthSpec, IssuerSpec, TlsSpec
from modelyard.yard.access import access_of, key_file, scopes_of

HOME = Path("/project")


def test_by_default_nobody_is_asked_and_nothing_is_encrypted():
    assert access_of(Settings(), HOME) == {
        "auth": None, "tls": None, "behind_proxy": False, "hosts": (), "anonymous": SCOPES,
    }  # fmt: skip


def test_paths_count_from_the_project_folder_and_urls_stay():
    found = access_of(
        Settings(
            serve_keys="keys.json", serve_issuer="https://id", serve_audience="a, b", serve_jwks="jwks.json",
            serve_tls_certificate="c.pem", serve_tls_key="/etc/k.pem", serve_tls_client_ca="ca.pem",
            serve_tls_minimum="1.3",
        ),
        HOME,
    )  # fmt: skip
    issuer = IssuerSpec(issuer="https://id", audience=("a", "b"), jwks="/project/jwks.json")
    assert found["auth"] == AuthSpec(keys=HOME / "keys.json", issuer=issuer)
    assert found["tls"] == TlsSpec(
        certificate=HOME / "c.pem", key=Path("/etc/k.pem"), client_ca=HOME / "ca.pem", minimum="1.3"
    )
    url = access_of(Settings(serve_issuer="https://id", serve_jwks="https://id/k"), HOME)["auth"].issuer.jwks
    assert url == "https://id/k"
    assert access_of(Settings(serve_issuer="https://id"), HOME)["auth"].issuer.jwks == ""


def test_texts_become_scopes_algorithms_and_hosts():
    found = access_of(
        Settings(
            serve_issuer="https://id", serve_algorithms="RS256,ES256", serve_token_claim="realm.roles",
            serve_token_scopes="ml.user = infer read; a=b = load;", serve_anonymous="infer",
            serve_hosts="a.test b.test",
        ),
        HOME,
    )  # fmt: skip
    issuer = found["auth"].issuer
    assert issuer.algorithms == ("RS256", "ES256")
    assert issuer.claim == "realm.roles"
    assert issuer.scopes == {"ml.user": ("infer", "read"), "a=b": ("load",)}
    assert found["anonymous"] == ("infer",)
    assert found["hosts"] == ("a.test", "b.test")


@pytest.mark.parametrize(
    "given",
    [
        {"serve_anonymous": "admin"},
        {"serve_audience": "a"},
        {"serve_jwks": "k"},
        {"serve_tls_key": "k"},
        {"serve_tls_client_ca": "k"},
        {"serve_issuer": "https://id", "serve_token_scopes": "ml.user"},
        {"serve_issuer": "https://id", "serve_token_scopes": "ml.user="},
        {"serve_issuer": "https://id", "serve_token_scopes": "ml.user=root"},
    ],
)
def test_settings_that_would_open_or_check_nothing_are_refused(given):
    with pytest.raises(SettingsError):
        access_of(Settings(**given), HOME)


def test_a_file_of_keys_must_be_named(tmp_path):
    with pytest.raises(SettingsError, match="serve_keys"):
        key_file(Settings(), tmp_path)
    assert key_file(Settings(serve_keys="k"), tmp_path).path == tmp_path / "k"
    assert scopes_of("read, infer read", "x") == ("read", "infer")


def test_switches_are_read_from_variables(tmp_path, monkeypatch):
    monkeypatch.setenv("MODELYARD_SERVE_BEHIND_PROXY", "true")
    monkeypatch.setenv("MODELYARD_SERVE_TLS_MINIMUM", "1.3")
    settings = load_settings(tmp_path)
    assert settings.serve_behind_proxy is True
    assert settings.serve_tls_minimum == "1.3"
