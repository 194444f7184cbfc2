"""The connection to the catalog's database: opening, versions, transactions, and the translation of its errors.

SQLite runs with a write-ahead log, so that readers never wait for a writer, and with `synchronous = NORMAL`: a commit
costs no fsync. A process killed at any instant loses nothing that was committed; a power cut may lose the last commits,
never the file's soundness. That is enough here, because each record is also an object in the store, written with fsync
before it, and the catalog can be rebuilt from those.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib
import os
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sqlalchemy
from sqlalchemy import Connection, Engine, event
from sqlalchemy.engine import URL, make_url

from modelyard.catalog.tables import metadata
from modelyard.errors import (
    BusyError,
    InputError,
    IntegrityError,
    MissingExtraError,
    ModelyardError,
    SettingsError,
    StorageError,
)
from modelyard.files import storage_errors

__all__ = ["HEAD", "REVISIONS", "VERSION_TABLE", "Database"]

REVISIONS = ("0001",)
"""Every revision this Modelyard knows, oldest first. A constant, so that opening an up-to-date catalog needs no
Alembic; a test proves that it equals what Alembic finds in `migrations/versions`."""

HEAD = REVISIONS[-1]

VERSION_TABLE = "catalog_version"
"""Not Alembic's default name: another application in the same PostgreSQL database may own that one."""

_BUSY_SECONDS = 30
_ADVISORY_LOCK = 0x6D6F64656C796172
_REBUILD = "Run `modelyard catalog rebuild`: the catalog is an index, and nothing is lost."


