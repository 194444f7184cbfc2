from __future__ import annotations

import json
import os
import signal
import threading
import time

import pytest

from modelyard.errors import InputError, NotFoundError, RefusedError
from modelyard.serving.state import Page

MILLION = 1_000_000


def version(service):
    return service.predict().json["version"]


def repository(service, **models):
    file = service.root / "repository.json"
    file.write_text(json.dumps(models))
    return str(file)


@pytest.fixture
def released(service):
    """A service that follows releases, with v1 released, and the package of v2."""
    service.live(m=("v1", service.package(factor=2)))
    return service, service.package(factor=3)


def test_a_service_that_follows_releases_serves_nothing_else(released):
    service, second = released
    service.start(follow=True, repository=repository(service, m={"v2": second}))
    for asked in (
        lambda: service.client.swap("m", "v2", second), lambda: service.client.load("m", "v2"),
        lambda: service.client.load("other"), lambda: service.client.unload("m"),
    ):  # fmt: skip
        with pytest.raises(RefusedError, match="released") as refused:
            asked()
        assert "Release" in refused.value.remedy
    assert version(service) == "v1"
    assert service.client.status().control == "released"


def test_a_canary_by_hand_stays_beside_what_is_released_and_can_not_be_promoted(released):
    service, second = released
    service.start(follow=True, repository=repository(service, m={"v2": second}))
    service.client.canary("m", "v2", second, ppm=MILLION)
    with pytest.raises(RefusedError, match="not"):
        service.client.promote("m")
    # Several turns of the follower leave it alone.
    time.sleep(2.2)
    assert version(service) == "v2"
    service.live(m=("v2", second))
    service.until(lambda: service.client.status().slots["m"].current.version == "v2")
    swapped = [event for event in service.events if event["event"] == "swapped"]
    assert swapped[-1]["prepare_seconds"] == 0.0, "releasing the canary promotes it without a load"


def test_only_versions_that_the_repository_knows_become_canaries_of_a_service_that_follows_releases(released):
    service, second = released
    service.start(follow=True, repository=repository(service, m={"v2": second}))
    with pytest.raises(NotFoundError, match="repository"):
        service.client.canary("m", "v3", service.package(factor=5), ppm=1000)
    with pytest.raises(RefusedError, match="another package"):
        service.client.canary("m", "v2", service.package(factor=5), ppm=1000)
    begun = service.client.canary("m", "v2", ppm=MILLION)
    assert begun.slot.canary.generation.package == second


def test_a_rollback_holds_the_follower_off_until_something_else_is_released(released):
    service, second = released
    service.start(follow=True)
    service.live(m=("v2", second))
    service.until(lambda: version(service) == "v2")
    service.client.rollback("m")
    time.sleep(2.2)
    assert version(service) == "v1"
    assert service.client.status().slots["m"].held_off == ("v2", second)
    service.kill()
    service.start(follow=True)
    service.all_accept()
    time.sleep(1.2)
    assert version(service) == "v1", "a restart holds it off, too"
    service.live(m=("v3", service.package(factor=5)))
    service.until(lambda: version(service) == "v3")
    assert service.client.status().slots["m"].held_off is None
    service.live(m=("v2", second))
    service.until(lambda: version(service) == "v2")


def test_a_release_takes_over_as_a_canary_first_where_the_service_says_so(released):
    service, second = released
    service.start(follow=True, canary_ppm=300_000, canary_seconds=1.5)
    assert version(service) == "v1", "the first version has nothing to be compared with"
    with service.load({"v1": 2, "v2": 3}, rate=200) as load:
        service.live(m=("v2", second))
        canary = service.until(lambda: service.client.status().slots["m"].canary)
        assert (canary.ppm, canary.generation.version) == (300_000, "v2")
        service.until(lambda: service.client.status().slots["m"].current.version == "v2")
    assert load.report().failures == []
    begun, promoted = (
        next(event["time"] for event in service.events if event["event"] == name)
        for name in ("canary-begun", "canary-promoted")
    )
    assert promoted - begun >= 1.5


