"""Who is on this machine, and which requests a browser sends here for somebody else's page.

A service without authentication listens on loopback alone. That keeps other machines out, and not the web: a page may
have the browser post to `http://127.0.0.1` (cross-site request forgery), or have its own name resolve to 127.0.0.1 and
then read the answers too (DNS rebinding). Browsers tell both by headers that a page can't set.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from urllib.parse import urlsplit

from modelyard.errors import ForbiddenError

__all__ = ["LoopbackGuard", "host_of", "is_foreign", "is_loopback", "is_safe_url"]

_REMEMBERED = 64
_OWN = ("", "same-origin", "none")
_AUTHORITY = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[^\[\]]+?)(?::[0-9]*)?")
"""`urlsplit` takes what follows a bracket for nothing."""


def is_loopback(host: str) -> bool:
    """Say whether a name or address means this machine alone: 127.0.0.0/8, ::1, `localhost` (RFC 6761, 6.3)."""
    name = host.lower().rstrip(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def is_safe_url(url: str) -> bool:
    """Say whether what is fetched there can't be changed on its way: https, or http on this machine."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        return False
    return bool(host) and (parts.scheme == "https" or (parts.scheme == "http" and is_loopback(host)))


def host_of(authority: str) -> str | None:
    """Return the host of a `Host` header in lower case, without port and brackets; None where it is malformed."""
    if _AUTHORITY.fullmatch(authority) is None:
        return None
    try:
        parts = urlsplit(f"//{authority}")
        _ = parts.port
    except ValueError:
        return None
    if parts.netloc != authority or "@" in authority:
        return None
    return parts.hostname


def is_foreign(authority: str | None, origin: str | None, fetch_site: str | None, hosts: Iterable[str] = ()) -> bool:
    """Say whether a request comes from a web page of another origin.

    Args:
        authority: The `Host` header.
        origin: The `Origin` header (RFC 6454, 7), or None. Browsers send it with all but plain navigation.
        fetch_site: The `Sec-Fetch-Site` header (Fetch Metadata), or None.
        hosts: Names of our own besides the one asked for.
    """
    if (fetch_site or "").lower() not in _OWN:
        return True
    if origin is None:
        return False
    try:
        given = urlsplit(origin)
        asked = urlsplit(f"//{authority or ''}")
        default = {"http": 80, "https": 443}.get(given.scheme)
        same = (given.hostname, given.port or default) == (asked.hostname, asked.port or default)
    except ValueError:
        return True
    return default is None or not given.hostname or not (same or given.hostname in hosts)


class LoopbackGuard:
    """Refuses what a browser sends for somebody else's page, where nothing else would.

    Args:
        hosts: Names besides loopback's that the service is called by, such as what a proxy in front puts into `Host`.
    """

    def __init__(self, hosts: Iterable[str] = ()) -> None:
        self._hosts = frozenset(host.lower() for host in hosts)
        self.known: set[str | None] = {None}  # HTTP/1.0 has no Host, and no browser speaks it
        """Hosts that have been found to be ours."""

    def check(self, host: str | None, origin: str | None, fetch_site: str | None) -> None:
        """Let a request pass, or refuse it.

        Args:
            host: The `Host` header, or HTTP/2's `:authority`; None where there is none.
            origin: The `Origin` header, or None.
            fetch_site: The `Sec-Fetch-Site` header, or None.

        Raises:
            ForbiddenError: The host is no name of this machine, or another origin's page sent it.
        """
        if host not in self.known:
            name = host_of(host or "")
            if name is None or not (is_loopback(name) or name in self._hosts):
                raise ForbiddenError(
                    "The Host header is no name of this service.",
                    remedy="Ask for 127.0.0.1 or localhost, or name the host in serve_hosts.",
                )
            if len(self.known) < _REMEMBERED:
                self.known.add(host)
        if (origin is not None or fetch_site is not None) and is_foreign(host, origin, fetch_site, self._hosts):
            raise ForbiddenError(
                "A web page of another origin sent this.",
                remedy="Ask from the service's own origin, or from a program that is no browser.",
            )
