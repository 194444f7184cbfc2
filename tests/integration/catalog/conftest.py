"""A real PostgreSQL for the whole session, and a fresh catalog's URL on either database for each test."""

from __future__ import annotations

import getpass
import os
import pwd
import shlex
import shutil
import socket
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelyard.catalog import Catalog


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """PostgreSQL in a temporary folder; it refuses to run as root, so there it runs as the user postgres."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.user = "postgres" if os.getuid() == 0 else getpass.getuser()

    def command(self, *words: str) -> None:
        argv = list(words) if os.getuid() else ["su", self.user, "-c", shlex.join(words)]
        subprocess.run(argv, check=True, cwd="/", stdout=subprocess.DEVNULL, timeout=60)

    def make(self) -> None:
        if os.getuid() == 0:
            shutil.chown(self.folder, self.user)
        self.command("initdb", "-D", f"{self.folder}/data", "-A", "trust", "-U", "modelyard", "-E", "UTF8", "--no-sync")
        self.start()

    def start(self) -> None:
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={self.folder} -F"
        log = f"{self.folder}/log"
        self.command("pg_ctl", "-D", f"{self.folder}/data", "-w", "-l", log, "-o", options, "start")

    def stop(self) -> None:
        self.command("pg_ctl", "-D", f"{self.folder}/data", "-w", "-m", "fast", "stop")

    def url(self, database: str) -> str:
        return f"postgresql://modelyard@127.0.0.1:{self.port}/{database}"

    def new_database(self) -> str:
        name = f"t{uuid.uuid4().hex}"
        self.command("createdb", "-h", "127.0.0.1", "-p", str(self.port), "-U", "modelyard", name)
        return self.url(name)


def why_not() -> str:
    missing = [tool for tool in ("initdb", "pg_ctl", "createdb") if shutil.which(tool) is None]
    if missing:
        return f"PostgreSQL's programs are not on the PATH: {', '.join(missing)}"
    if os.getuid() == 0:
        try:
            pwd.getpwnam("postgres")
        except KeyError:
            return "PostgreSQL does not run as root, and there is no user postgres"
    return ""


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    reason = why_not()
    if reason:
        pytest.skip(reason)
    pytest.importorskip("psycopg", reason="the driver psycopg is not installed")
    folder = Path(tempfile.mkdtemp(prefix="modelyard-postgres-"))
    server = Server(folder)
    try:
        server.make()
        yield server
        server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/catalog.db"
    server: Server = request.getfixturevalue("postgres")
    return server.new_database()


@pytest.fixture
def catalog(url: str) -> Iterator[Catalog]:
    with Catalog.open(url) as catalog:
        yield catalog
