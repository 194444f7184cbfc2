"""A file of any size is predicted in order, and what kills a part of it costs that part alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import csv, parquet
from real_packages import write_package

from modelyard.errors import BusyError, ContractError, DataError, InputError, IntegrityError, StorageError
from modelyard.serving.batch.engine import plan_batch, run_batch
from modelyard.serving.batch.spec import BatchSpec, Progress
from modelyard.serving.batch.workfolder import WorkFolder

SCRIPT = """
import sys
from pathlib import Path
import msgspec
from modelyard.errors import ModelyardError
from modelyard.serving.batch.engine import run_batch
from modelyard.serving.batch.spec import BatchSpec
try:
    done = run_batch(msgspec.json.decode(sys.argv[1], type=BatchSpec, dec_hook=lambda kind, value: kind(value)))
except ModelyardError as error:
    sys.exit(f"{type(error).__name__}: {error}")
print(done.rows, done.parts, done.resumed)
"""


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Doubles `x`."""
    store = tmp_path_factory.mktemp("packages")
    return store / write_package(store, 2)


def rows_of(count: int) -> pa.Table:
    """`x`, what it is the double of, and what an answer has nothing to do with."""
    numbers = np.arange(count)
    return pa.table({"id": numbers, "x": numbers.astype(np.float32), "note": [f"n, {n % 7}" for n in range(count)]})


def write(table: pa.Table, path: Path) -> Path:
    if path.suffix == ".parquet":
        parquet.write_table(table, path, row_group_size=700)
    elif path.suffix == ".csv":
        csv.write_csv(table, path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()))
    else:
        new = pa.ipc.new_file if path.suffix == ".arrow" else pa.ipc.new_stream
        with new(path, table.schema) as writer:
            writer.write_table(table, max_chunksize=300)
    return path


def read(path: Path) -> dict[str, list[Any]]:
    if path.suffix == ".parquet":
        return parquet.read_table(path).to_pydict()
    if path.suffix == ".csv":
        return csv.read_csv(path).to_pydict()
    if path.suffix == ".jsonl":
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        return {name: [row[name] for row in rows] for name in rows[0]} if rows else {}
    if path.suffix == ".arrow":
        return pa.ipc.open_file(path).read_all().to_pydict()
    return pa.ipc.open_stream(path).read_all().to_pydict()


def spec_of(package: Path, source: Path, output: Path, **more: Any) -> BatchSpec:
    usual = {"digest": "d", "model": "m v1.0.0", "workers": 2, "batch_rows": 250, "columns": ("id",)}
    return BatchSpec(input=source, output=output, package=package, **(usual | more))


def started(spec: BatchSpec) -> subprocess.Popen[str]:
    settings = json.dumps({name: getattr(spec, name) for name in spec.__struct_fields__}, default=str)
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, settings], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def parts_in(folder: Path) -> dict[str, int]:
    """Names of the finished parts, and when each was written."""
    found = {}
    for entry in folder.glob("part-*"):
        found[entry.name] = entry.stat().st_mtime_ns
    return found


