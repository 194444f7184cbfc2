"""Asks a server which version of a file it has, without reading the file; imported when a blueprint names a URL."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

import fsspec

from modelyard.files import blake3_bytes, canonical_json

__all__ = ["url_digest"]

PATIENCE_SECONDS = 5.0

_VERSION_KEYS = (
    "ETag",
    "etag",
    "md5Hash",
    "Content-MD5",
    "content_md5",
    "generation",
    "VersionId",
    "version_id",
    "ino",
)
_TIME_KEYS = ("LastModified", "Last-Modified", "last_modified", "mtime", "modificationTime", "modified", "created")


def url_digest(url: str) -> str | None:
    """Return a digest that changes when a URL's content does, or None where its server tells nothing of the kind.

    For HTTP it comes from a HEAD request: the ETag (RFC 9110, section 8.8.3), else length and Last-Modified; for other
    schemes from what fsspec says of the file.
    """
    try:
        facts = _http_facts(url) if url.startswith(("http://", "https://")) else _fsspec_facts(url)
    except (OSError, ValueError, ImportError):
        # A server that does not answer now: the step will say so better, or find it answering again.
        return None
    return blake3_bytes(canonical_json({"url": url, **facts})) if facts else None


def _http_facts(url: str) -> dict[str, str]:
    request = urllib.request.Request(url, method="HEAD")  # noqa: S310  (the caller has checked the scheme)
    # The caller has checked the scheme.
    with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as answer:  # noqa: S310
        headers: Mapping[str, str] = answer.headers
        if headers.get("ETag"):
            return {"etag": headers["ETag"]}
        if headers.get("Last-Modified") and headers.get("Content-Length"):
            return {"modified": headers["Last-Modified"], "length": headers["Content-Length"]}
    return {}


def _fsspec_facts(url: str) -> dict[str, str]:
    files, path = fsspec.core.url_to_fs(url)
    info: Mapping[str, Any] = files.info(path)
    facts = {key: str(info[key]) for key in _VERSION_KEYS if info.get(key)}
    times = {key: str(info[key]) for key in _TIME_KEYS if info.get(key)}
    # A time alone is coarse; with the size it is what every make-like tool relies on.
    return {**facts, **times, "size": str(info.get("size"))} if facts or times else {}
