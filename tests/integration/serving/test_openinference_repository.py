"""The model repository extension, and swaps under load seen through `/v2`."""

from __future__ import annotations

import http.client
import json
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

REPOSITORY = "/v2/repository"


@pytest.fixture
def repository(service):
    packages = {version: service.package(factor=factor) for version, factor in (("v1", 2), ("v2", 3), ("v3", 5))}
    file = service.root / "repository.json"
    file.write_text(json.dumps({"m": packages, "other": {"v1": packages["v1"]}}))
    service.options |= {"repository": str(file), "workers": 2}
    service.start()
    return service


def index(service, **asked: bool):
    answer = service.request("POST", f"{REPOSITORY}/index", json.dumps(asked) if asked else None)
    assert answer.status == 200, answer.body
    return [(entry["name"], entry["version"], entry["state"]) for entry in answer.json]


def infer(service, path: str = "/v2/models/m/infer"):
    body = {"inputs": [{"name": "x", "datatype": "FP64", "shape": [1], "data": [7.0]}]}
    answer = service.request("POST", path, json.dumps(body))
    assert answer.status == 200, answer.body
    return answer.json["model_version"], answer.json["outputs"][0]["data"]


def load(service, name: str = "m", **parameters: str):
    body = json.dumps({"parameters": parameters}) if parameters else None
    return service.request("POST", f"{REPOSITORY}/models/{name}/load", body)


def test_what_may_be_loaded_is_listed_loaded_and_unloaded(repository):
    known = [("m", "v1"), ("m", "v2"), ("m", "v3"), ("other", "v1")]
    assert index(repository) == [(*one, "UNAVAILABLE") for one in known]
    assert index(repository, ready=True) == []
    assert repository.request("GET", "/v2/models/m/ready").status == 404
    assert (load(repository, version="v1").status, load(repository, version="v1").json) == (200, {})
    assert infer(repository) == ("v1", [14.0])
    assert index(repository, ready=True) == [("m", "v1", "READY")]
    assert load(repository).status == 200, "without a version it is the one that the repository names"
    assert infer(repository) == ("v3", [35.0])
    assert infer(repository, "/v2/models/m/versions/v1/infer") == ("v1", [14.0])
    assert repository.request("GET", "/v2/models/m").json["versions"] == ["v3", "v1"]
    unload = repository.request("POST", f"{REPOSITORY}/models/m/unload", '{"parameters":{"unload_dependents":true}}')
    assert (unload.status, unload.json) == (200, {})
    repository.until(lambda: repository.request("GET", "/v2/models/m/ready").status == 404)
    assert index(repository, ready=True) == []


@pytest.mark.parametrize(
    ("name", "parameters", "status"),
    [
        ("m", {"version": "v9"}, 404),
        ("nobody", {}, 404),
        ("m", {"config": "{}"}, 400),
        ("m", {"file:1/model.onnx": "AAAA"}, 400),
        ("m", {"version": "../../etc"}, 404),
        ("..", {}, 404),
    ],
)
def test_what_the_repository_does_not_know_is_refused_and_what_is_served_goes_on(repository, name, parameters, status):
    load(repository, version="v1")
    answer = load(repository, name, **parameters)
    assert answer.status == status, answer.body
    assert answer.json["error"] == answer.json["detail"]
    assert str(repository.root).encode() not in answer.body
    assert infer(repository) == ("v1", [14.0])


def test_a_package_that_does_not_answer_as_its_samples_say_is_the_packages_fault(repository):
    load(repository, version="v1")
    file = repository.root / "repository.json"
    versions = json.loads(file.read_text())
    versions["m"]["v4"] = repository.package(factor=1.0, refuse=True)
    file.write_text(json.dumps(versions))
    answer = load(repository, version="v4")
    assert (answer.status, answer.json["type"]) == (409, "urn:modelyard:problem:integrity")
    assert answer.json["detail"].startswith("The model can't be served")
    assert infer(repository) == ("v1", [14.0])


def test_unloading_what_is_not_served_changes_nothing(repository):
    load(repository, version="v1")
    for name in ("other", "nobody"):
        assert repository.request("POST", f"{REPOSITORY}/models/{name}/unload").status == 200
    assert infer(repository) == ("v1", [14.0])


def test_without_a_repository_nothing_can_be_loaded(service):
    service.start()
    service.client.swap("m", "v1", service.package(factor=2))
    assert load(service, version="v2").status == 409
    assert index(service) == [("m", "v1", "READY")]


def test_what_follows_releases_is_not_loaded_by_hand(repository):
    repository.close()
    package = json.loads((repository.root / "repository.json").read_text())["m"]["v1"]
    repository.live(m=("v1", package))
    repository.start(follow=True)
    repository.until(lambda: repository.predict().status == 200)
    assert load(repository, version="v2").status == 409
    assert repository.request("POST", f"{REPOSITORY}/models/m/unload").status == 409
    assert infer(repository) == ("v1", [14.0])


def test_swaps_under_load_fail_no_request_and_mix_no_answer(repository):
    expected = {"v1": [14.0], "v2": [21.0], "v3": [35.0]}
    load(repository, version="v1")
    repository.all_accept()
    body = '{"inputs":[{"name":"x","datatype":"FP64","shape":[1],"data":[7.0]}]}'
    port = int(repository.client.url.rsplit(":", 1)[1])
    stop = threading.Event()
    answers: Counter[str] = Counter()
    wrong = []

    def ask() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        try:
            while not stop.wait(0.01):
                connection.request("POST", "/v2/models/m/infer", body)
                response = connection.getresponse()
                answer = json.loads(response.read())
                version = answer.get("model_version")
                headers = (response.headers["x-model-version"], response.headers["x-model-generation"])
                named = (version, str(answer.get("parameters", {}).get("generation")))
                if response.status != 200 or answer["outputs"][0]["data"] != expected[version] or headers != named:
                    wrong.append(answer)
                answers[version] += 1
        except Exception as error:
            wrong.append(error)
        finally:
            connection.close()

    with ThreadPoolExecutor(4) as threads:
        for _ in range(4):
            threads.submit(ask)
        for number in range(9):
            before = answers.total()
            assert load(repository, version=f"v{number % 3 + 1}").status == 200
            repository.until(lambda before=before: answers.total() >= before + 30)
        stop.set()
    assert wrong == []
    assert answers.keys() == expected.keys()
