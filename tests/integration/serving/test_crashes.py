from __future__ import annotations

import os
import signal
import time

import pytest

from modelyard.errors import ModelyardError
from modelyard.serving.faults import POINTS


def test_a_killed_worker_is_replaced_and_no_answer_is_wrong(service):
    service.start()
    service.client.swap("m", "v1", service.package(factor=2))
    workers = service.all_accept()
    with service.load({"v1": 2}, connections=4) as load:
        load.wait_for(100)
        os.kill(workers[0], signal.SIGKILL)
        load.wait_for(300)
        replaced = service.until(lambda: now if len(now := service.client.status().workers) == 2 else None)
    report = load.report()
    assert replaced != workers
    assert report.mixed == []
    # Each connection of the dead worker fails at most once, and then is answered by another worker.
    assert len(report.failures) <= 4
    assert all("Error" in sample.failure for sample in report.failures), report.failures
    assert service.client.status().restarts == 1


def test_connections_that_wait_while_a_worker_dies_are_answered_by_another(service):
    service.start()
    service.client.swap("m", "v1", service.package(factor=2))
    with service.load({"v1": 2}, rate=100, fresh=True) as load:
        for _ in range(3):
            os.kill(service.all_accept()[0], signal.SIGKILL)
            load.wait_for(30)
    report = load.report()
    assert report.mixed == []
    # Only a request that the dead worker had accepted already can fail.
    assert len(report.failures) <= 3


def test_a_worker_that_starts_while_a_swap_goes_on_never_answers_with_an_older_generation(service):
    service.start()
    service.client.swap("m", "v1", service.package(factor=2, load_seconds=1.2))
    workers = service.all_accept()
    os.kill(workers[0], signal.SIGKILL)
    # The replacement is told of v1 and still loads it when v2 is committed.
    acknowledged = service.client.swap("m", "v2", service.package(factor=3, load_seconds=0.8)).generation
    assert len(service.client.status().workers) == 1
    with service.load({"v2": 3}, rate=300, fresh=True) as load:
        service.all_accept()
        load.wait_for(60)
    report = load.report()
    assert report.failures == []
    assert {sample.generation for sample in report.samples} == {acknowledged}


def test_workers_of_a_killed_supervisor_exit_and_a_restart_serves_the_committed_generation_on_the_same_port(service):
    service.start()
    service.client.swap("m", "v1", service.package(factor=2))
    service.client.swap("m", "v2", service.package(factor=3))
    workers, url = service.all_accept(), service.client.url
    service.kill()
    service.until(lambda: not any(_running(pid) for pid in workers), timeout=5)
    assert not service.client.alive
    service.start()
    assert service.client.url == url
    assert service.predict().json == {"model": "m", "version": "v2", "generation": 2, "rows": [{"value": 3.0}]}
    assert service.client.rollback("m").loaded is False


def _running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


BEFORE = ("swap-begun", "staged", "worker-prepared", "prepared")
AFTER = ("state-written", "words-stored", "word-stored", "acknowledged")


@pytest.mark.parametrize("point", BEFORE + AFTER)
def test_a_supervisor_killed_at_any_step_leaves_one_whole_generation(service, point):
    first, second = service.package(factor=2), service.package(factor=3)
    service.start()
    service.client.swap("m", "v1", first)
    service.client.stop()
    service.process.wait(10)
    service.start(kill_at=point)
    with pytest.raises(ModelyardError):
        service.client.swap("m", "v2", second)
    service.process.wait(10)
    assert service.process.returncode == -signal.SIGKILL
    service.start()
    version, value = ("v1", 2.0) if point in BEFORE else ("v2", 3.0)
    service.all_accept()
    for _ in range(6):
        assert service.predict().json["version"] == version
        assert service.predict().json["rows"] == [{"value": value}]
    # Whatever the crash left behind, the next swap works, and under a number of its own.
    swapped = service.client.swap("m", "v3", service.package(factor=4))
    assert swapped.generation > 1
    assert service.predict().json["rows"] == [{"value": 4.0}]


MILLION = 1_000_000
OPERATIONS = {
    "canary": lambda client, package: client.canary("m", "v3", package, ppm=MILLION),
    "shadow": lambda client, package: client.shadow("m", "v3", package, ppm=MILLION),
    "share": lambda client, _: client.share("m", MILLION),
    "promote": lambda client, _: client.promote("m"),
    "end-canary": lambda client, _: client.end_canary("m"),
    "label": lambda client, _: client.label("m", "gold", "v1"),
    "rollback": lambda client, _: client.rollback("m"),
}
"""What changes a slot besides a swap, from: v1 previous and labelled `old`, v2 stable, v4 a canary of no request."""

