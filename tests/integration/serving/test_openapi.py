"""The description of the HTTP interface: every route is in it, its examples work, and answers are as it says."""

from __future__ import annotations

import html
import json
import re

import pytest
from jsonschema import Draft202012Validator
from real_packages import write_package
from tests.integration.serving.test_auth import routes

from modelyard.serving.auth.keys import KeyFile
from modelyard.serving.http.operations import LEFT_OUT

METHODS = {"get", "put", "post", "delete", "patch"}


@pytest.fixture(scope="module")
def served(shared):
    store = shared.root / "store"
    store.mkdir()
    first, second = write_package(store, 2.0), write_package(store, 3.0, "y")
    (shared.root / "repository.json").write_text(json.dumps({"m": {"v1.0.0": first}, "n": {"v2.0.0": second}}))
    shared.options |= {"loader": "modelyard.serving.packaged", "repository": str(shared.root / "repository.json")}
    shared.start(workers=1)
    shared.client.swap("m", "v1.0.0", first)
    shared.client.swap("n", "v2.0.0", second)
    return shared


def document(service, path: str = "/openapi.json", **headers: str):
    answer = service.request("GET", path, **headers)
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    return answer.json


def operations(told):
    for path, operation in told["paths"].items():
        for method in METHODS & operation.keys():
            yield path, method, operation[method], operation.get("parameters", [])


def validator(told, schema) -> Draft202012Validator:
    return Draft202012Validator({**schema, "components": told["components"]})


def test_every_route_is_described_or_left_out_for_a_reason(served):
    paths = document(served)["paths"]
    for pattern, endpoints in routes():
        left_out = [reason for prefix, reason in LEFT_OUT if pattern.startswith(prefix)]
        assert all(len(reason) > 20 for reason in left_out)
        for name in ("m", "n") if "{name}" in pattern else ("",):
            path = pattern.replace("{name}", name)
            assert (path in paths) != bool(left_out), path
            if path in paths:
                assert {method.upper() for method in METHODS & paths[path].keys()} == endpoints.keys()
                for method, access in endpoints.items():
                    assert paths[path][method.lower()]["x-access"] == access


def test_every_operation_is_told_of_by_more_than_its_path(served):
    told = document(served)
    seen = set()
    for path, method, operation, shared_parameters in operations(told):
        assert operation["tags"] != ["Other"], f"{method} {path} has no place in operations.py"
        assert operation["summary"], path
        assert operation["operationId"] not in seen
        seen.add(operation["operationId"])
        assert {entry["name"] for entry in shared_parameters} == set(re.findall(r"\{(\w+)\}", path))
        assert {"200", "400", "500", "504"} <= operation["responses"].keys()


def test_all_references_lead_somewhere_and_all_components_are_used(served):
    for path in ("/openapi.json", "/v1/models/m/openapi.json"):
        text = json.dumps(told := document(served, path))
        found = set(re.findall(r'"\$ref": "#/components/([^"]+)"', text))
        there = {f"{kind}/{name}" for kind, members in told["components"].items() for name in members}
        assert found == {name for name in there if not name.startswith("securitySchemes/")}
        for name, schema in told["components"]["schemas"].items():
            Draft202012Validator.check_schema(schema)
            assert re.fullmatch(r"[A-Za-z0-9._-]+", name)


def test_every_example_of_a_request_is_answered_and_the_answer_is_as_described(served):
    told = document(served)
    sent = 0
    for path, method, operation, parameters in operations(told):
        if path.endswith("/unload"):
            continue
        for entry in parameters:
            path = path.replace(f"{{{entry['name']}}}", entry.get("example", ""))
        for kind, content in operation.get("requestBody", {}).get("content", {}).items():
            for example in content.get("examples", {}).values():
                value = example["value"]
                body = value if isinstance(value, str) else json.dumps(value)
                answer = served.request(method.upper(), path, body, content_type=kind)
                assert answer.status == 200, (path, answer.body)
                sent += 1
                response = operation["responses"]["200"]
                for name in response["headers"]:
                    assert answer.headers[name]
                schema = response["content"][answer.headers["content-type"]]["schema"]
                text = answer.body.decode()
                given = json.loads(text) if answer.headers["content-type"] == "application/json" else text
                validator(told, schema).validate(given)
                if not isinstance(value, str) and not isinstance(given, list):
                    validator(told, content["schema"]).validate(value)
    # Rows, columns and CSV by three paths, tensors by two, for two models, and what the repository takes.
    assert sent == 2 * (3 * 3 + 2 + 1) + 2


