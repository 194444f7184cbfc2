"""The importer: sources by path and URL, checksums, splits, classes, and what it says when something is wrong."""

from __future__ import annotations

import hashlib
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from blake3 import blake3
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelyard.errors import DataError, MissingExtraError, StorageError
from modelyard.steps.hints import nearest
from modelyard.steps.importer import import_data
from modelyard.steps.sources import shown
from modelyard.testing.context import RecordedContext

TABLE = "x,y,label\n" + "".join(f"{i},{i / 2},{'ab'[i % 2]}\n" for i in range(20))


@pytest.fixture
def table(context: RecordedContext) -> Path:
    (context.project / "data").mkdir()
    path = context.project / "data" / "a.csv"
    path.write_text(TABLE)
    return path


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    folder = tmp_path / "served"
    folder.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder))) as http:
        thread = threading.Thread(target=http.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}", folder
        http.shutdown()
        thread.join()


def rows(part: Any) -> set[int]:
    return set(part.columns["x"].tolist())


def test_one_source_is_split_without_overlap(context: RecordedContext, table: Path) -> None:
    result = import_data(context, format="csv", local_data="data/a.csv", target="label")
    train, test = result["train"], result["test"]
    assert (len(train), len(test)) == (16, 4)
    assert rows(train) | rows(test) == set(range(20))
    assert not rows(train) & rows(test)
    assert (test.labels == "a").sum() == 2
    assert train.classes == test.classes == ("a", "b")


def test_the_split_follows_its_rule(context: RecordedContext, table: Path) -> None:
    def split(**rule: Any) -> set[int]:
        return rows(import_data(context, format="csv", local_data="data/a.csv", target="label", split=rule)["test"])

    assert split(test=0.5) == split(test=0.5, seed=0)
    assert split(test=0.5) != split(test=0.5, seed=1)
    assert len(split(test=0.5)) == 10


def test_a_test_source_of_its_own_is_taken_whole(context: RecordedContext, table: Path) -> None:
    (context.project / "t.csv").write_text("y,label,x,more\n1,c,7,0\n")
    result = import_data(context, format="csv", local_data="data/a.csv", test_data="t.csv", target="label")
    assert (len(result["train"]), len(result["test"])) == (20, 1)
    assert list(result["test"].columns) == list(result["train"].columns)
    assert result["train"].classes == ("a", "b", "c")
    # 1 was read as an integer, and the training part has fractions.
    assert result["test"].columns["y"].dtype == result["train"].columns["y"].dtype == np.float64
    assert any("more" in line for line in context.lines)
    assert any("test part alone" in line for line in context.lines)


def test_a_column_that_the_test_source_lacks_is_an_error(context: RecordedContext, table: Path) -> None:
    (context.project / "t.csv").write_text("xx,label\n1,c\n")
    with pytest.raises(DataError, match="no column 'x'") as told:
        import_data(context, format="csv", local_data="data/a.csv", test_data="t.csv", target="label")
    assert told.value.remedy == "Did you mean 'xx'?"


def test_a_column_of_text_in_one_part_and_numbers_in_the_other_is_an_error(
    context: RecordedContext, table: Path
) -> None:
    (context.project / "t.csv").write_text("x,y,label\nlow,1,a\n")
    with pytest.raises(DataError, match="'x' is int64 in the training data and string"):
        import_data(context, format="csv", local_data="data/a.csv", test_data="t.csv", target="label")


@pytest.mark.parametrize(("target", "classes"), [("x", tuple(range(20))), ("y", None), ("label", ("a", "b"))])
def test_classes_are_for_targets_that_count_or_name(
    context: RecordedContext, table: Path, target: str, classes: tuple[Any, ...] | None
) -> None:
    result = import_data(context, format="csv", local_data="data/a.csv", target=target)
    assert result["train"].classes == result["test"].classes == classes


def test_a_limit_keeps_so_many_rows_of_each_part(context: RecordedContext, table: Path) -> None:
    result = import_data(context, format="csv", local_data="data/a.csv", target="label", limit=3)
    assert (len(result["train"]), len(result["test"])) == (3, 3)
    assert not rows(result["train"]) & rows(result["test"])


