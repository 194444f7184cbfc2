from __future__ import annotations

import pytest

from modelyard.errors import InputError
from modelyard.serving.sandbox import Bounds
from modelyard.serving.spec import Limits, ServiceSpec


@pytest.mark.parametrize(("option", "value"), [("host", "0.0.0.0"), ("workers", 0), ("port", 70000)])
def test_a_service_that_can_not_be_is_refused_before_anything_starts(tmp_path, option, value):
    with pytest.raises(Exception, match=r"impossible|may not listen"):
        ServiceSpec(name="dev", folder=tmp_path, **{option: value}).check()


@pytest.mark.parametrize("limits", [
    Limits(uploads=0), Limits(body_seconds=0.0), Limits(unpacked_bytes=-1), Limits(sandbox=Bounds(memory=0)),
    Limits(sandbox=Bounds(processes=0)), Limits(sandbox=Bounds(idle_seconds=-1.0)),
])  # fmt: skip
def test_a_limit_of_nothing_is_refused(tmp_path, limits):
    with pytest.raises(InputError, match=r"The limit \w+ can't be"):
        ServiceSpec(name="dev", folder=tmp_path, limits=limits).check()


def test_a_process_may_end_as_soon_as_it_has_answered(tmp_path):
    ServiceSpec(name="dev", folder=tmp_path, limits=Limits(sandbox=Bounds(idle_seconds=0.0))).check()