def children_of(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def ended(pid: int) -> bool:
    """Wait until a process of nobody's has ended; one that waits to be reaped has."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.002)
    return False


def until(condition: Any, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)


SUFFIXES = [".parquet", ".csv", ".jsonl", ".arrow", ".arrows"]


@pytest.mark.parametrize("source", SUFFIXES)
def test_rows_of_each_format_are_answered_in_order(package: Path, tmp_path: Path, source: str) -> None:
    rows = write(rows_of(1001), tmp_path / f"in{source}")
    output = tmp_path / "out.parquet"
    done = run_batch(spec_of(package, rows, output, columns=("id", "note", "x")))
    assert (done.rows, done.parts, done.resumed) == (1001, 5, 0)
    read_back = read(output)
    assert list(read_back) == ["id", "note", "x", "value"]
    assert [int(text) for text in read_back["id"]] == list(range(1001))
    assert read_back["value"] == [2.0 * n for n in range(1001)]
    assert read_back["note"][8] == "n, 1"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([rows.name, "out.parquet"])


@pytest.mark.parametrize("target", SUFFIXES)
def test_answers_are_written_in_each_format(package: Path, tmp_path: Path, target: str) -> None:
    rows = write(rows_of(600), tmp_path / "in.parquet")
    output = tmp_path / f"out{target}"
    run_batch(spec_of(package, rows, output, columns=("*",)))
    assert read(output) == rows_of(600).to_pydict() | {"value": [2.0 * n for n in range(600)]}


@pytest.mark.parametrize("source", SUFFIXES)
@pytest.mark.parametrize("target", [".parquet", ".csv", ".jsonl", ".arrow"])
def test_a_file_without_rows_has_an_answer_without_rows(
    package: Path, tmp_path: Path, source: str, target: str
) -> None:
    rows = write(rows_of(0), tmp_path / f"in{source}")
    output = tmp_path / f"out{target}"
    done = run_batch(spec_of(package, rows, output, columns=() if source == ".jsonl" else ("id",)))
    assert (done.rows, done.parts) == (0, 0)
    if target != ".jsonl":
        assert not any(read(output).values())
        assert "value" in read(output)


@pytest.mark.parametrize(
    ("name", "content"),
    [("in.parquet", b""), ("in.parquet", b"PAR1 no"), ("in.csv", b""), ("in.arrow", b""), ("in.arrow", b"ARROW1 no")],
)
def test_a_file_that_is_none_is_refused(package: Path, tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as caught:
        run_batch(spec_of(package, tmp_path / name, tmp_path / "out.csv"))
    assert name in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_file_that_is_damaged_in_its_middle_is_told_as_that(package: Path, tmp_path: Path) -> None:
    source = tmp_path / "in.parquet"
    write(rows_of(50_000), source)
    content = bytearray(source.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 4096] = b"\xff" * 4096
    source.write_bytes(content)
    with pytest.raises(DataError, match="can't be read"):
        run_batch(spec_of(package, source, tmp_path / "out.parquet", batch_rows=1000))
    assert not (tmp_path / "out.parquet").exists()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_bad_row_is_named_and_nothing_is_left(package: Path, tmp_path: Path, suffix: str) -> None:
    table = rows_of(1000)
    texts = [str(n) for n in range(1000)]
    texts[777] = texts[901] = "much"
    bad = table.set_column(1, "x", pa.array(texts)) if suffix == ".csv" else table
    path = write(bad, tmp_path / f"in{suffix}")
    if suffix == ".jsonl":
        path.write_text(path.read_text().replace('"x": 777.0', '"x": "much"').replace('"x": 901.0', '"x": "much"'))
    elif suffix != ".csv":
        values = [float(n) for n in range(1000)]
        values[777] = values[901] = 1e300
        write(table.set_column(1, "x", pa.array(values, pa.float64())), path)
    output = tmp_path / "out.parquet"
    output.write_bytes(b"before")
    with pytest.raises(ContractError) as caught:
        run_batch(spec_of(package, path, output))
    assert caught.value.exit_code == 2
    assert str(path) in str(caught.value.where)
    assert "row 777" in str(caught.value.where)
    assert "'x'" in str(caught.value.where)
    assert output.read_bytes() == b"before"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == sorted([path.name, "out.parquet"])


def test_a_kill_costs_the_parts_in_flight_alone(package: Path, tmp_path: Path) -> None:
    rows = write(rows_of(100_000), tmp_path / "in.parquet")
    whole = tmp_path / "whole.parquet"
    run_batch(spec_of(package, rows, whole))
    spec = spec_of(package, rows, tmp_path / "out.parquet")
    work = WorkFolder(spec.output).path
    process = started(spec)
    until(lambda: len(parts_in(work)) >= 20, process)
    workers = children_of(process.pid)
    assert len(workers) == 2
    process.kill()
    process.communicate()
    for worker in workers:
        assert ended(worker)
    finished = parts_in(work)
    assert 20 <= len(finished) < 400
    assert not spec.output.exists()
    assert plan_batch(spec).finished == len(finished)
    seen: list[Progress] = []
    kept: list[dict[str, int]] = []

    def listen(progress: Progress) -> None:
        seen.append(progress)
        if progress.phase == "write" and not kept:
            kept.append(parts_in(work))

    done = run_batch(spec, listen)
    assert (done.rows, done.parts, done.resumed) == (100_000, 400, len(finished))
    assert {name: kept[0][name] for name in finished} == finished
    assert len(kept[0]) == 400
    assert seen[0].note.startswith(f"Going on: {len(finished)} parts")
    assert spec.output.read_bytes() == whole.read_bytes()
    assert not work.exists()


def test_a_killed_worker_is_replaced_and_its_rows_are_predicted(package: Path, tmp_path: Path) -> None:
    rows = write(rows_of(100_000), tmp_path / "in.parquet")
    spec = spec_of(package, rows, tmp_path / "out.csv")
    process = started(spec)
    for least in (5, 30, 60):
        until(lambda least=least: len(parts_in(WorkFolder(spec.output).path)) >= least, process)
        os.kill(children_of(process.pid)[0], signal.SIGKILL)
    out, err = process.communicate()
    assert (out, process.returncode) == ("100000 400 0\n", 0), err
    assert read(spec.output)["value"] == [2 * n for n in range(100_000)]


def test_workers_that_die_again_and_again_end_the_work_with_a_remedy(package: Path, tmp_path: Path) -> None:
    rows = write(rows_of(100_000), tmp_path / "in.parquet")
    process = started(spec_of(package, rows, tmp_path / "out.csv"))
    deadline = time.monotonic() + 60
    while process.poll() is None:
        assert time.monotonic() < deadline
        for worker in safe_children(process.pid):
            os.kill(worker, signal.SIGKILL)
        time.sleep(0.002)
    err = process.communicate()[1]
    assert "WorkerLostError" in err
    assert "3 workers died" in err
    assert "--workers" in err
    assert not (tmp_path / "out.csv").exists()


@pytest.fixture
def interrupted(package: Path, tmp_path: Path) -> tuple[BatchSpec, int]:
    """A prediction that was killed, and how many parts it left."""
    rows = write(rows_of(20_000), tmp_path / "in.parquet")
    spec = spec_of(package, rows, tmp_path / "out.parquet")
    work = WorkFolder(spec.output).path
    process = started(spec)
    until(lambda: len(parts_in(work)) >= 5, process)
    process.kill()
    process.communicate()
    return spec, len(parts_in(work))


def test_parts_of_another_input_model_or_setting_are_not_used(
    interrupted: tuple[BatchSpec, int], package: Path
) -> None:
    spec, _ = interrupted
    notes: list[str] = []

    def run(**changed: Any) -> int:
        parts = parts_in(WorkFolder(spec.output).path)
        assert parts
        fields = {name: getattr(spec, name) for name in spec.__struct_fields__} | changed
        plan = plan_batch(BatchSpec(**fields))
        return plan.finished

    assert run() > 0
    assert run(digest="another") == 0
    assert run(batch_rows=100) == 0
    assert run(columns=()) == 0
    table = rows_of(20_000).set_column(1, "x", pa.array(np.arange(20_000)[::-1].astype(np.float32)))
    write(table, spec.input)
    done = run_batch(spec, lambda progress: notes.append(progress.note))
    assert done.resumed == 0
    assert notes[0] == "Parts of an earlier attempt are not used: the input has changed."
    assert read(spec.output)["value"] == [2.0 * n for n in range(20_000)][::-1]


def test_an_input_that_is_only_touched_is_the_same(interrupted: tuple[BatchSpec, int]) -> None:
    spec, parts = interrupted
    os.utime(spec.input)
    assert run_batch(spec).resumed >= parts


def test_an_input_that_changes_while_it_is_read_is_refused(package: Path, tmp_path: Path) -> None:
    rows = write(rows_of(20_000), tmp_path / "in.parquet")
    spec = spec_of(package, rows, tmp_path / "out.parquet")

    def touch(progress: Progress) -> None:
        if progress.rows == 5_000:
            os.utime(rows)

    with pytest.raises(DataError, match="changed while it was read"):
        run_batch(spec, touch)
    assert [path.name for path in tmp_path.iterdir()] == ["in.parquet"]


def test_two_processes_do_not_predict_into_one_file(package: Path, tmp_path: Path) -> None:
    rows = write(rows_of(5_000), tmp_path / "in.parquet")
    spec = spec_of(package, rows, tmp_path / "out.parquet")
    with WorkFolder(spec.output).held(), pytest.raises(BusyError, match="Another process"):
        run_batch(spec)


def test_paths_and_columns_that_can_not_be_are_refused_before_anything_is_written(
    package: Path, tmp_path: Path
) -> None:
    rows = write(rows_of(10), tmp_path / "in.parquet")
    odd = write(rows_of(10), tmp_path / "in.csv").rename(tmp_path / "in.txt")
    other = write(rows_of(10).rename_columns(["id", "y", "value"]), tmp_path / "other.parquet")
    before = sorted(tmp_path.iterdir())
    for spec, what in (
        (spec_of(package, tmp_path / "none.csv", tmp_path / "out.csv"), "no such file"),
        (spec_of(package, rows, rows), "output is the input"),
        (spec_of(package, rows, tmp_path), "is a folder"),
        (spec_of(package, rows, tmp_path / "none" / "out.csv"), "does not exist"),
        (spec_of(package, odd, tmp_path / "out.csv"), "names no format"),
        (spec_of(package, rows, tmp_path / "out.xlsx"), "names no format"),
        (spec_of(package, rows, tmp_path / "out.csv", columns=("ID",)), "'ID' is not there"),
        (spec_of(package, other, tmp_path / "out.csv"), "'x' is missing"),
    ):
        with pytest.raises(InputError, match=what):
            run_batch(spec)
    taken = write(rows_of(10).rename_columns(["id", "x", "value"]), other)
    with pytest.raises(InputError, match="answer's name"):
        run_batch(spec_of(package, taken, tmp_path / "out.csv", columns=("*",)))
    assert sorted(tmp_path.iterdir()) == before


def test_a_changed_package_is_not_run(package: Path, tmp_path: Path) -> None:
    copy = tmp_path / "package"
    subprocess.run(["cp", "-r", str(package), str(copy)], check=True)
    subprocess.run(["chmod", "-R", "u+w", str(copy)], check=True)
    with (copy / "model" / "model.onnx").open("ab") as file:
        file.write(b" ")
    with pytest.raises(IntegrityError, match="model"):
        run_batch(spec_of(copy, write(rows_of(10), tmp_path / "in.csv"), tmp_path / "out.csv"))


def test_a_million_rows_take_no_more_memory_than_a_tenth_of_them(package: Path, tmp_path: Path) -> None:
    """The engine and its largest worker, by their own high-water marks; one row group holds all rows."""
    peaks = []
    for count in (100_000, 1_000_000):
        rng = np.random.default_rng(0)
        table = pa.table({"x": rng.normal(size=count).astype(np.float32), "id": rng.integers(0, 1 << 60, count)})
        rows = tmp_path / f"in{count}.parquet"
        parquet.write_table(table, rows, row_group_size=count)
        spec = spec_of(package, rows, tmp_path / "out.parquet", batch_rows=10_000)
        process = started(spec)
        peak = 0
        while process.poll() is None:
            peak = max([peak, *(high_water(pid) for pid in (process.pid, *safe_children(process.pid)))])
            time.sleep(0.005)
        assert process.communicate()[0].split()[0] == str(count)
        peaks.append(peak)
    assert peaks[1] < peaks[0] + 40_000, peaks


def high_water(pid: int) -> int:
    """Kilobytes that a process has had resident at most; 0 where it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("VmHWM")), 0)