def test_a_release_that_fails_as_a_canary_is_held_off_and_the_one_before_answers_on(released):
    service, _ = released
    bad = service.package(factor=3, fail=True)
    service.start(follow=True, canary_ppm=500_000, canary_seconds=60, minimum_requests=10)
    with service.load({"v1": 2}, rate=200):
        service.live(m=("v2", bad))
        service.until(lambda: service.client.status().slots["m"].stopped)
    slot = service.client.status().slots["m"]
    assert (slot.current.version, slot.canary, slot.held_off) == ("v1", None, ("v2", bad))
    time.sleep(2.2)
    assert service.client.status().slots["m"].canary is None, "the follower does not begin it again"


def test_a_service_that_clients_control_loads_unloads_and_tells_by_name_and_version(service):
    known = repository(
        service, m={"v1": service.package(factor=2), "v2": service.package(factor=3)}, n={"v7": "0" * 64}
    )
    service.start(repository=known, follow=True, control="explicit")
    assert service.client.status().slots == {}, "what is released is not followed"
    assert service.client.load("m", "v1").version == "v1"
    assert service.client.load("m").version == "v2"
    with pytest.raises(NotFoundError, match="no package"):
        service.client.load("n")
    with pytest.raises(NotFoundError, match="repository"):
        service.client.load("m", "v9")
    told = {(one.name, one.version): (one.state, one.reason) for one in service.client.index().entries}
    assert told == {
        ("m", "v1"): ("READY", "previous"), ("m", "v2"): ("READY", "stable"), ("n", "v7"): ("UNAVAILABLE", "not loaded")
    }  # fmt: skip
    service.client.unload("m")
    # Nobody is answered any more; a worker forgets the name a moment later, and says 503 until then.
    assert service.predict().status in (404, 503)
    service.until(lambda: service.predict().status == 404)
    assert {one.state for one in service.client.index().entries} == {"UNAVAILABLE"}
    assert service.client.load("m", "v1").generation == 3


def test_a_service_without_a_repository_says_that_it_has_none(service):
    service.start()
    with pytest.raises(RefusedError, match="no repository"):
        service.client.load("m")
    assert service.client.index().entries == ()


def test_released_needs_somebody_who_tells_what_is_released(service):
    service.live()
    assert service.spawn(control="released").wait(10) == InputError.exit_code


def test_a_model_that_does_not_fit_is_refused_before_it_is_loaded_and_the_old_one_answers(service):
    service.start(memory=600 * 1024 * 1024)
    service.client.swap("m", "v1", service.package(factor=2))
    service.all_accept()
    # Two workers: the first one shows what a model of this kind takes, and the second one's share is checked by that.
    with pytest.raises(RefusedError, match="not enough memory") as refused:
        service.client.swap("m", "v2", service.package(factor=3, megabytes=1024))
    assert "1 x" in str(refused.value)
    assert version(service) == "v1"
    with pytest.raises(RefusedError, match="2 x"):
        service.client.swap("m", "v2", service.package(factor=3, megabytes=1024))
    assert [event["event"] for event in service.events].count("memory-short") == 2


def test_a_worker_is_not_replaced_while_there_is_too_little_memory_and_the_other_answers(service):
    service.start()
    service.client.swap("small", "v1", service.package(factor=2))
    service.client.swap("large", "v1", service.package(factor=3, megabytes=200))
    before = service.all_accept()
    service.close()
    # What is committed is loaded at a start, whatever was estimated; then there is room for one worker and a half.
    service.start(memory=450 * 1024 * 1024)
    before = service.all_accept()
    os.kill(before[0], signal.SIGKILL)
    told = service.until(lambda: [event for event in service.events if event["event"] == "worker-held-back"])[0]
    assert told["needed"] > max(200 * 1024 * 1024, told["left"])
    assert told["pause"] > 0
    assert "modelyard_workers_held_back 1.0" in service.request("GET", "/metrics").body.decode()
    assert "modelyard_worker_restarts_total 1.0" in service.request("GET", "/metrics").body.decode()
    assert service.client.status().workers == (before[1],)
    assert service.predict("large").status == 200
    service.client.unload("large")
    assert before[1] in service.all_accept()
    assert "modelyard_workers_held_back 0.0" in service.request("GET", "/metrics").body.decode()
    assert service.predict("small").status == 200


def test_where_nobody_answers_a_worker_is_tried_whatever_memory_is_left(service):
    service.options["workers"] = 1
    service.start(workers=1)
    service.client.swap("m", "v1", service.package(factor=2, megabytes=200))
    service.close()
    service.start(workers=1, memory=1)
    (before,) = service.all_accept()
    os.kill(before, signal.SIGKILL)
    service.until(lambda: service.client.status().workers not in ((), (before,)))
    assert version(service) == "v1"


