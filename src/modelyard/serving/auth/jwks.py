"""An issuer's public keys (RFC 7517): read from a file, or fetched by a thread, and never on a request's way."""

from __future__ import annotations

import os
import threading
import time
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from modelyard.errors import InputError, IntegrityError, ModelyardError, StorageError
from modelyard.serving.auth.loopback import host_of, is_loopback, is_safe_url
from modelyard.serving.auth.spec import IssuerSpec
from modelyard.serving.logs import Log

__all__ = ["FetchedKeys", "FileKeys", "KeySet", "KeySource", "VerificationKey", "fetch_keys", "parse_keys"]

LARGEST_DOCUMENT = 1024 * 1024
FETCH_SECONDS = 5.0
LOOK_SECONDS = 0.5
SMALLEST_RSA = 2048

_RSA = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
_FITS: dict[tuple[str, str], tuple[str, ...]] = {
    ("EC", "P-256"): ("ES256",),
    ("EC", "P-384"): ("ES384",),
    ("EC", "P-521"): ("ES512",),
    ("OKP", "Ed25519"): ("EdDSA",),
}


@dataclass(frozen=True, slots=True)
class VerificationKey:
    """A key, and the signatures that it may check: what a token says of its algorithm never chooses how it is used."""

    kid: str | None
    algorithms: frozenset[str]
    key: Any


class KeySet:
    """The keys that count at a moment.

    Args:
        keys: In the issuer's order.
    """

    def __init__(self, keys: Iterable[VerificationKey]) -> None:
        self.keys = tuple(keys)
        self.kids = frozenset(key.kid for key in self.keys)

    def find(self, kid: str | None, algorithm: str) -> VerificationKey | None:
        """Return the key of that id which may check that algorithm; a token without an id takes the only one."""
        fit = [key for key in self.keys if algorithm in key.algorithms and (kid is None or key.kid == kid)]
        return fit[0] if len(fit) == 1 or (fit and kid is not None) else None


class KeySource(Protocol):
    """Where keys come from."""

    def current(self) -> KeySet | None:
        """Return what counts now, at once; None while nothing is known."""

    def missed(self) -> None:
        """Tell that a token named a key that is not there."""

    def close(self) -> None:
        """Stop looking for newer keys."""


def parse_keys(data: bytes, allowed: Iterable[str]) -> KeySet:
    """Return the keys of a document that can check an allowed signature; what else it holds is passed over.

    Shared secrets, private keys, keys for encryption and short RSA keys never count.

    Raises:
        InputError: It is no set of keys, or none of them counts.
    """
    try:
        found = msgspec.json.decode(data)["keys"]
        candidates = [key for key in found if isinstance(key, dict)]
    except (msgspec.MsgspecError, UnicodeDecodeError, LookupError, TypeError, RecursionError):
        raise InputError("This is no set of keys (RFC 7517).", remedy="It is an object with `keys`.") from None
    keys = [key for jwk in candidates if (key := _key(jwk, frozenset(allowed))) is not None]
    if not keys:
        raise InputError(
            "No key of this set can check an allowed signature.", remedy=f"Allowed are {', '.join(allowed)}."
        )
    return KeySet(keys)


def _key(jwk: Mapping[str, Any], allowed: frozenset[str]) -> VerificationKey | None:
    fits = _RSA if jwk.get("kty") == "RSA" else _FITS.get((str(jwk.get("kty")), str(jwk.get("crv"))), ())
    algorithms = allowed.intersection(fits if "alg" not in jwk else [name for name in fits if name == jwk["alg"]])
    operations = jwk.get("key_ops")
    kid = jwk.get("kid")
    for_signing = jwk.get("use", "sig") == "sig" and (not isinstance(operations, list) or "verify" in operations)
    if not algorithms or not for_signing or "d" in jwk or not isinstance(kid, str | None):
        return None
    try:
        key = jwt.PyJWK(dict(jwk), algorithm=min(algorithms)).key
    except jwt.PyJWTError:
        return None
    if isinstance(key, RSAPublicKey) and key.key_size < SMALLEST_RSA:
        return None
    return VerificationKey(kid, algorithms, key)


