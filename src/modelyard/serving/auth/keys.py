"""API keys: random secrets, shown once, kept as digests in a file that running services watch.

A key is `myk_<id>_<secret>`, its secret 32 bytes from the operating system. The file keeps the SHA-256 of the whole
key. A slow digest (scrypt, Argon2) protects what people can remember, because such secrets can be guessed; nobody
guesses 256 random bits, whether a try costs a microsecond or a second, and a service must check thousands each second.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import hmac
import os
import secrets
import stat
import threading
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from modelyard.errors import BusyError, InputError, IntegrityError, NotFoundError, StorageError
from modelyard.files import storage_errors, write_atomically
from modelyard.serving.auth.principal import Principal
from modelyard.serving.auth.spec import SCOPES, Scope
from modelyard.serving.logs import Log

__all__ = ["PREFIX", "KeyFile", "KeyRecord", "KeyRing"]

PREFIX = "myk_"
SECRET_LENGTH = 43
"""32 bytes in unpadded base64url."""

LOOK_SECONDS = 0.5
"""How often a service looks whether the file is another: a revocation takes effect within this time."""

_ID_ALPHABET = "abcdefghijkmnpqrstuvwxyz23456789"
_ID_LENGTH = 10
_MODE = 0o600

Moment = Annotated[datetime, Meta(tz=True)]


class KeyRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What the file keeps of a key; the secret is not in it.

    Args:
        id: The part of the key that may be shown and logged.
        hash: SHA-256 of the whole key, as 64 hexadecimal digits.
        scopes: What it allows.
        models: Globs of the models that it is for.
        created: When it was made.
        expires: When it ends by itself, or None.
        revoked: When it was ended, or None.
        note: For people: who has it, what for.
    """

    id: Annotated[str, Meta(pattern=r"\A[a-z0-9]{1,40}\Z")]
    hash: Annotated[str, Meta(pattern=r"\A[0-9a-f]{64}\Z")]
    scopes: tuple[Scope, ...]
    models: tuple[str, ...] = ("*",)
    created: Moment
    expires: Moment | None = None
    revoked: Moment | None = None
    note: str = ""

    def state(self, now: datetime) -> str:
        """Return `revoked`, `expired` or `active`."""
        if self.revoked is not None:
            return "revoked"
        return "expired" if self.expires is not None and self.expires <= now else "active"

    def principal(self) -> Principal:
        """Return whom the key stands for."""
        expires = float("inf") if self.expires is None else self.expires.timestamp()
        return Principal(f"key:{self.id}", frozenset(self.scopes), self.models, expires)


