from __future__ import annotations

from modelyard.testing.load import LoadGenerator


def test_a_load_generator_notices_an_answer_that_is_not_its_versions(service):
    service.start(workers=1)
    service.client.swap("m", "v1", service.package(factor=2))
    with service.load({"v1": 3}, connections=1) as load:
        load.wait_for(10)
    assert len(load.report().mixed) == load.report().requests


def test_a_load_generator_counts_refusals_and_broken_connections_as_failures(service):
    service.start(workers=1)
    with service.load({}, connections=1, rate=50) as load:
        load.wait_for(5)
        service.kill()
        load.wait_for(20)
    reasons = {sample.failure.split()[0] for sample in load.report().failures}
    assert len(load.report().failures) == load.report().requests
    assert "404" in reasons
    assert len(reasons) > 1


def test_latency_counts_from_when_a_request_was_due(service):
    service.start(workers=1)
    service.client.swap("slow", "v1", service.package(factor=2, predict_seconds=0.1))
    url = f"{service.client.url}/v1/models/slow/predict"
    with LoadGenerator(url, b'{"rows":[{"x":1}]}', connections=1, rate=50) as load:
        load.wait_for(15)
    samples = load.report().samples
    assert samples[14].ended - samples[14].begun < 0.3
    assert samples[14].ended - samples[14].due > 0.8, (
        "fourteen answers of 100 ms delayed it, and it was due after 280 ms"
    )
    assert load.report().latency(0.99) > 0.8