class FileKeys:
    """Keys from a file, read again when it is another; while it can't be read, no key counts.

    Args:
        path: The file.
        allowed: Signatures that count.
        log: Told why the file does not count.
    """

    def __init__(self, path: Path, allowed: tuple[str, ...], log: Log) -> None:
        self._path = path
        self._allowed = allowed
        self._log = log
        self._lock = threading.Lock()
        self._stamp: tuple[int, ...] | None = None
        self._next_look = 0.0
        self._keys: KeySet | None = None
        self._trouble = ""

    def current(self) -> KeySet | None:
        """Return what the file says; None where it can't be read."""
        if time.monotonic() >= self._next_look:
            with self._lock:
                self._next_look = time.monotonic() + LOOK_SECONDS
                try:
                    self.read()
                    self._trouble = ""
                except ModelyardError as error:
                    if self._trouble != str(error):
                        self._log.error("token-keys-unreadable", reason=str(error))
                    self._keys, self._stamp, self._trouble = None, None, str(error)
        return self._keys

    def missed(self) -> None:
        """Do nothing: the file is looked at anyway."""

    def close(self) -> None:
        """Do nothing."""

    def read(self) -> None:
        """Read the file, if it is another than before.

        Raises:
            StorageError: It can't be read.
            InputError: It holds no key that counts.
        """
        try:
            with self._path.open("rb") as file:
                found = os.fstat(file.fileno())
                stamp = found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
                if stamp == self._stamp:
                    return
                data = file.read(LARGEST_DOCUMENT)
        except OSError as error:
            raise StorageError(
                f"The issuer's keys can't be read: {error.strerror}.", where=str(self._path), remedy="See serve_jwks."
            ) from error
        try:
            self._keys, self._stamp = parse_keys(data, self._allowed), stamp
        except InputError as error:
            raise InputError(error.what, where=str(self._path), remedy=error.remedy) from error


class FetchedKeys:
    """Keys that a thread fetches: at the start, every so often, and soon after a token named one that is not there.

    Args:
        fetch: Returns the keys; it may take seconds and fail.
        spec: How often, how long they count when it fails, and the least time between two tries.
        log: Told of failures.
    """

    def __init__(self, fetch: Callable[[], KeySet], spec: IssuerSpec, log: Log) -> None:
        self._fetch = fetch
        self._spec = spec
        self._log = log
        self._keys: KeySet | None = None
        self._until = 0.0
        self._tried = threading.Event()
        self._wanted = threading.Event()
        self._closed = threading.Event()
        threading.Thread(target=self._run, name="token-keys", daemon=True).start()

    def current(self) -> KeySet | None:
        """Return the keys that were fetched last; None before the first, and when they are too old to count."""
        return self._keys if time.monotonic() < self._until else None

    def missed(self) -> None:
        """Have the keys fetched soon; how often that happens does not depend on how often this is called."""
        self._wanted.set()

    def wait(self, seconds: float) -> bool:
        """Wait for the first try to end; say whether there are keys."""
        self._tried.wait(seconds)
        return self.current() is not None

    def close(self) -> None:
        """Fetch no more."""
        self._closed.set()
        self._wanted.set()

    def _run(self) -> None:
        while not self._closed.is_set():
            self._wanted.clear()
            pause = self._spec.refresh_seconds
            try:
                self._keys = self._fetch()
                self._until = time.monotonic() + self._spec.stale_seconds
            except Exception as error:
                self._log.warning("token-keys-not-fetched", reason=str(error)[:300], known=self.current() is not None)
                pause = self._spec.cooldown_seconds
            self._tried.set()
            if self._closed.wait(self._spec.cooldown_seconds):
                return
            self._wanted.wait(max(pause - self._spec.cooldown_seconds, 0.0))


def fetch_keys(spec: IssuerSpec) -> KeySet:
    """Fetch an issuer's keys from where it says, or where OpenID Connect Discovery 1.0 finds them.

    Raises:
        InputError: What is found there is no set of keys, or another issuer's.
        StorageError: It does not answer.
    """
    url = spec.jwks
    if not url:
        place = f"{spec.issuer.rstrip('/')}/.well-known/openid-configuration"
        try:
            found = msgspec.json.decode(_get(place))
            issuer, url = found["issuer"], found["jwks_uri"]
        except (msgspec.MsgspecError, UnicodeDecodeError, LookupError, TypeError, RecursionError):
            raise InputError("This is no OpenID configuration.", where=place, remedy="Set serve_jwks.") from None
        if issuer != spec.issuer or not isinstance(url, str):
            raise IntegrityError("This is another issuer's configuration.", where=place, remedy="See serve_issuer.")
    try:
        return parse_keys(_get(url), spec.allowed)
    except InputError as error:
        raise InputError(error.what, where=url, remedy=error.remedy) from error


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """An issuer is where it says it is."""

    def redirect_request(self, *_: Any) -> None:
        """Follow nothing."""


def _get(url: str) -> bytes:
    if not is_safe_url(url):
        raise InputError("Keys are fetched over https alone, or over http from this machine.", where=url)
    request = urllib.request.Request(url, headers={"Accept": "application/json"})  # noqa: S310  (the scheme is checked)
    handlers: list[urllib.request.BaseHandler] = [_NoRedirect()]
    if is_loopback(host_of(request.host) or ""):
        handlers.append(urllib.request.ProxyHandler({}))
    try:
        with urllib.request.build_opener(*handlers).open(request, timeout=FETCH_SECONDS) as response:
            data: bytes = response.read(LARGEST_DOCUMENT + 1)
    except (OSError, ValueError) as error:
        raise StorageError(f"The issuer does not answer: {error}.", where=url) from error
    if len(data) > LARGEST_DOCUMENT:
        raise InputError("This is too long for a set of keys.", where=url)
    return data
