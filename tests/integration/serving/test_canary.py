from __future__ import annotations

import json
import time

import pytest

from modelyard.errors import InputError, IntegrityError, NotFoundError, RefusedError

MILLION = 1_000_000


def ask(service, pinned="", **headers):
    return service.request("POST", f"/v1/models/m{pinned}/predict", '{"rows":[{"x":1.0}]}', **headers)


def versions(service, requests=200, **headers):
    return [ask(service, **headers).headers["x-model-version"] for _ in range(requests)]


@pytest.fixture
def pair(service):
    """A service with v1 (times 2), and the package of v2 (times 3)."""
    service.start(minimum_requests=20)
    service.client.swap("m", "v1", service.package(factor=2))
    service.all_accept()
    return service, service.package(factor=3)


def test_a_canary_answers_its_share_under_load_and_fails_nothing(pair):
    service, second = pair
    with service.load({"v1": 2, "v2": 3}, rate=400) as load:
        load.wait_for(50)
        begun = service.client.canary("m", "v2", second, ppm=250_000)
        load.wait_for(800)
        promoted = service.client.promote("m")
        moment = time.monotonic()
        load.wait_for(100)
    report = load.report()
    assert report.failures == []
    assert report.mixed == []
    assert (begun.slot.canary.ppm, begun.slot.labels) == (250_000, {"stable": 1, "canary": 2})
    assert (promoted.version, promoted.replaced, promoted.loaded) == ("v2", 1, False)
    shared = report.between(report.samples[60].due, moment - 0.3)
    assert 0.15 < shared.versions["v2"] / shared.requests < 0.35
    assert {sample.version for sample in report.samples if sample.begun >= moment} == {"v2"}


def test_a_client_with_a_key_gets_the_same_of_the_two_each_time_from_any_worker(pair):
    service, second = pair
    service.client.canary("m", "v2", second, ppm=500_000)
    seen = {f"client-{n}": set(versions(service, 12, x_routing_key=f"client-{n}")) for n in range(16)}
    assert all(len(found) == 1 for found in seen.values())
    assert set.union(*seen.values()) == {"v1", "v2"}
    service.client.share("m", MILLION)
    assert set(versions(service, 50)) == {"v2"}
    service.client.share("m", 0)
    assert set(versions(service, 50)) == {"v1"}


def test_a_promotion_and_a_rollback_need_no_load_and_take_under_five_milliseconds(pair):
    service, second = pair
    times = []
    for _ in range(4):
        service.client.canary("m", "v2", second, ppm=1000)
        times.append(service.client.promote("m").commit_seconds)
        assert set(versions(service, 20)) == {"v2"}
        back = service.client.rollback("m")
        times.append(back.commit_seconds)
        assert (back.loaded, set(versions(service, 20))) == (False, {"v1"})
    assert min(times) < 0.005
    assert service.client.status().slots["m"].labels == {"stable": 1}


def test_a_canary_that_is_ended_is_unloaded_and_the_previous_generation_stays(pair):
    service, second = pair
    service.client.swap("m", "v3", service.package(factor=5))
    service.client.canary("m", "v2", second, ppm=MILLION)
    ended = service.client.end_canary("m")
    assert (ended.slot.canary, ended.slot.previous.version) == (None, "v1")
    assert set(versions(service, 30)) == {"v3"}
    service.until(lambda: [e["generation"] for e in service.events if e["event"] == "unloaded"] == [3, 3])
    assert service.client.rollback("m").loaded is False
    with pytest.raises(NotFoundError, match="canary"):
        service.client.end_canary("m")
    with pytest.raises(NotFoundError, match="canary"):
        service.client.promote("m")


def test_a_swap_and_a_rollback_leave_one_generation_answering(pair):
    service, second = pair
    service.client.canary("m", "v2", second, ppm=MILLION)
    service.client.swap("m", "v3", service.package(factor=5))
    assert service.client.status().slots["m"].canary is None
    assert set(versions(service, 30)) == {"v3"}
    service.client.canary("m", "v2", second, ppm=MILLION)
    assert service.client.rollback("m").version == "v1"
    assert set(versions(service, 30)) == {"v1"}