def test_data_without_a_target_is_read_too(context: RecordedContext, table: Path) -> None:
    train = import_data(context, format="csv", local_data="data/a.csv")["train"]
    assert (train.target, train.classes, list(train.features)) == (None, None, ["x", "y", "label"])


def test_columns_are_kept_as_asked(context: RecordedContext, table: Path) -> None:
    train = import_data(context, format="csv", local_data="data/a.csv", columns=["y"], target="label")["train"]
    assert list(train.columns) == ["y", "label"]


@pytest.mark.parametrize("kind", ["sha256", "blake3"])
def test_the_right_checksum_passes_and_a_wrong_one_names_both(context: RecordedContext, table: Path, kind: str) -> None:
    right = hashlib.sha256(TABLE.encode()).hexdigest() if kind == "sha256" else blake3(TABLE.encode()).hexdigest()
    source = {"data": "data/a.csv", "checksum": f"{kind}:{right}"}
    import_data(context, format="csv", local_data=source, target="label")
    table.write_text(TABLE + "99,1,a\n")
    with pytest.raises(DataError, match=f"expected {kind}:{right}, got {kind}:") as told:
        import_data(context, format="csv", local_data=source, target="label")
    assert told.value.where == "data/a.csv"
    assert told.value.remedy


def test_a_download_tells_progress_and_lies_in_the_work_folder(
    context: RecordedContext, server: tuple[str, Path]
) -> None:
    url, folder = server
    data = "x,label\n" + "1,a\n2,b\n" * 600_000
    (folder / "a.csv").write_text(data)
    digest = hashlib.sha256(data.encode()).hexdigest()
    source = {"data": f"{url}/a.csv", "checksum": f"sha256:{digest}"}
    result = import_data(context, format="csv", online_data=source, target="label", limit=10)
    assert len(result["train"]) == 10
    done = [event[0] for event in context.progressed if event[2] == "bytes"]
    assert done == sorted(done)
    assert done[-1] == len(data)
    assert [path.name for path in context.workdir.rglob("*.csv")] == ["a.csv"]


def test_a_download_with_a_wrong_checksum_is_not_kept(context: RecordedContext, server: tuple[str, Path]) -> None:
    url, folder = server
    (folder / "a.csv").write_text(TABLE)
    with pytest.raises(DataError, match=f"expected sha256:{'0' * 64}"):
        import_data(
            context,
            format="csv",
            online_data={"data": f"{url}/a.csv", "checksum": f"sha256:{'0' * 64}"},
            target="label",
        )
    assert not [path for path in context.workdir.rglob("*") if path.is_file()]


def test_an_address_without_a_file_is_told(context: RecordedContext, server: tuple[str, Path]) -> None:
    with pytest.raises(DataError, match="no such file at this address") as told:
        import_data(context, format="csv", online_data=f"{server[0]}/none.csv")
    assert told.value.where == f"{server[0]}/none.csv"


def test_a_remote_that_does_not_answer_is_told(context: RecordedContext) -> None:
    with pytest.raises(StorageError, match="remote can't be read"):
        import_data(context, format="csv", online_data="http://127.0.0.1:9/a.csv")


def test_a_remote_that_hangs_up_midway_is_told(context: RecordedContext, tmp_path: Path) -> None:
    class Short(_Quiet):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "1000000")
            self.end_headers()
            self.wfile.write(b"x,label\n1,a\n")

        do_HEAD = do_GET  # noqa: N815  (the name is http.server's)

    with ThreadingHTTPServer(("127.0.0.1", 0), Short) as http:
        thread = threading.Thread(target=http.serve_forever, daemon=True)
        thread.start()
        with pytest.raises(StorageError, match="remote can't be read"):
            import_data(context, format="csv", online_data=f"http://127.0.0.1:{http.server_port}/a.csv")
        http.shutdown()
        thread.join()
    assert not [path for path in context.workdir.rglob("*") if path.is_file()]


