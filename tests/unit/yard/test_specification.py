"""A service for several blueprints is as wide as the widest, and as careful as the most careful."""

from __future__ import annotations

import msgspec

from modelyard.blueprint.model import Canary, Limits, Sandbox, Service, Slo
from modelyard.serving import spec
from modelyard.yard.specification import promises_of


def test_without_blueprints_the_runner_s_defaults_hold():
    assert promises_of([]) == {}


def test_a_blueprint_that_promises_nothing_leaves_the_judge_s_defaults():
    promises = promises_of([Service()])
    assert "error_rate" not in promises
    assert "p99_seconds" not in promises
    assert (promises["canary_ppm"], promises["minimum_requests"], promises["grace_seconds"]) == (0, 50, 30.0)


def test_the_widest_door_and_the_strictest_promise_count():
    first = Service(slo=Slo(p99_ms=200.0, error_rate=0.05), canary=Canary(share=0.2, hold=60.0, minimum=10),
                    limits=Limits(rows=10, body_bytes=500, in_flight=9), grace=5.0)  # fmt: skip
    second = Service(slo=Slo(p99_ms=50.0), canary=Canary(share=0.05, hold=600.0, minimum=100),
                     limits=Limits(rows=20, body_bytes=100, in_flight=3), grace=60.0)  # fmt: skip
    third = Service(limits=Limits(rows=1, body_bytes=1, in_flight=1), grace=0.0)
    found = promises_of([first, second, third])
    limits = found.pop("limits")
    assert (limits.rows, limits.body_bytes, limits.in_flight) == (20, 500, 9)
    assert found == {
        "error_rate": 0.05, "p99_seconds": 0.05, "minimum_requests": 100, "canary_ppm": 50_000,
        "canary_seconds": 600.0, "grace_seconds": 60.0,
    }  # fmt: skip


def test_every_limit_of_a_runner_is_one_of_the_blueprint_s_with_the_same_default():
    assert promises_of([Service()])["limits"] == spec.Limits()
    assert Limits().model_dump() == msgspec.to_builtins(spec.Limits())


def test_the_widest_of_each_limit_counts():
    narrow = Limits(
        body_seconds=1.0, decompression_ratio=2, unpacked_bytes=3, upload_bytes=4, uploads=5, staged_seconds=6.0,
        sandbox=Sandbox(memory=7, cpu_seconds=8, seconds=9.0, file_bytes=10, processes=11, idle_seconds=12.0),
    )  # fmt: skip
    found = promises_of([Service(limits=narrow)])["limits"]
    assert {name: getattr(found, name) for name in narrow.model_fields_set - {"sandbox"}} == {
        "body_seconds": 1.0, "decompression_ratio": 2, "unpacked_bytes": 3, "upload_bytes": 4, "uploads": 5,
        "staged_seconds": 6.0,
    }  # fmt: skip
    assert msgspec.to_builtins(found.sandbox) == narrow.sandbox.model_dump()
    both = promises_of([Service(limits=narrow), Service()])["limits"]
    assert (both.uploads, both.upload_bytes) == (8, 512 * 1024 * 1024)
    assert (both.sandbox.processes, both.sandbox.memory) == (11, 2 * 1024**3)
