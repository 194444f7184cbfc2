"""Opening a catalog: new, current, damaged, deleted, foreign, misspelt."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import sqlalchemy

from modelyard.catalog import Catalog
from modelyard.catalog.database import HEAD, REVISIONS, VERSION_TABLE
from modelyard.catalog.migrate import head, revisions
from modelyard.errors import BusyError, IntegrityError, ModelyardError, SettingsError, StorageError
from modelyard.records import RunRecord

RUN = RunRecord(id="r1", blueprint="b", blueprint_digest="d")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "catalog.db"


@pytest.fixture
def url(file: Path) -> str:
    return f"sqlite:///{file}"


def test_the_versions_that_the_code_knows_are_those_of_the_migrations() -> None:
    assert revisions() == REVISIONS
    assert head() == HEAD


def test_an_up_to_date_catalog_opens_without_alembic(url: str) -> None:
    with Catalog.open(url) as catalog:
        catalog.record(RUN)
    code = (
        "import sys; from modelyard.catalog import Catalog; c = Catalog.open(sys.argv[1]); print(c.runs()[0].id);"
        "c.close(); print([m for m in sys.modules if m.startswith(('alembic', 'mako', 'psycopg'))])"
    )
    output = subprocess.run([sys.executable, "-c", code, url], capture_output=True, text=True, check=True)
    assert output.stdout.split("\n")[:2] == ["r1", "[]"]


def test_a_new_catalog_is_made_with_a_write_ahead_log_and_foreign_keys(url: str, file: Path) -> None:
    with Catalog.open(url) as catalog, catalog.database.reading() as connection:
        settings = {name: connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in
                    ("journal_mode", "foreign_keys", "synchronous", "busy_timeout")}  # fmt: skip
    assert settings == {"journal_mode": "wal", "foreign_keys": 1, "synchronous": 1, "busy_timeout": 30_000}
    assert file.exists()


def test_a_task_of_no_run_can_not_be_written(url: str) -> None:
    insert = "INSERT INTO metrics VALUES ('none', 'none', 'm', 1.0)"
    refused = pytest.raises(sqlalchemy.exc.IntegrityError, match="FOREIGN KEY")
    with Catalog.open(url) as catalog, catalog.database.writing() as connection, refused:
        connection.exec_driver_sql(insert)


def test_an_older_version_is_brought_to_the_newest(url: str) -> None:
    with Catalog.open(url) as catalog, catalog.database.writing() as connection:
        for table in ("derived", "metric_points", "uses", "artifacts", "metrics", "tasks", "runs"):
            connection.exec_driver_sql(f"DROP TABLE {table}")
        connection.exec_driver_sql(f"DELETE FROM {VERSION_TABLE}")
    with Catalog.open(url) as catalog:
        catalog.record(RUN)
        assert catalog.runs() == [RUN]


@pytest.mark.parametrize("position", [0, 100, 4096])
def test_a_damaged_file_is_told_with_the_way_to_rebuild_it(url: str, file: Path, position: int) -> None:
    with Catalog.open(url) as catalog:
        for number in range(50):
            catalog.record(RunRecord(id=f"r{number}", blueprint="b", blueprint_digest="d"))
    data = bytearray(file.read_bytes())
    data[position : position + 2000] = bytes([0xA5]) * 2000
    file.write_bytes(data)
    with pytest.raises(IntegrityError) as caught, Catalog.open(url) as catalog:
        catalog.runs()
    assert caught.value.where == str(file)
    assert "modelyard catalog rebuild" in (caught.value.remedy or "")

    with Catalog.rebuilt(url, iter([RUN])) as catalog:
        assert catalog.runs() == [RUN]
    assert file.with_name("catalog.db.damaged").read_bytes() == data


def test_a_damage_that_no_question_meets_is_found_by_a_check(url: str, file: Path) -> None:
    with Catalog.open(url) as catalog:
        catalog.remember_many("k", {f"{n:05}": b"x" * 500 for n in range(500)})
        assert catalog.database.check() == []
    data = bytearray(file.read_bytes())
    last = len(data) - 4096
    data[last : last + 8] = b"\xff" * 8
    file.write_bytes(data)
    with Catalog.open(url) as catalog:
        assert catalog.runs() == []
        try:
            found = catalog.database.check()
        except IntegrityError:
            found = ["so bad that SQLite gives up"]
    assert found


def test_a_file_that_is_something_else_is_told(url: str, file: Path) -> None:
    file.parent.mkdir()
    file.write_text("These are my notes, and they are long enough to be read as a header of a database.\n" * 50)
    with pytest.raises(IntegrityError):
        Catalog.open(url)
    assert file.read_text().startswith("These are my notes")


def test_a_database_of_somebody_else_is_told_and_left_alone(url: str, file: Path) -> None:
    file.parent.mkdir()
    with sqlite3.connect(file) as other:
        other.execute("CREATE TABLE addresses (name)")
    other.close()
    for way in (Catalog.open, Catalog.renew):
        with pytest.raises(SettingsError, match="it holds addresses") as caught:
            way(url)
        assert caught.value.remedy
    with sqlite3.connect(file) as other:
        assert other.execute("SELECT name FROM sqlite_master").fetchall() == [("addresses",)]
    other.close()


def test_a_catalog_that_is_deleted_while_open_is_made_anew_by_the_next_record(url: str, file: Path) -> None:
    with Catalog.open(url) as catalog:
        running = RunRecord(id="r2", blueprint="b", blueprint_digest="d")
        catalog.record(running)
        for part in file.parent.iterdir():
            part.unlink()
        assert catalog.runs() == []
        catalog.record(RunRecord(id="r2", blueprint="b", blueprint_digest="d", actor="Ada"))
        with Catalog.open(url) as other:
            assert [run.actor for run in other.runs()] == ["Ada"]


def test_a_catalog_that_is_renewed_by_another_process_is_followed(url: str) -> None:
    with Catalog.open(url) as catalog:
        catalog.record(RUN)
        with Catalog.renew(url) as other:
            assert other.runs() == []
            catalog.record(RunRecord(id="r2", blueprint="b", blueprint_digest="d"))
            assert [run.id for run in other.runs()] == ["r2"]


def test_another_processs_lock_is_waited_for_and_then_told(
    url: str, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Catalog.open(url).close()
    monkeypatch.setattr("modelyard.catalog.database._BUSY_SECONDS", 0.2)
    holder = sqlite3.connect(file, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with Catalog.open(url) as catalog:
        with pytest.raises(BusyError) as caught:
            catalog.record(RUN)
        assert caught.value.remedy
        assert catalog.runs() == [], "a reader does not wait for a writer"
        holder.execute("ROLLBACK")
        catalog.record(RUN)
        assert catalog.runs() == [RUN]
    holder.close()


def test_a_writer_that_reads_first_is_not_overtaken_by_another(url: str) -> None:
    with Catalog.open(url) as one, Catalog.open(url) as other:
        overtaking = threading.Thread(target=other.record, args=(RUN,))
        with one.database.writing() as connection:
            assert connection.exec_driver_sql("SELECT count(*) FROM runs").scalar() == 0
            overtaking.start()
            overtaking.join(0.1)
            connection.exec_driver_sql("INSERT INTO derived VALUES ('kind', 'key', X'00')")
        overtaking.join()
        assert one.recall("kind", "key") == b"\0"
        assert one.runs() == [RUN]


@pytest.mark.parametrize("make", ["folder", "file in the way"])
def test_a_place_that_can_hold_no_file_is_told(url: str, file: Path, make: str) -> None:
    if make == "folder":
        file.mkdir(parents=True)
    else:
        file.parent.write_text("")
    with pytest.raises(StorageError) as caught:
        Catalog.open(url)
    assert str(file.parent) in str(caught.value.where)


@pytest.mark.parametrize(
    "url", ["", "nonsense", "mysql://h/d", "sqlite://", "sqlite:///:memory:", "postgresql://h:x/d"]
)
def test_a_url_that_names_no_catalog_is_refused_with_the_two_that_do(url: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Catalog.open(url)
    assert "sqlite:///" in str(caught.value.remedy)
    assert "postgresql://" in str(caught.value.remedy)


def test_a_password_is_never_shown() -> None:
    with pytest.raises(ModelyardError) as caught:
        Catalog.open("mysql://user:secret@host/d")
    assert "secret" not in str(caught.value)