def test_what_can_not_be_a_canary_is_refused_and_changes_nothing(pair):
    service, second = pair
    with pytest.raises(NotFoundError, match="served"):
        service.client.canary("other", "v2", second, ppm=1000)
    with pytest.raises(RefusedError, match="stable"):
        service.client.canary("m", "v1", service.package(factor=2), ppm=1000)
    with pytest.raises(IntegrityError, match="golden"):
        service.client.canary("m", "v2", service.package(factor=3, refuse=True), ppm=1000)
    with pytest.raises(InputError, match="parts per million"):
        service.client.canary("m", "v2", second, ppm=MILLION + 1)
    assert service.client.status().slots["m"].canary is None
    assert set(versions(service, 20)) == {"v1"}


def test_a_canary_that_fails_too_often_is_stopped_by_itself_and_says_why(pair):
    service, _ = pair
    bad = service.package(factor=3, fail=True)
    service.client.canary("m", "v2", bad, ppm=500_000)
    with service.load({"v1": 2}, rate=200) as load:
        load.wait_for(20)
        service.until(lambda: service.client.status().slots["m"].canary is None)
        moment = time.monotonic()
        load.wait_for(100)
    late = [sample for sample in load.report().samples if sample.begun >= moment]
    assert late
    assert not any(sample.failure for sample in late)
    stopped = service.client.status().slots["m"].stopped
    assert (stopped.role, stopped.version) == ("canary", "v2")
    assert "errors" in stopped.reason
    metrics = service.request("GET", "/metrics").body.decode()
    assert 'modelyard_canaries_stopped_total{model="m"} 1.0' in metrics
    assert [event["version"] for event in service.events if event["event"] == "canary-stopped"] == ["v2"]


def test_a_canary_that_is_too_slow_is_stopped_by_itself(service):
    service.start(minimum_requests=20, p99_seconds=0.02, error_rate=None)
    service.client.swap("m", "v1", service.package(factor=2))
    service.client.canary("m", "v2", service.package(factor=3, predict_seconds=0.05), ppm=500_000)
    with service.load({"v1": 2, "v2": 3}, connections=2) as load:
        service.until(lambda: service.client.status().slots["m"].stopped)
    assert "p99" in service.client.status().slots["m"].stopped.reason
    assert load.report().failures == []
    assert set(versions(service, 30)) == {"v1"}


def test_a_canary_within_the_limits_goes_on_and_the_status_tells_its_figures(pair):
    service, second = pair
    service.client.canary("m", "v2", second, ppm=500_000)
    with service.load({"v1": 2, "v2": 3}, rate=300) as load:
        canary = service.until(
            lambda: seen if (seen := service.client.status().slots["m"].canary).observation.requests > 60 else None
        )
    assert load.report().failures == []
    assert canary.error_rate == 0.0
    assert 0 < canary.p99_seconds < 1
    assert service.client.status().slots["m"].stopped is None


def test_a_canary_of_another_contract_leaves_what_does_not_fit_it_to_the_stable_one(pair):
    service, _ = pair
    service.client.canary("m", "v2", service.package(factor=3, input="y"), ppm=MILLION)
    assert ask(service).json["version"] == "v1"
    answer = service.request("POST", "/v1/models/m/predict", '{"rows":[{"y":1.0}]}')
    assert (answer.json["version"], answer.json["rows"]) == ("v2", [{"value": 3.0}])


def test_a_shadow_sees_requests_answers_none_and_its_differences_are_told_without_data(pair):
    service, second = pair
    service.client.shadow("m", "v2", second, ppm=MILLION)
    with service.load({"v1": 2}, rate=200) as load:
        shadow = service.until(
            lambda: seen if (seen := service.client.status().slots["m"].shadow).observation.compared > 40 else None
        )
    report = load.report()
    assert (report.failures, set(report.versions)) == ([], {"v1"})
    seen = shadow.observation
    # Rows hold x = 7: 14 was answered, 21 is what the shadow says.
    assert (seen.differing, seen.largest, seen.errors) == (seen.compared, 7.0, 0)
    assert {(one.rows, one.field, one.difference) for one in seen.differences} == {(1, "value", 7.0)}
    metrics = service.request("GET", "/metrics").body.decode()
    assert 'modelyard_shadow_differing_total{model="m"}' in metrics
    ended = service.client.end_shadow("m")
    assert ended.slot.shadow is None
    service.until(lambda: [e["generation"] for e in service.events if e["event"] == "unloaded"] == [2, 2])


