"""The benchmarks of the runner work: their quick forms, without peers, against a real service."""

from __future__ import annotations

import shutil

import pytest
from benchmarks import serving, serving_grpc, swaps
from benchmarks.contenders import SURFACES


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")
def test_serving_is_measured_on_every_surface_and_beside_its_ceiling() -> None:
    results, failed = serving.measure(1, True, ())
    assert failed == {}
    forest = results["forest, ONNX"]
    assert {serving.OURS, serving.CEILING, serving.CEILING_READ} == set(forest)
    for model in ("forest, ONNX", "digits, ONNX", "no-op, ONNX"):
        for surface in SURFACES:
            assert results[model][serving.OURS][f"{surface} rate".removeprefix("plain ")]["median"] > 100
    for table in serving.tables(results):
        assert all(len(row) == len(table.header) for row in table.rows)
    judged = {promise.what: promise.kept for promise in serving.promises(results)}
    assert judged.pop("The forest over our HTTP server's ceiling") in (True, False)
    # Nothing is said of peers that did not take part.
    assert set(judged.values()) == {None}


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("h2load") is None, reason="h2load is not installed")
def test_serving_is_measured_over_grpc() -> None:
    results, failed = serving_grpc.measure(1, True, ())
    assert failed == {}
    for model in serving_grpc.SUBJECTS:
        for shape in serving_grpc.SHAPES:
            assert results[model][serving_grpc.OURS][f"{shape} rate"]["median"] > 100
    for table in serving_grpc.tables(results):
        assert all(len(row) == len(table.header) for row in table.rows)
    assert {promise.kept for promise in serving_grpc.promises(results)} == {None}


@pytest.mark.slow
def test_no_request_fails_and_no_answer_is_old_while_versions_contracts_and_processes_change() -> None:
    results, left = swaps.measure(1, True, ())
    assert left == {"container": "a quick run builds no image"}
    own = results["modelyard"]
    assert (own["failed"], own["mixed"], own["stale"]) == (0, 0, 0)
    assert own["swaps"] >= 40
    assert own["flips"] == 4
    assert own["grace"] > 0
    assert own["injected"] == len(swaps.INJECTIONS)
    assert own["sent again"] > 0
    for table in swaps.tables(results):
        assert all(len(row) == len(table.header) for row in table.rows)