def test_a_worker_that_dies_as_it_loads_is_tried_after_pauses_that_double(service):
    service.options["workers"] = 1
    service.start(workers=1)
    deadly = service.package(factor=2, kill_on_load=True)
    service.client.swap("m", "v1", service.package(factor=2))
    service.close()
    committed = service.folder / "committed.json"
    harmless = service.package(factor=2)
    committed.write_text(committed.read_text().replace(harmless, deadly))
    service.process = service.spawn(workers=1)
    lost = service.until(lambda: found if len(found := lost_workers(service)) >= 4 else None)
    assert [event["pause"] for event in lost[:4]] == [0.25, 0.5, 1.0, 2.0]
    assert {event["loaded"] for event in lost} == {False}


def lost_workers(service):
    return [event for event in service.events if event["event"] == "worker-lost"]


def test_names_that_are_unloaded_and_were_never_served_take_no_place(service):
    service.start(workers=1)
    for number in range(Page.MAX_SLOTS + 1):
        service.client.unload(f"invented-{number}")
    service.client.swap("m", "v1", service.package(factor=2))
    assert version(service) == "v1"


def test_memory_that_is_not_checked_refuses_nothing(service):
    service.start(memory=0)
    service.client.swap("m", "v1", service.package(factor=2, megabytes=100))
    assert version(service) == "v1"


def test_a_worker_whose_event_loop_stands_still_is_replaced_and_the_other_answers_meanwhile(service):
    service.start(hang_seconds=1.5)
    service.client.swap("m", "v1", service.package(factor=2))
    before = service.all_accept()
    os.kill(before[0], signal.SIGSTOP)
    stopped = time.monotonic()
    service.until(lambda: before[0] not in service.client.status().workers)
    assert time.monotonic() - stopped > 1.2
    after = service.all_accept()
    assert before[1] in after
    assert [event["worker_pid"] for event in service.events if event["event"] == "worker-hung"] == [before[0]]
    assert version(service) == "v1"


def test_a_request_that_hangs_ends_in_a_connection_error_when_its_worker_is_replaced(service):
    service.start(hang_seconds=1.5, workers=1)
    service.options["workers"] = 1
    service.client.swap("m", "v1", service.package(factor=2, hang_at=7.0))
    service.all_accept()
    with pytest.raises(ConnectionError):
        service.predict(x=7.0)
    service.until(lambda: service.client.status().restarts == 1)
    service.all_accept()
    assert version(service) == "v1"


def test_a_worker_that_is_busy_with_a_long_prediction_is_not_replaced(service):
    service.start(hang_seconds=3.0)
    service.client.swap("m", "v1", service.package(factor=2, predict_seconds=1.5))
    service.all_accept()
    with service.load({"v1": 2}, connections=2) as load:
        load.wait_for(6)
    assert load.report().failures == []
    assert service.client.status().restarts == 0


def test_a_rollback_does_not_wait_for_another_models_slow_load(service):
    service.start()
    service.client.swap("m", "v1", service.package(factor=2))
    service.client.swap("m", "v2", service.package(factor=3))
    service.all_accept()
    slow = service.package(factor=5, load_seconds=3.0)

    loading = threading.Thread(target=service.client.swap, args=("n", "v1", slow))
    loading.start()
    service.until(lambda: '"prepare' in service.log or loading.is_alive())
    begun = time.monotonic()
    assert service.client.rollback("m").version == "v1"
    assert time.monotonic() - begun < 1.0
    assert loading.is_alive()
    loading.join()
    assert service.predict("n").json["version"] == "v1"


def test_a_worker_that_stands_still_does_not_stop_the_supervisor_however_much_it_is_told(service):
    service.start(hang_seconds=600)
    service.client.swap("m", "v1", service.package(factor=2))
    before = service.all_accept()
    os.kill(before[0], signal.SIGSTOP)
    # More frames than its socket takes.
    for _ in range(200):
        service.client.label("m", "gold", "v1")
        service.client.label("m", "gold", None)
    after = service.all_accept()
    assert before[0] not in after
    assert before[1] in after
    assert service.client.status().restarts == 1