LOADING = ("canary", "shadow")


def _whole(service) -> dict[str, object]:
    """Everything that the slot is, as one value that can be compared."""
    slot = service.client.status().slots["m"]
    return {
        "stable": slot.current.version, "previous": slot.previous and slot.previous.version, "labels": slot.labels,
        "canary": slot.canary and (slot.canary.generation.version, slot.canary.ppm),
        "shadow": slot.shadow and (slot.shadow.generation.version, slot.shadow.ppm),
    }  # fmt: skip


def _answers(service) -> set[tuple[str, float]]:
    answers = [service.predict().json for _ in range(8)]
    return {(answer["version"], answer["rows"][0]["value"]) for answer in answers}


@pytest.mark.parametrize(
    ("operation", "point"),
    [
        (operation, point)
        for operation in OPERATIONS
        for point in (BEFORE if operation in LOADING else ()) + AFTER
    ],
)  # fmt: skip
def test_a_supervisor_killed_at_any_step_of_any_operation_leaves_the_slot_whole(service, operation, point):
    factors = {"v1": 2.0, "v2": 3.0, "v3": 5.0, "v4": 7.0}
    packages = {version: service.package(factor=factor) for version, factor in factors.items()}
    service.start(workers=1)
    service.client.swap("m", "v1", packages["v1"])
    service.client.label("m", "old", "v1")
    service.client.swap("m", "v2", packages["v2"])
    service.client.canary("m", "v4", packages["v4"], ppm=0)
    before = _whole(service)
    service.client.stop()
    service.process.wait(10)
    service.start(workers=1, kill_at=point)
    with pytest.raises(ModelyardError):
        OPERATIONS[operation](service.client, packages["v3"])
    service.process.wait(10)
    assert service.process.returncode == -signal.SIGKILL
    service.start(workers=1)
    after = _whole(service)
    if point in BEFORE:
        assert after == before
    else:
        assert after != before, "what is on disk is served"
        assert service.client.label("m", "probe", after["stable"]).slot.labels["probe"]
    answering = after["canary"][0] if after["canary"] and after["canary"][1] else after["stable"]
    assert _answers(service) == {(answering, factors[answering])}
    old = service.request("POST", "/v1/models/m/labels/old/predict", '{"rows":[{"x":1.0}]}')
    assert old.json["rows"] == [{"value": 2.0}]


def test_a_supervisor_killed_while_it_retires_a_model_serves_it_no_more(service):
    service.live(m=("v1", service.package(factor=2)))
    service.start(follow=True)
    service.client.stop()
    service.process.wait(10)
    service.start(follow=True, kill_at="state-retired")
    service.live()
    service.process.wait(10)
    service.start(follow=True)
    assert service.predict().status == 404


def test_every_point_of_the_protocol_is_crashed_at():
    assert set(BEFORE + AFTER) | {"state-retired"} == set(POINTS)


def test_a_damaged_committed_file_is_an_error_that_names_it(service):
    service.folder.mkdir()
    (service.folder / "committed.json").write_text("{")
    process = service.spawn()
    assert process.wait(10) == 4
    assert "committed.json" in service.log


def test_a_committed_package_that_can_not_be_read_after_a_restart_is_not_served_and_the_rest_is(service):
    cats, dogs = service.package(factor=2), service.package(factor=3)
    service.start()
    service.client.swap("cats", "v1", cats)
    service.client.swap("dogs", "v1", dogs)
    service.kill()
    damaged = service.root / "store" / cats / "double.json"
    good = damaged.read_text()
    damaged.write_text('{"factor": 9}')
    service.process = service.spawn()
    service.until(lambda: service.client.alive)
    service.all_accept()
    assert service.predict("dogs").json["rows"] == [{"value": 3.0}]
    refused = service.predict("cats")
    assert (refused.status, refused.headers["retry-after"]) == (503, "1")
    assert service.request("GET", "/readyz").status == 503
    assert service.client.status().slots["cats"].failure.code == "integrity"
    damaged.write_text(good)
    service.client.swap("cats", "v1", cats)
    assert service.predict("cats").json["generation"] == 1
    assert service.request("GET", "/readyz").status == 200


def test_a_stop_lets_requests_in_flight_end(service):
    service.start()
    service.client.swap("m", "v1", service.package(factor=2, predict_seconds=0.5))
    service.all_accept()
    with service.load({"v1": 2}, connections=1) as load:
        time.sleep(0.2)
        load._stopping.set()
        service.client.stop()
    report = load.report()
    assert report.requests == 1
    assert report.failures == []
    assert service.process.wait(10) == 0
    assert not (service.folder / "service.json").exists()