class Database:
    """A database with the catalog's tables in the newest version.

    Args:
        url: `sqlite:///relative/or//absolute.db`, or `postgresql://user:password@host/database`.
        renew: Leave it empty, with fresh tables, whatever state it was in. A SQLite file is kept beside as
            `<name>.damaged`; in PostgreSQL the catalog's tables are dropped.

    Raises:
        SettingsError: The URL is none, or names another kind of database, or another application's.
        MissingExtraError: PostgreSQL without its driver.
        IntegrityError: The file is damaged.
        InputError: A newer Modelyard wrote it.
        StorageError: It can't be reached or written.
        BusyError: Another process holds it for longer than half a minute.
    """

    def __init__(self, url: str, *, renew: bool = False) -> None:
        self.url = _parsed(url)
        self.place = self.url.render_as_string(hide_password=True)
        self.sqlite = self.url.get_backend_name() == "sqlite"
        self.file = Path(self.url.database or "").absolute() if self.sqlite else Path()
        self._inode: tuple[int, int] | None = None
        self.engine = _engine(self.url)
        # A reader asks several questions and wants one answer; SQLite's transactions are snapshots anyway.
        reading = {} if self.sqlite else {"isolation_level": "REPEATABLE READ"}
        self._reader = self.engine.execution_options(**reading)
        self._writer = self.engine.execution_options(catalog_writes=True)
        try:
            with self._translated():
                if renew:
                    self._discard()
                self._prepare()
        except BaseException:
            self.engine.dispose()
            raise

    @contextlib.contextmanager
    def reading(self) -> Iterator[Connection]:
        """Give a connection for reading: one state of the database, however many questions."""
        with self._translated():
            self._follow_file()
            with self._reader.begin() as connection:
                yield connection

    @contextlib.contextmanager
    def writing(self) -> Iterator[Connection]:
        """Give a connection for writing; all of the block is committed, or nothing."""
        with self._translated():
            self._follow_file()
            with self._writer.begin() as connection:
                yield connection

    def close(self) -> None:
        """Close every connection."""
        self.engine.dispose()

    def check(self) -> list[str]:
        """Let SQLite look for damage in its whole file; return what it finds, one sentence each."""
        if not self.sqlite:
            return []
        with self.reading() as connection:
            found = [str(row[0]) for row in connection.exec_driver_sql("PRAGMA integrity_check")]
        return [] if found == ["ok"] else found

    def _follow_file(self) -> None:
        # The catalog may be deleted or rebuilt while we have it open; writing on into the old file would be for nobody.
        if self.sqlite and _inode(self.file) != self._inode:
            self.engine.dispose()
            self._prepare()

    def _discard(self) -> None:
        # Other processes that have a SQLite file open notice, and go over to the new one.
        self._refuse_foreign()
        if not self.sqlite:
            with self._writer.begin() as connection:
                metadata.drop_all(connection)
                connection.exec_driver_sql(f"DROP TABLE IF EXISTS {VERSION_TABLE}")
            return
        with storage_errors(self.file):
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with self._file_lock():
                for suffix in ("", "-wal", "-shm"):
                    part = self.file.with_name(self.file.name + suffix)
                    if part.exists():
                        part.replace(self.file.with_name(f"{self.file.name}.damaged{suffix}"))

    def _refuse_foreign(self) -> None:
        """Raise where another application's tables are in the way; a file too damaged to tell is taken for ours."""
        if self.sqlite and not self.file.exists():
            return
        try:
            with contextlib.suppress(IntegrityError), self._translated(), self._reader.connect() as connection:
                self._check_owner(set(sqlalchemy.inspect(connection).get_table_names()))
        finally:
            # The connection would stay with the file that is put aside.
            self.engine.dispose()

    def _check_owner(self, present: set[str]) -> None:
        if VERSION_TABLE not in present and (present & set(metadata.tables) or (self.sqlite and present)):
            raise SettingsError(
                f"This database is no catalog of Modelyard: it holds {', '.join(sorted(present)[:5])}.",
                where=self.place,
                remedy="Name another database in modelyard.toml.",
            )

    def _prepare(self) -> None:
        if not (self.sqlite and not self.file.exists()):
            with self._reader.connect() as connection:
                if self._ready(connection):
                    self._inode = _inode(self.file) if self.sqlite else None
                    return
        if self.sqlite:
            with storage_errors(self.file):
                self.file.parent.mkdir(parents=True, exist_ok=True)
            with self._file_lock():
                with self.engine.connect() as connection:
                    # None only once it is closed.
                    connection.connection.driver_connection.execute("PRAGMA journal_mode = WAL")  # type: ignore[union-attr]
                self._migrate()
            self._inode = _inode(self.file)
        else:
            self._migrate()

    def _ready(self, connection: Connection) -> bool:
        if self.sqlite:
            version_table = (
                "SELECT 1 FROM sqlite_master WHERE name = ? AND 'wal' IN (SELECT * FROM pragma_journal_mode)"
            )
        else:
            version_table = "SELECT 1 WHERE to_regclass(%s) IS NOT NULL"
        if connection.exec_driver_sql(version_table, (VERSION_TABLE,)).first() is None:
            return False
        return self._version(connection) == HEAD

    def _version(self, connection: Connection) -> str:
        """Read the version row; raises InputError where this Modelyard does not know that version."""
        row = connection.exec_driver_sql(f"SELECT version_num FROM {VERSION_TABLE}").first()  # noqa: S608  (a constant)
        version = str(row[0]) if row else ""
        if version and version not in REVISIONS:
            raise InputError(
                f"A newer Modelyard wrote this catalog: its version is {version}, this one knows up to {HEAD}.",
                where=self.place,
                remedy="Install that newer Modelyard, or run `modelyard catalog rebuild` to go back to this one's.",
            )
        return version

    def _migrate(self) -> None:
        with self._writer.begin() as connection:
            if not self.sqlite:
                connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{_BUSY_SECONDS}s'")
                connection.exec_driver_sql("SELECT pg_advisory_xact_lock(%s)", (_ADVISORY_LOCK,))
            present = set(sqlalchemy.inspect(connection).get_table_names())
            self._check_owner(present)
            if VERSION_TABLE in present and self._version(connection) == HEAD:
                return
            importlib.import_module("modelyard.catalog.migrate").upgrade(connection)

    @contextlib.contextmanager
    def _file_lock(self) -> Iterator[None]:
        """Keep two processes from making or replacing the file at once; SQLite's own lock does not cover that."""
        path = self.file.with_name(f"{self.file.name}.lock")
        with storage_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            deadline = time.monotonic() + _BUSY_SECONDS
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise _busy(self.place) from None
                    time.sleep(0.01)
            yield
        finally:
            os.close(descriptor)

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (sqlalchemy.exc.DBAPIError, sqlite3.Error) as error:
            translated = _translate(error, self.place, self.file)
            if translated is None:
                raise
            raise translated from error


def _parsed(url: str) -> URL:
    try:
        parsed = make_url(url)
    except (sqlalchemy.exc.ArgumentError, ValueError) as error:
        raise SettingsError(
            "The catalog's URL can't be read.",
            where="catalog",
            remedy="Write `sqlite:///path/to/catalog.db` or `postgresql://user:password@host/database`.",
        ) from error
    backend = parsed.get_backend_name()
    if backend == "sqlite" and parsed.database not in (None, "", ":memory:"):
        return parsed.set(drivername="sqlite+pysqlite")
    if backend == "postgresql":
        return parsed.set(drivername="postgresql+psycopg")
    raise SettingsError(
        f"A catalog can't be kept in {parsed.render_as_string(hide_password=True)!r}.",
        where="catalog",
        remedy="Write `sqlite:///path/to/catalog.db` or `postgresql://user:password@host/database`.",
    )