def test_a_shadow_that_fails_or_stands_still_touches_no_answer_and_is_stopped(pair):
    service, _ = pair
    service.client.shadow("m", "v2", service.package(factor=3, fail=True), ppm=MILLION)
    with service.load({"v1": 2}, rate=200) as load:
        service.until(lambda: service.client.status().slots["m"].stopped)
        load.wait_for(20)
    assert load.report().failures == []
    assert service.client.status().slots["m"].stopped.role == "shadow"
    service.client.shadow("m", "v3", service.package(factor=5, predict_seconds=0.5), ppm=MILLION)
    with service.load({"v1": 2}, rate=300) as load:
        service.until(lambda: service.client.status().slots["m"].shadow.observation.dropped > 0)
    assert load.report().failures == []


def test_a_shadow_becomes_a_canary_without_a_load_and_the_canary_can_be_no_shadow(pair):
    service, second = pair
    service.client.shadow("m", "v2", second, ppm=MILLION)
    begun = service.client.canary("m", "v2", second, ppm=1000)
    assert (begun.loaded, begun.slot.shadow, begun.slot.canary.generation.number) == (False, None, 2)
    with pytest.raises(RefusedError, match="canary"):
        service.client.shadow("m", "v2", second, ppm=1000)
    with pytest.raises(RefusedError, match="stable"):
        service.client.shadow("m", "v1", service.package(factor=2), ppm=1000)


def test_labels_route_to_what_is_loaded_and_keep_it_loaded(pair):
    service, second = pair
    labelled = service.client.label("m", "gold", "v1")
    assert labelled.slot.labels == {"stable": 1, "gold": 1}
    service.client.swap("m", "v2", second)
    service.client.swap("m", "v3", service.package(factor=5))
    service.client.swap("m", "v4", service.package(factor=7))
    assert service.client.status().slots["m"].labels == {"stable": 4, "gold": 1}
    for _ in range(20):
        assert ask(service, "/labels/gold").json["rows"] == [{"value": 2.0}]
        assert ask(service, "/labels/stable").json["rows"] == [{"value": 7.0}]
    with pytest.raises(NotFoundError, match="not loaded"):
        service.client.label("m", "old", "v2")
    for label in ("stable", "canary", "", "a b", "x" * 64):
        with pytest.raises(InputError):
            service.client.label("m", label, "v1")
    service.client.label("m", "gold", "v3")
    assert ask(service, "/labels/gold").json["version"] == "v3"
    service.client.label("m", "gold", None)
    assert ask(service, "/labels/gold").status == 404
    with pytest.raises(NotFoundError, match="label"):
        service.client.label("m", "gold", None)
    metrics = service.request("GET", "/metrics").body.decode()
    assert 'modelyard_label_generation{label="stable",model="m"} 4.0' in metrics


def test_a_label_is_given_to_eight_generations_at_most(pair):
    service, _ = pair
    for number in range(8):
        service.client.label("m", f"label-{number}", "v1")
    with pytest.raises(RefusedError, match="labels already"):
        service.client.label("m", "ninth", "v1")
    assert ask(service, "/labels/label-7").status == 200


def test_a_pinned_version_is_answered_by_that_version_or_not_at_all(pair):
    service, second = pair
    service.client.canary("m", "v2", second, ppm=0)
    for _ in range(20):
        assert ask(service, "/versions/v2").json["rows"] == [{"value": 3.0}]
        assert ask(service, "/versions/v1").json["rows"] == [{"value": 2.0}]
    service.client.promote("m")
    assert ask(service, "/versions/v1").json["version"] == "v1", "the previous one is still held"
    service.client.swap("m", "v3", service.package(factor=5))
    assert ask(service, "/versions/v1").status == 404


