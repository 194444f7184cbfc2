from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet
from real_packages import spoil_golden_samples, write_package

from modelyard.errors import IntegrityError
from modelyard.serving import packaged

PATH = "/v1/models/m/predict"
REAL = "modelyard.serving.packaged"


@pytest.fixture
def packages(service):
    service.options["loader"] = REAL
    store: Path = service.root / "store"
    store.mkdir()
    return lambda factor, column="x": write_package(store, factor, column)


@pytest.fixture(scope="module")
def served(shared):
    shared.options["loader"] = REAL
    (shared.root / "store").mkdir()
    shared.start(workers=1)
    shared.client.swap("m", "v1", write_package(shared.root / "store", 2.0))
    return shared


def test_real_packages_are_swapped_under_load(service, packages):
    first, second = packages(2.0), packages(3.0)
    service.start()
    service.client.swap("m", "v1.0.0", first)
    service.all_accept()
    with service.load({"v1.0.0": 2, "v1.1.0": 3}, rate=300) as load:
        load.wait_for(30)
        for version, package in (("v1.1.0", second), ("v1.0.0", first), ("v1.1.0", second)):
            service.client.swap("m", version, package)
            load.wait_for(30)
    report = load.report()
    assert report.failures == []
    assert report.mixed == []
    assert set(report.versions) == {"v1.0.0", "v1.1.0"}


def test_json_by_rows_and_by_columns_and_csv_give_the_same_answer(served):
    head = {"model": "m", "version": "v1", "generation": 1}
    rows = served.request("POST", PATH, '{"rows":[{"x":1.5},{"x":2}]}')
    assert rows.json == {**head, "rows": [{"value": 3.0}, {"value": 4.0}]}
    columns = served.request("POST", PATH, ' {"columns": {"x": [1.5, 2]}}')
    assert columns.json == {**head, "columns": {"value": [3.0, 4.0]}}
    table = served.request("POST", PATH, "x\n1.5\n2\n", content_type="text/csv")
    assert (table.headers["content-type"], table.body) == ("text/csv", b"value\r\n3.0\r\n4.0\r\n")


ARROW = "application/vnd.apache.arrow.stream"
PARQUET = "application/vnd.apache.parquet"


@pytest.mark.parametrize("kind", [ARROW, PARQUET])
def test_arrow_and_parquet_are_answered_in_kind(served, kind):
    table = pa.table({"x": pa.array([1.5, 2.0], pa.float32())})
    sink = pa.BufferOutputStream()
    if kind == ARROW:
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
    else:
        parquet.write_table(table, sink)
    answer = served.request("POST", PATH, sink.getvalue().to_pybytes(), content_type=kind)
    assert (answer.status, answer.headers["content-type"]) == (200, kind)
    given = pa.BufferReader(answer.body)
    read = pa.ipc.open_stream(given).read_all() if kind == ARROW else parquet.read_table(given)
    assert read.to_pydict() == {"value": [3.0, 4.0]}
    as_json = served.request("POST", PATH, sink.getvalue().to_pybytes(), content_type=kind, accept="application/json")
    assert as_json.json["rows"] == [{"value": 3.0}, {"value": 4.0}]


@pytest.mark.parametrize(
    ("body", "status", "where"),
    [
        (b'{"rows":[{"x":1},{"x":"many"}]}', 422, "row 1, field 'x'"),
        (b'{"rows":[{"x":[1,2]}]}', 422, "row 0, field 'x'"),
        (b'{"rows":[{}]}', 422, "row 0"),
        (b'{"columns":{"x":[1,true]}}', 422, "row 1, field 'x'"),
        (b"[[[", 422, "row 0"),
        (b"rows", 400, None),
        (b'{"rows":[{"x":1}]', 400, None),
        (b"\xff", 400, None),
        (b"", 422, None),
    ],
)
def test_a_request_that_does_not_fit_is_told_where(served, body, status, where):
    answer = served.request("POST", PATH, body)
    assert answer.status == status, answer
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json.get("where") == where


def test_csv_that_does_not_fit_names_row_and_column(served):
    answer = served.request("POST", PATH, "x\n1\nmany\n", content_type="text/csv")
    assert (answer.status, answer.json["where"]) == (422, "row 1, column 'x'")
    assert served.request("POST", PATH, b"x\n\xff\n", content_type="text/csv").status == 400


def test_a_package_with_a_flipped_bit_is_refused_and_the_old_one_goes_on(service, packages):
    good, bad = packages(2.0), packages(3.0)
    file = service.root / "store" / bad / "model" / "model.onnx"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    service.start()
    service.client.swap("m", "v1", good)
    with service.load({"v1": 2}, rate=200) as load:
        load.wait_for(10)
        with pytest.raises(IntegrityError, match=r"model\.onnx"):
            service.client.swap("m", "v2", bad)
        load.wait_for(10)
    assert load.report().failures == []
    assert set(load.report().versions) == {"v1"}


def test_a_model_that_answers_its_golden_samples_differently_is_refused(service, packages):
    good, bad = packages(2.0), packages(4.0)
    spoil_golden_samples(service.root / "store" / bad)
    packaged.verify(service.root / "store" / bad)
    service.start()
    service.client.swap("m", "v1", good)
    with pytest.raises(IntegrityError, match="outputs that it gave when it was packed"):
        service.client.swap("m", "v2", bad)
    assert service.predict().json["rows"] == [{"value": 2.0}]


def test_a_service_runs_without_any_library_that_trains_or_validates(service, packages):
    # The whole service runs with these imports forbidden, so a worker can't need them.
    blocked = ("torch", "sklearn", "pydantic", "sqlalchemy", "pandas", "pyarrow", "onnx", "click")
    site = service.root / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(
        "import sys\n"
        "class Block:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.partition('.')[0] in {blocked}:\n"
        "            raise ImportError('blocked: ' + name)\n"
        "sys.meta_path.insert(0, Block())\n"
    )
    package = packages(2.0)
    service.path = site
    service.start()
    service.client.swap("m", "v1", package)
    assert service.predict().json["rows"] == [{"value": 2.0}]
    assert service.request("POST", PATH, "x\n1\n", content_type="text/csv").status == 200
    assert service.request("GET", "/metrics").status == 200


def test_real_packages_are_canaries_shadows_and_in_grace(service, packages):
    service.start()
    service.client.swap("m", "v1", packages(2.0))
    service.all_accept()
    first, second = '{"rows":[{"x":2.0}]}', '{"rows":[{"y":2.0}]}'
    with service.load({"v1": 2}, rate=200) as load:
        service.client.shadow("m", "v2", packages(3.0), ppm=1_000_000)
        seen = service.until(
            lambda: found if (found := service.client.status().slots["m"].shadow.observation).compared > 20 else None
        )
    assert load.report().failures == []
    assert (seen.differing, seen.largest) == (seen.compared, 7.0)
    assert service.client.canary("m", "v2", packages(3.0), ppm=1_000_000).loaded is False
    assert service.request("POST", PATH, first).json["rows"] == [{"value": 6.0}]
    service.client.promote("m")
    service.client.swap("m", "v3", packages(5.0, "y"))
    answers = [service.request("POST", PATH, body).json for body in (first, second)]
    assert [(one["version"], one["rows"]) for one in answers] == [("v2", [{"value": 6.0}]), ("v3", [{"value": 10.0}])]
    neither = service.request("POST", PATH, '{"rows":[{"z":2.0}]}')
    assert neither.status == 422
