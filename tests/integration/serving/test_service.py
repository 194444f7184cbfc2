from __future__ import annotations

import json
import stat

import pytest

from modelyard.errors import BusyError, NotFoundError


def test_a_second_service_on_the_same_folder_is_refused(service):
    service.start()
    second = service.spawn()
    assert second.wait(10) == BusyError.exit_code
    assert "BusyError" in service.log
    assert service.client.status().ready


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.1", "::", "example.com"])
def test_a_host_that_others_can_reach_is_refused(service, host):
    service.live()
    assert service.spawn(host=host).wait(10) == 3
    assert "without proving" in service.log


def test_the_control_socket_is_for_its_owner_alone(service):
    service.start()
    assert stat.S_IMODE((service.folder / "control.sock").stat().st_mode) == 0o600


def test_a_service_in_a_very_deep_folder_can_be_controlled(service):
    service.root = service.root / ("deep" * 20) / ("deeper" * 20)
    service.root.mkdir(parents=True)
    service.start()
    assert len(str(service.folder)) > 108
    assert service.client.status().name == "dev"


def test_no_service_and_a_dead_one_are_told_apart(service):
    with pytest.raises(NotFoundError, match="No service runs here"):
        service.client.status()
    service.start()
    pid = service.client.status().pid
    service.kill()
    assert (service.folder / "service.json").exists()
    with pytest.raises(NotFoundError, match=f"process {pid}"):
        service.client.status()
    assert not service.client.alive


def test_waiting_for_a_service_that_is_not_ready_says_what_stands_in_the_way(service):
    service.live(m=("v1", "0" * 64))
    service.process = service.spawn(follow=True)
    service.until(lambda: service.client.alive)
    service.until(lambda: service.client.status().slots)
    with pytest.raises(BusyError, match="no package"):
        service.client.wait_ready(0.1)


def test_a_service_file_tells_where_it_listens(service):
    service.start()
    told = json.loads((service.folder / "service.json").read_text())
    assert told["pid"] == service.process.pid
    assert service.client.url == f"http://127.0.0.1:{told['port']}"
    assert service.request("GET", "/healthz").json == {"status": "live"}


def test_two_services_run_side_by_side_in_their_own_folders(service, tmp_path):
    other = type(service)(tmp_path / "other")
    other.root.mkdir()
    service.start()
    other.start()
    try:
        service.client.swap("m", "v1", service.package(factor=2))
        other.client.swap("m", "v1", other.package(factor=3))
        assert service.predict().json["rows"] == [{"value": 2.0}]
        assert other.predict().json["rows"] == [{"value": 3.0}]
    finally:
        other.close()


def test_sigterm_drains_and_ends_without_an_error(service):
    service.start()
    service.process.terminate()
    assert service.process.wait(10) == 0
    assert not service.client.alive


def test_readiness_waits_for_what_is_live_and_no_later_load_takes_it_back(service):
    service.live(m=("v1", service.package(factor=2, load_seconds=0.5)))
    service.process = service.spawn(follow=True)
    service.until(lambda: service.client.alive and service.client.status().workers)
    assert service.request("GET", "/healthz").status == 200
    answer = service.request("GET", "/readyz")
    assert (answer.status, answer.headers["retry-after"]) == (503, "1")
    assert service.predict().status == 503
    service.client.wait_ready(15)
    assert service.request("GET", "/readyz").status == 200
    service.live(
        m=("v2", service.package(factor=3, load_seconds=0.3)), n=("v1", service.package(factor=4, load_seconds=0.3))
    )
    while service.predict("n").status != 200:
        assert service.request("GET", "/readyz").status == 200
    assert service.predict("m").json["version"] == "v2"


def test_the_follower_swaps_rolls_back_and_retires_as_what_is_live_changes(service):
    first, second = service.package(factor=2), service.package(factor=3)
    service.live(m=("v1", first))
    service.start(follow=True)
    with service.load({"v1": 2, "v2": 3}, rate=200) as load:
        load.wait_for(20)
        service.live(m=("v2", second))
        service.until(lambda: service.predict().json["version"] == "v2")
        service.live(m=("v1", first))
        service.until(lambda: service.predict().json["version"] == "v1")
        load.wait_for(20)
    assert load.report().failures == []
    assert load.report().mixed == []
    swaps = [event for event in service.events if event["event"] == "swapped"]
    assert [event["generation"] for event in swaps] == [1, 2, 1]
    assert swaps[2]["prepare_seconds"] == 0.0
    service.live()
    service.until(lambda: service.predict().status == 404)
    service.live(m=("v1", first))
    service.until(lambda: service.predict().status == 200)
    assert service.predict().json["generation"] == 3, "a number is never given twice"


def test_the_follower_reports_what_it_can_not_serve_and_goes_on_trying(service):
    first = service.package(factor=2)
    bad = service.package(factor=3)
    file = service.root / "store" / bad / "double.json"
    good_text = file.read_text()
    file.write_text("{}")
    service.live(m=("v1", first))
    service.start(follow=True)
    service.live(m=("v2", bad))
    failure = service.until(lambda: service.client.status().slots["m"].following)
    assert failure.code == "integrity"
    assert service.predict().json["version"] == "v1"
    assert service.request("GET", "/readyz").status == 200
    file.write_text(good_text)
    service.until(lambda: service.predict().json["version"] == "v2")
    assert service.client.status().slots["m"].following is None


def test_the_follower_survives_not_knowing_what_is_live(service):
    service.live(m=("v1", service.package(factor=2)))
    service.start(follow=True)
    (service.root / "live.json").write_text("{")
    service.until(lambda: service.client.status().failure)
    assert service.predict().status == 200
    service.live(m=("v2", service.package(factor=3)))
    service.until(lambda: service.predict().json["version"] == "v2")
    assert service.client.status().failure is None


def test_a_service_that_was_stopped_and_started_again_has_the_port_it_had(service):
    service.start()
    port = service.client.status().port
    service.client.stop()
    assert service.process.wait(10) == 0
    service.start()
    assert service.client.status().port == port