def test_what_fits_only_the_contract_before_is_answered_by_it_until_the_window_of_grace_is_over(service):
    service.start(grace_seconds=2.0)
    service.client.swap("m", "v1", service.package(factor=2))
    new, other = '{"rows":[{"y":1.0}]}', service.package(factor=3, input="y")
    with service.load({"v1": 2}, rate=200) as load:
        load.wait_for(20)
        service.client.swap("m", "v2", other)
        begun = time.monotonic()
        assert service.client.status().slots["m"].grace.keys() == {1}
        assert service.request("POST", "/v1/models/m/predict", new).json["version"] == "v2"
        # Another swap in the window does not cut it short, though v1 is no longer the previous one.
        service.client.swap("m", "v3", service.package(factor=4, input="y"))
        load.wait_for(60)
    report = load.report()
    assert [sample for sample in report.samples if sample.failure and sample.due < begun + 1.9] == []
    service.until(lambda: service.predict().status == 422)
    assert time.monotonic() > begun + 1.9
    service.until(lambda: service.client.status().slots["m"].grace == {})
    service.until(lambda: [e["generation"] for e in service.events if e["event"] == "unloaded"] == [1, 1])


def test_canary_shadow_labels_and_grace_survive_a_killed_supervisor(pair):
    service, second = pair
    service.client.swap("m", "v0", service.package(factor=11, input="z"))
    service.client.label("m", "gold", "v1")
    service.client.canary("m", "v2", second, ppm=MILLION)
    service.client.shadow("m", "v3", service.package(factor=5), ppm=500_000)
    before = service.client.status().slots["m"]
    service.kill()
    service.start()
    service.all_accept()
    after = service.client.status().slots["m"]
    assert (after.labels, after.grace) == (before.labels, before.grace)
    assert (after.canary.ppm, after.canary.since) == (MILLION, before.canary.since)
    assert (after.shadow.ppm, after.shadow.generation) == (500_000, before.shadow.generation)
    assert set(versions(service, 20)) == {"v2"}
    assert ask(service, "/labels/gold").json["version"] == "v1"
    assert service.client.promote("m").loaded is False


def test_a_canary_whose_package_is_gone_after_a_restart_is_dropped_and_the_stable_one_answers(pair):
    service, second = pair
    service.client.canary("m", "v2", second, ppm=MILLION)
    service.kill()
    (service.root / "store" / second / "double.json").write_text(json.dumps({"factor": 9}))
    service.start()
    service.all_accept()
    assert set(versions(service, 20)) == {"v1"}
    slot = service.client.status().slots["m"]
    assert (slot.canary, slot.labels) == (None, {"stable": 1})


def test_contract_flips_under_load_fail_no_request_of_either_contract(service):
    service.start()
    columns = {f"v{number}": "xy"[number % 2] for number in range(12)}
    packages = {version: service.package(factor=2, input=column, n=version) for version, column in columns.items()}
    service.client.swap("m", "v0", packages["v0"])
    service.all_accept()
    with service.load(dict.fromkeys(columns, 2.0), rate=300) as load:
        for version in list(columns)[1:]:
            service.client.swap("m", version, packages[version])
            # The generation before has the other contract: both kinds are answered, each by its own.
            new = service.request("POST", "/v1/models/m/predict", f'{{"rows":[{{"{columns[version]}":1.0}}]}}')
            assert (new.status, new.json["version"]) == (200, version)
            load.wait_for(20)
    report = load.report()
    assert report.failures == []
    assert report.mixed == []
    assert {columns[version] for version in report.versions} == {"x"}


def test_canaries_begin_change_and_end_under_load_without_a_failed_request(service):
    service.start()
    factors = {f"v{number}": float(number + 2) for number in range(5)}
    packages = {version: service.package(factor=factor) for version, factor in factors.items()}
    service.client.swap("m", "v0", packages["v0"])
    service.all_accept()
    with service.load(factors, rate=400) as load:
        for version in ("v1", "v2", "v3", "v4"):
            service.client.canary("m", version, packages[version], ppm=300_000)
            load.wait_for(15)
            service.client.share("m", 700_000)
            load.wait_for(15)
            if version in ("v2", "v4"):
                service.client.promote("m")
            else:
                service.client.end_canary("m")
            load.wait_for(15)
        service.client.rollback("m")
    report = load.report()
    assert report.failures == []
    assert report.mixed == []
    assert set(report.versions) == set(factors)