def _engine(url: URL) -> Engine:
    if url.get_backend_name() == "postgresql":
        try:
            # A server that was restarted has closed our connections: asking first costs a round trip and no failure.
            return sqlalchemy.create_engine(url, pool_pre_ping=True, connect_args={"connect_timeout": 10})
        except ModuleNotFoundError as error:
            raise MissingExtraError(
                "A catalog in PostgreSQL needs the driver psycopg.",
                where=url.render_as_string(hide_password=True),
                remedy="Run `pip install 'modelyard[postgres]'`.",
            ) from error
    engine = sqlalchemy.create_engine(url, connect_args={"timeout": _BUSY_SECONDS})
    event.listen(engine, "connect", _on_connect)
    event.listen(engine, "begin", _on_begin)
    return engine


def _on_connect(connection: sqlite3.Connection, _record: Any) -> None:
    # None: the driver opens no transactions of its own, so that ours can begin as we say.
    connection.isolation_level = None
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("PRAGMA foreign_keys = ON")


def _on_begin(connection: Connection) -> None:
    # A transaction that reads first and writes later fails at once when another wrote in between; no timeout helps.
    # Taking the write lock at the beginning waits its turn instead.
    writes = connection.get_execution_options().get("catalog_writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _inode(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _busy(place: str) -> BusyError:
    return BusyError(
        f"Another process has held the catalog for {_BUSY_SECONDS} seconds.",
        where=place,
        remedy="Wait for it to finish and try again.",
    )


_READ_ONLY = -1
"""Beside SQLite's own codes: the file system of the catalog can't be written at all."""

_SQLITE_STORAGE = {
    sqlite3.SQLITE_FULL: ("The disk is full.", "Free some space (`modelyard gc` may help) and try again."),
    sqlite3.SQLITE_READONLY: ("The catalog can't be written.", "Give your user the right to write the file."),
    sqlite3.SQLITE_CANTOPEN: ("The catalog can't be opened.", "See whether the folder exists and can be written."),
    sqlite3.SQLITE_PERM: ("Permission denied.", "Give your user the right to the file."),
    _READ_ONLY: (
        "The file system is read-only.",
        "Mount it writable, or set `catalog` in modelyard.toml to a place that can be written.",
    ),
    sqlite3.SQLITE_IOERR: ("The disk reports an input/output error.", "Check the disk, then rebuild the catalog."),
}


def _cause(code: int, folder: Path) -> int:
    """Return what is behind an error that SQLite can't tell from others: a read-only file system, or a full one."""
    try:
        system = os.statvfs(folder)
    except OSError:
        return code
    if system.f_flag & os.ST_RDONLY:
        return _READ_ONLY
    if code in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN) and system.f_bavail == 0:
        return sqlite3.SQLITE_FULL
    return code


def _translate(error: BaseException, place: str, file: Path) -> ModelyardError | None:
    """Return the error a user understands, or None where it is a fault of ours and the traceback is wanted."""
    original = getattr(error, "orig", None) or error
    if isinstance(original, sqlite3.Error):
        code = (getattr(original, "sqlite_errorcode", None) or 0) & 0xFF
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            return IntegrityError("The catalog is damaged.", where=str(file), remedy=_REBUILD)
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return _busy(str(file))
        if code in _SQLITE_STORAGE:
            what, remedy = _SQLITE_STORAGE[_cause(code, file.parent)]
            return StorageError(what, where=str(file), remedy=remedy)
        return None
    return _translate_postgres(original, place)


def _translate_postgres(original: BaseException, place: str) -> ModelyardError | None:
    state = getattr(original, "sqlstate", None) or ""
    first_line = (str(original).strip().splitlines() or ["no reason given"])[0]
    if state in ("40001", "40P01", "55P03"):
        return _busy(place)
    if state.startswith("53"):
        return StorageError(f"The database lacks a resource: {first_line}.", where=place, remedy="Give it more.")
    if state.startswith(("28", "3D", "42501")):
        return StorageError(
            f"The database refuses: {first_line}.", where=place, remedy="Check user, password and database name."
        )
    if (not state and type(original).__name__ == "OperationalError") or state.startswith(("08", "57P")):
        return StorageError(
            f"The database does not answer: {first_line}.", where=place, remedy="See whether it runs, and try again."
        )
    return None
