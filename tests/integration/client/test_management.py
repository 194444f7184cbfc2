"""Both clients manage the models of a real runner: load, canary, shadow, labels, rollback, and who may not."""

from __future__ import annotations

import json

import numpy as np
import pytest
from real_packages import write_package

from modelyard.client import (
    AccessDeniedError,
    ConflictError,
    InvalidRequestError,
    ModelNotFoundError,
    UnauthorizedError,
)
from modelyard.serving.auth.keys import KeyFile


@pytest.fixture
def managed(service):
    """A service whose repository knows v1 (twice x) and v2 (three times x)."""
    service.options |= {"loader": "modelyard.serving.packaged", "control": "explicit"}
    store = service.root / "store"
    store.mkdir()
    known = {"m": {f"v{n}": write_package(store, float(n + 1)) for n in (1, 2)}}
    (service.root / "repository.json").write_text(json.dumps(known))
    return service.start(workers=1, repository=str(service.root / "repository.json"))


def test_versions_are_listed_loaded_and_unloaded(managed, connect):
    client = connect(managed.client.url)
    assert {(one["name"], one["version"], one["state"]) for one in client.repository()} == {
        ("m", "v1", "UNAVAILABLE"), ("m", "v2", "UNAVAILABLE")
    }  # fmt: skip
    assert client.load("m", "v1") is None
    assert client.predict("m", [{"x": 1.0}]).version == "v1"
    assert [one["version"] for one in client.repository(ready=True)] == ["v1"]
    # Without a version, the one that the repository names; loading what answers changes nothing.
    client.load("m")
    generation = client.predict("m", [{"x": 1.0}]).generation
    client.load("m", "v2")
    assert client.predict("m", [{"x": 1.0}]).generation == generation
    client.unload("m")
    with pytest.raises(ModelNotFoundError):
        client.predict("m", [{"x": 1.0}])
    for missing in (lambda: client.load("m", "v9"), lambda: client.load("nobody")):
        with pytest.raises(ModelNotFoundError):
            missing()


def test_a_canary_grows_is_ended_promoted_and_rolled_back(managed, connect):
    client = connect(managed.client.url)
    client.load("m", "v1")
    assert client.canary("m", "v2", share=0.05)["canary"]["ppm"] == 50_000
    assert client.canary("m", share=1.0)["canary"]["ppm"] == 1_000_000
    assert client.predict("m", [{"x": 1.0}]).version == "v2"
    assert client.end_canary("m")["canary"] is None
    assert client.predict("m", [{"x": 1.0}]).version == "v1"
    client.canary("m", "v2", share=0.5)
    assert client.promote("m")["current"]["version"] == "v2"
    assert client.rollback("m")["current"]["version"] == "v1"
    assert client.status("m")["previous"]["version"] == "v2"
    for nothing in (lambda: client.promote("m"), lambda: client.end_canary("m"), lambda: client.canary("m", share=0.1)):
        with pytest.raises(ModelNotFoundError, match="canary"):
            nothing()
    with pytest.raises(ConflictError, match="stable"):
        client.canary("m", "v1", share=0.1)
    for share in (-0.1, 1.1, float("nan")):
        with pytest.raises(InvalidRequestError, match="share"):
            client.canary("m", "v2", share=share)


def test_shadows_compare_and_labels_are_asked(managed, connect):
    client = connect(managed.client.url)
    client.load("m", "v1")
    client.shadow("m", "v2", share=1.0)
    assert client.predict("m", [{"x": 1.0}]).version == "v1"
    managed.until(lambda: client.status("m")["shadow"]["observation"]["differing"] == 1)
    assert "champion" in client.label("m", "champion", "v1")["labels"]
    assert client.predict("m", [{"x": 1.0}], label="champion").version == "v1"
    assert "champion" not in client.remove_label("m", "champion")["labels"]
    assert client.end_shadow("m")["shadow"] is None
    with pytest.raises(InvalidRequestError):
        client.label("m", "stable", "v1")
    with pytest.raises(ModelNotFoundError):
        client.remove_label("m", "champion")


def test_large_arrays_travel_as_arrow_to_the_runner_and_back(managed, connect):
    client = connect(managed.client.url)
    client.load("m", "v1")
    values = np.arange(5000, dtype=np.float32)
    for encoding in (None, "arrow", "json"):
        answer = client.predict("m", {"x": values}, encoding=encoding)
        np.testing.assert_array_equal(next(iter(answer.columns.values())), 2 * values)


def test_a_key_opens_what_its_scopes_allow(managed, connect, tmp_path):
    managed.close()
    keys = KeyFile(tmp_path / "keys.json")
    infer, _ = keys.add(["infer"])
    operate, _ = keys.add(["read", "load", "promote"])
    managed.start(
        workers=1, repository=str(managed.root / "repository.json"), auth={"keys": str(keys.path)}
    )  # fmt: skip
    url = managed.client.url
    operator, asker, nobody = connect(url, api_key=operate), connect(url, api_key=infer), connect(url)
    operator.load("m", "v1")
    assert asker.predict("m", [{"x": 1.0}]).version == "v1"
    assert connect(url, token=infer).predict("m", [{"x": 1.0}]).version == "v1"
    operator.canary("m", "v2", share=0.5)
    for refused in (
        lambda: asker.rollback("m"), lambda: asker.canary("m", "v2", share=1.0), lambda: asker.load("m"),
        lambda: asker.status("m"), lambda: asker.repository(), lambda: operator.predict("m", [{"x": 1.0}]),
    ):  # fmt: skip
        with pytest.raises(AccessDeniedError):
            refused()
    for refused in (lambda: nobody.status("m"), lambda: connect(url, api_key="myk_wrong").promote("m")):
        with pytest.raises(UnauthorizedError):
            refused()
    assert operator.promote("m")["current"]["version"] == "v2"