def test_example_answers_are_what_the_model_says(served):
    told = document(served)
    for path in ("/v1/models/m/predict", "/v2/models/m/infer"):
        operation = told["paths"][path]["post"]
        requests = operation["requestBody"]["content"]["application/json"]["examples"]
        answers = operation["responses"]["200"]["content"]["application/json"]["examples"]
        assert requests.keys() == answers.keys() != set()
        for name, example in requests.items():
            assert served.request("POST", path, json.dumps(example["value"])).json == answers[name]["value"]


def test_gets_answer_as_described(served):
    told = document(served)
    checked = 0
    for path, method, operation, parameters in operations(told):
        if method != "get":
            continue
        for entry in parameters:
            path = path.replace(f"{{{entry['name']}}}", entry["example"])
        answer = served.request("GET", path)
        # With two models, documents of Acumos must be asked for by name.
        response = operation["responses"][str(answer.status)]
        if answer.status == 200 and answer.headers["content-type"] == "application/json" and response.get("content"):
            schema = response["content"].get("application/json", {}).get("schema")
            if schema is not None:
                validator(told, schema).validate(answer.json)
                checked += 1
    assert checked >= 15


def test_one_model_is_described_by_itself(served):
    told = document(served, "/v1/models/m/openapi.json")
    assert (told["info"]["title"], told["info"]["version"]) == ("m", "v1.0.0")
    assert "/v1/models/m/predict" in told["paths"]
    assert all("/m/" in f"{path}/" for path in told["paths"])
    assert not any(name.startswith("n.") for name in told["components"]["schemas"])
    assert served.request("GET", "/v1/models/nobody/openapi.json").status == 404


def test_it_is_the_same_text_until_another_generation_is_live(service):
    service.options["loader"] = "modelyard.serving.packaged"
    (service.root / "store").mkdir()
    first, second = write_package(service.root / "store", 2.0), write_package(service.root / "store", 3.0, "y")
    service.start()
    empty = document(service)
    assert "/v1/models/{name}/predict" in empty["paths"]
    service.client.swap("m", "v1", first)
    service.all_accept()
    texts = {service.request("GET", "/openapi.json").body for _ in range(20)}
    assert len(texts) == 1, "two workers made two texts"
    service.client.swap("m", "v2", second)
    after = document(service)
    assert after != json.loads(texts.pop())
    assert list(after["components"]["schemas"]["m.Row"]["properties"]) == ["y"]
    assert document(service, "/v1/models/m/openapi.json")["info"]["version"] == "v2"
    service.client.rollback("m")
    assert list(document(service)["components"]["schemas"]["m.Row"]["properties"]) == ["x"]


def test_credentials_are_described_where_they_are_asked_for(service):
    keys = service.root / "keys.json"
    key = KeyFile(keys).add(["read"])[0]
    service.options |= {"loader": "modelyard.serving.packaged", "auth": {"keys": str(keys)}}
    (service.root / "store").mkdir()
    service.start(workers=1)
    service.client.swap("m", "v1", write_package(service.root / "store", 2.0))
    for path in ("/openapi.json", "/docs", "/v1/models/m/openapi.json"):
        assert service.request("GET", path).status == 401
    told = document(service, x_api_key=key)
    assert told["components"]["securitySchemes"].keys() == {"bearer", "apiKey"}
    for path, _, operation, _ in operations(told):
        public = operation["x-access"] == "public"
        assert operation["security"] == ([] if public else [{n: [operation["x-access"]]} for n in ("bearer", "apiKey")])
        assert ("401" in operation["responses"]) != public, path


def test_the_page_needs_no_script_and_nothing_from_elsewhere(served):
    answer = served.request("GET", "/docs")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")
    text = answer.body.decode()
    assert "<script" not in text
    assert "//" not in text
    for path, method, operation, _ in operations(document(served)):
        summary = html.escape(operation["summary"])
        assert f"<td>{method.upper()}</td><td>{path}</td><td>{summary}</td>" in text
