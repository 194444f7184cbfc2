from __future__ import annotations

import pytest

from modelyard.errors import ForbiddenError
from modelyard.serving.auth.loopback import LoopbackGuard, host_of, is_foreign, is_loopback, is_safe_url


@pytest.mark.parametrize(
    ("host", "own"),
    [
        ("127.0.0.1", True), ("127.8.9.1", True), ("::1", True), ("localhost", True), ("LocalHost.", True),
        ("a.localhost", True), ("0.0.0.0", False), ("::", False), ("10.0.0.1", False), ("localhost.evil.com", False),
        ("127.0.0.1.nip.io", False), ("evil-localhost", False), ("", False), ("2130706433", False), ("0x7f.1", False),
    ],
)  # fmt: skip
def test_loopback_is_this_machine_alone(host, own):
    assert is_loopback(host) is own


@pytest.mark.parametrize(
    ("url", "safe"),
    [
        ("https://id.example.org/keys", True), ("http://127.0.0.1:8080/keys", True), ("http://[::1]/keys", True),
        ("http://id.example.org/keys", False), ("ftp://localhost/", False), ("file:///etc/passwd", False),
        ("https://", False), ("", False), ("http://127.0.0.1@evil.com/", False), ("http://[", False),
    ],
)  # fmt: skip
def test_keys_come_over_https_or_from_this_machine(url, safe):
    assert is_safe_url(url) is safe


@pytest.mark.parametrize(
    ("authority", "host"),
    [
        ("localhost", "localhost"), ("LOCALHOST:80", "localhost"), ("[::1]:80", "::1"), ("127.0.0.1", "127.0.0.1"),
        ("a@localhost", None), ("localhost/x", None), ("localhost:x", None), ("localhost:99999", None), ("", None),
        ("[::1", None), ("localhost?x", None), ("localhost#x", None),
        ("[::1]evil", None), ("[::1].evil.com:80", None), ("evil[::1]", None),
    ],
)  # fmt: skip
def test_a_host_header_holds_one_host(authority, host):
    assert host_of(authority) == host


GUARD = LoopbackGuard(["Models.example.org"])


@pytest.mark.parametrize(
    "host",
    [None, "127.0.0.1", "127.0.0.1:8000", "localhost:1", "[::1]:8000", "models.example.org", "MODELS.example.org:443"],
)
def test_our_own_names_pass(host):
    for _ in range(2):
        GUARD.check(host, None, None)


@pytest.mark.parametrize(
    "host", ["evil.com", "evil.com:8000", "127.0.0.1.evil.com", "10.0.0.1", "x", "", "localhost@evil.com", "[::1"]
)
def test_a_name_that_was_rebound_to_this_machine_is_refused(host):
    for _ in range(2):
        with pytest.raises(ForbiddenError):
            GUARD.check(host, None, None)


@pytest.mark.parametrize(
    ("origin", "site"),
    [
        ("http://localhost:8000", None), ("http://localhost:8000", "same-origin"), (None, "none"),
        (None, "same-origin"), ("https://models.example.org", None),
    ],
)  # fmt: skip
def test_pages_of_our_own_pass(origin, site):
    GUARD.check("localhost:8000", origin, site)


@pytest.mark.parametrize(
    ("origin", "site"),
    [
        ("http://evil.com", None), ("null", None), ("http://localhost:3000", None), ("http://127.0.0.1:8000", None),
        (None, "cross-site"), (None, "same-site"), (None, "Cross-Site"), ("http://localhost:8000", "cross-site"),
        ("file://", None), ("", None), ("http://[", None), ("http://localhost", None), ("chrome-extension://abc", None),
        ("http://localhost:8000.evil.com", None), ("http://localhost:99999", None),
    ],
)  # fmt: skip
def test_pages_of_other_origins_are_refused(origin, site):
    assert is_foreign("localhost:8000", origin, site)
    with pytest.raises(ForbiddenError):
        GUARD.check("localhost:8000", origin, site)


def test_invented_hosts_do_not_fill_the_memory():
    guard = LoopbackGuard()
    for number in range(1000):
        guard.check(f"{number}.localhost", None, None)
    assert len(guard.known) <= 64