def safe_children(pid: int) -> list[int]:
    try:
        return children_of(pid)
    except OSError:
        return []


def test_quotes_newlines_and_blank_lines_of_csv_stay_within_their_rows(package: Path, tmp_path: Path) -> None:
    rows = tmp_path / "in.csv"
    rows.write_bytes(
        b"\xef\xbb\xbfx,note\r\n" + b"".join(b'%d,"line\r\n""%d"", two"\r\n\r\n' % (n, n) for n in range(1000))
    )
    run_batch(spec_of(package, rows, tmp_path / "out.parquet", columns=("note",), batch_rows=7))
    answers = read(tmp_path / "out.parquet")
    assert answers["note"] == [f'line\r\n"{n}", two' for n in range(1000)]
    assert answers["value"] == [2.0 * n for n in range(1000)]
    rows.write_bytes(b'x,note\n1,5" pipe\n2,plain\n')
    with pytest.raises(DataError, match="not quoted"):
        run_batch(spec_of(package, rows, tmp_path / "out2.parquet", columns=("note",)))


def test_a_line_that_is_no_object_and_a_value_of_another_type_are_named(package: Path, tmp_path: Path) -> None:
    rows = tmp_path / "in.jsonl"
    rows.write_text('{"x": 1, "id": 1}\n' * 300 + "7\n")
    with pytest.raises(DataError, match="row 300"):
        run_batch(spec_of(package, rows, tmp_path / "out.csv"))
    rows.write_text('{"x": 1, "id": 1}\n' * 300 + '{"x": 1, "id": "a"}\n')
    with pytest.raises(DataError, match="row 300, column 'id'"):
        run_batch(spec_of(package, rows, tmp_path / "out.csv"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MiB; needs the right to mount."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(folder)], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip("no right to mount")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_is_told_and_what_is_done_stays_done(package: Path, tmp_path: Path, small_disk: Path) -> None:
    rows = write(rows_of(200_000), tmp_path / "in.parquet")
    filler = small_disk / "filler"
    filler.write_bytes(b"\0" * 600_000)
    spec = spec_of(package, rows, small_disk / "out.jsonl", columns=(), batch_rows=2_000)
    with pytest.raises(StorageError, match="disk is full"):
        run_batch(spec)
    assert not spec.output.exists()
    finished = len(parts_in(WorkFolder(spec.output).path))
    assert finished > 0
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    assert run_batch(spec).resumed == finished
    assert read(spec.output)["value"] == [2.0 * n for n in range(200_000)]