def test_an_unknown_protocol_is_told(context: RecordedContext) -> None:
    with pytest.raises((DataError, MissingExtraError), match="address"):
        import_data(context, format="csv", online_data="gopher://example/a.csv")


def test_memory_and_zip_chains_are_read(context: RecordedContext, tmp_path: Path) -> None:
    with fsspec.open("memory://importer/a.csv", "wb") as file:
        file.write(TABLE.encode())
    assert len(import_data(context, format="csv", online_data="memory://importer/a.csv")["train"]) == 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("inner/a.csv", TABLE)
    chain = f"zip://inner/a.csv::file://{tmp_path}/a.zip"
    assert len(import_data(context, format="csv", online_data=chain)["train"]) == 16


def test_a_file_url_and_an_absolute_path_are_read_in_place(context: RecordedContext, table: Path) -> None:
    for source in (str(table), f"file://{table}"):
        assert len(import_data(context, format="csv", local_data=source)["train"]) == 16
    assert not list(context.workdir.iterdir())


def test_a_missing_file_says_where_paths_count_from(context: RecordedContext) -> None:
    with pytest.raises(DataError, match="no such file") as told:
        import_data(context, format="csv", local_data="data/none.csv")
    assert str(context.project) in str(told.value)


def test_a_folder_is_no_file(context: RecordedContext, table: Path) -> None:
    with pytest.raises(DataError, match="folder"):
        import_data(context, format="csv", local_data="data")


def test_a_folder_has_no_checksum(context: RecordedContext, table: Path) -> None:
    with pytest.raises(DataError, match="folder has no checksum"):
        import_data(context, format="image_folder", local_data={"data": "data", "checksum": f"sha256:{'0' * 64}"})


def test_a_missing_target_value_names_its_row(context: RecordedContext) -> None:
    (context.project / "a.csv").write_text("x,y\n1,1\n2,\n3,1.5\n")
    with pytest.raises(DataError, match="value is missing") as told:
        import_data(context, format="csv", local_data="a.csv", target="y")
    assert told.value.where == "a.csv, column 'y', row 2 (line 3)"


def test_wrong_words_name_the_nearest(context: RecordedContext, table: Path) -> None:
    with pytest.raises(DataError, match="Did you mean 'csv'"):
        import_data(context, format="cvs", local_data="data/a.csv")
    with pytest.raises(DataError, match="Did you mean 'float32'"):
        import_data(context, format="csv", local_data="data/a.csv", dtypes={"x": "flaot32"})
    with pytest.raises(DataError, match="Did you mean 'label'"):
        import_data(context, format="csv", local_data="data/a.csv", target="labels")


def test_arrays_of_different_lengths_are_told(context: RecordedContext) -> None:
    np.savez(context.project / "a.npz", x=np.zeros(3), y=np.zeros(2))
    with pytest.raises(DataError, match="differ in length: x 3, y 2"):
        import_data(context, format="npz", local_data="a.npz")


def test_what_a_log_shows_has_no_secret() -> None:
    assert shown("https://me:secret@host/a.csv?X-Amz-Signature=abc") == "https://host/a.csv?…"
    assert shown("zip://a@b.csv::https://me:secret@host/a.zip") == "zip://b.csv::https://host/a.zip"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200), st.sampled_from(["idx", "npz", "csv", "parquet", "jsonl"]))
def test_no_bytes_bring_anything_but_one_clear_error(context: RecordedContext, content: bytes, kind: str) -> None:
    (context.project / "any").write_bytes(content)
    problem = None
    try:
        result = import_data(context, format=kind, local_data="any")
    except DataError as error:
        problem = error
    assert (problem.where or problem.remedy) if problem else len(result["train"]) > 0 < len(result["test"])


def test_nearest_tells_the_name_meant_or_those_there_are() -> None:
    assert nearest("prize", ["price", "rooms"]) == "Did you mean 'price'?"
    assert nearest("LABEL", ["label", "x"]) == "Did you mean 'label'?"
    assert nearest("q", ["a", "b"]) == "There are a, b."
    assert nearest("q", []) == "There are none."