class _Document(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The file."""

    version: Annotated[int, Meta(ge=1, le=1)] = 1
    keys: tuple[KeyRecord, ...] = ()


class KeyFile:
    """The file of keys, for whoever makes and revokes them.

    Args:
        path: It need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def all(self) -> tuple[KeyRecord, ...]:
        """Return every key that was ever made, in that order.

        Raises:
            IntegrityError: Something else wrote the file, or others may write it.
            StorageError: It can't be read.
        """
        found = _read(self.path)
        return () if found is None else found[0]

    def add(
        self,
        scopes: Sequence[Scope],
        *,
        models: Sequence[str] = ("*",),
        expires: datetime | None = None,
        note: str = "",
    ) -> tuple[str, KeyRecord]:
        """Make a key; return it, for the only time, and its record.

        Args:
            scopes: What it allows; at least one.
            models: Globs of the models that it is for.
            expires: When it ends by itself; None: never.
            note: For people.

        Raises:
            InputError: No or unknown scopes, no or empty globs, or an end in the past.
            IntegrityError: Something else wrote the file.
            StorageError: It can't be written.
        """
        now = datetime.now(UTC).replace(microsecond=0)
        if not scopes or (unknown := set(scopes) - set(SCOPES)):
            what = f"There is no scope {min(unknown)!r}." if scopes else "A key needs a scope."
            raise InputError(what, remedy=f"The scopes are {', '.join(SCOPES)}.")
        if not models or not all(models):
            raise InputError("A key needs a model.", remedy="Name models, or * for all.")
        if expires is not None and expires <= now:
            raise InputError("The key would have ended already.", where=expires.isoformat())
        with self._locked():
            records = self.all()
            taken = {record.id for record in records}
            while (identity := "".join(secrets.choice(_ID_ALPHABET) for _ in range(_ID_LENGTH))) in taken:
                pass
            key = f"{PREFIX}{identity}_{secrets.token_urlsafe(32)}"
            record = KeyRecord(
                id=identity, hash=_digest(key).hex(), scopes=tuple(dict.fromkeys(scopes)), models=tuple(models),
                created=now, expires=expires, note=note,
            )  # fmt: skip
            self._write((*records, record))
        return key, record

    def revoke(self, identity: str) -> KeyRecord:
        """End a key; services refuse it within a second. One that is revoked already stays as it is.

        Args:
            identity: The key's id. The whole key will do too.

        Raises:
            NotFoundError: There is no such key.
            IntegrityError: Something else wrote the file.
            StorageError: It can't be written.
        """
        wanted = _parse(identity) or identity
        with self._locked():
            records = self.all()
            found = next((record for record in records if record.id == wanted), None)
            if found is None:
                # What was given may be a secret, mistyped: it is not repeated.
                raise NotFoundError(
                    "There is no such key.", where=str(self.path), remedy="`modelyard key ls` lists their ids."
                )
            if found.revoked is not None:
                return found
            revoked = msgspec.structs.replace(found, revoked=datetime.now(UTC).replace(microsecond=0))
            self._write(tuple(revoked if record is found else record for record in records))
        return revoked

    def _write(self, records: tuple[KeyRecord, ...]) -> None:
        data = msgspec.json.format(msgspec.json.encode(_Document(keys=records)), indent=2)
        write_atomically(self.path, data + b"\n", _MODE)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep other writers out; readers see the old file or the new one."""
        lock = self.path.with_name(f"{self.path.name}.lock")
        with storage_errors(lock):
            lock.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _MODE)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


class KeyRing:
    """The keys that count now, for a service: looked up at every request, read again when the file is another.

    Args:
        path: The file. While it is missing, no key counts.
        log: Told when keys are read, and why they can't be.
    """

    def __init__(self, path: Path, log: Log) -> None:
        self._path = path
        self._log = log
        self._lock = threading.Lock()
        self._records: dict[str, tuple[bytes, Principal]] = {}
        self._stamp: tuple[int, ...] | None = (-1,)
        self._trouble: str | None = None
        self._next_look = 0.0

    def find(self, key: str) -> Principal | None:
        """Return whom a key stands for; None where it is unknown, revoked, expired or no key at all.

        Raises:
            BusyError: The file is damaged: what it revokes is not known, so no key counts until it is mended.
        """
        if time.monotonic() >= self._next_look:
            self._look()
        if self._trouble is not None:
            raise BusyError("The service can't read its keys.", remedy="Tell its operator.")
        identity = key[len(PREFIX) : -SECRET_LENGTH - 1]
        found = self._records.get(identity)
        if found is None:
            self._look()  # a key that was made just now counts at once
            found = self._records.get(identity)
        # That an id exists may be told from the time this takes; ids are no secret.
        if found is None or not hmac.compare_digest(_digest(key), found[0]):
            return None
        return found[1] if time.time() < found[1].expires else None

    def _look(self) -> None:
        with self._lock:
            self._next_look = time.monotonic() + LOOK_SECONDS
            try:
                stamp = _stamp(self._path.stat())
            except OSError:
                stamp = None
            if stamp == self._stamp and self._trouble is None:
                return
            try:
                found = _read(self._path)
            except (IntegrityError, StorageError) as error:
                if str(error) != self._trouble:
                    self._log.error("keys-unreadable", reason=str(error))
                self._records, self._stamp, self._trouble = {}, None, str(error)
                return
            records, self._stamp = found if found is not None else ((), None)
            self._records = {
                record.id: (bytes.fromhex(record.hash), record.principal())
                for record in records
                if record.revoked is None
            }
            self._trouble = None
            self._log.info("keys-read", keys=len(self._records))


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


def _parse(key: str) -> str | None:
    """Return the id of what looks like a whole key."""
    head = key[: -SECRET_LENGTH - 1]
    whole = key.startswith(PREFIX) and len(head) > len(PREFIX) and key[len(head)] == "_"
    return head[len(PREFIX) :] if whole else None


def _stamp(found: os.stat_result) -> tuple[int, ...]:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _read(path: Path) -> tuple[tuple[KeyRecord, ...], tuple[int, ...]] | None:
    """Return the keys and what tells this file from the next; None where there is no file."""
    with storage_errors(path):
        try:
            file = path.open("rb")
        except FileNotFoundError:
            return None
        with file:
            found = os.fstat(file.fileno())
            data = file.read()
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH) or found.st_uid not in (0, os.geteuid()):
        raise IntegrityError(
            "Others may write this file, and so give themselves keys.",
            where=str(path),
            remedy=f"Own it yourself, and make it private: chmod 600 {path}",
        )
    try:
        records = msgspec.json.decode(data, type=_Document).keys
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise IntegrityError(
            f"This is not a file of keys: {error}.", where=str(path), remedy="Bring back a copy, or make new keys."
        ) from error
    if len({record.id for record in records}) != len(records):
        raise IntegrityError("Two keys have one id.", where=str(path), remedy="Remove one of them.")
    return records, _stamp(found)
