from __future__ import annotations

import pytest

from modelyard.serving.spec import ServiceSpec


@pytest.mark.parametrize(("option", "value"), [("host", "0.0.0.0"), ("workers", 0), ("port", 70000)])
def test_a_service_that_can_not_be_is_refused_before_anything_starts(tmp_path, option, value):
    with pytest.raises(Exception, match=r"impossible|may not listen"):
        ServiceSpec(name="dev", folder=tmp_path, **{option: value}).check()
