"""A real service, and everybody who may not ask it: each route, method and protocol without credentials."""

from __future__ import annotations

import http.client
import json
import os
import socket
import ssl
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

import httpx
import pytest
from real_packages import write_package
from tests.certificates import Authority
from tests.integration.serving.test_acumos import form
from tests.issuer import Issuer

from modelyard.serving.auth.keys import KeyFile
from modelyard.serving.auth.spec import SCOPES

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "LOAD")
BODY = json.dumps({"rows": [{"x": 1.0}]})
PREDICT = "/v1/models/m/predict"

ROUTES = """
import gc, json, os, pathlib, socket, sys
from modelyard.serving.http.routing import Router
from modelyard.serving.spec import Limits, WorkerSpec
from modelyard.serving.state import Page
from modelyard.serving.worker import Worker
listening, (ours, theirs) = socket.create_server(("127.0.0.1", 0)), socket.socketpair()
page = os.memfd_create("page")
os.ftruncate(page, 1 << 20)
worker = Worker(WorkerSpec(
    service="dev", worker=0, workers=1, supervisor=os.getppid(), listening=listening.fileno(), control=theirs.fileno(),
    page=page, limits=Limits(), log_level="error", loader="modelyard.serving.packaged", drain_seconds=1.0,
    uploads=pathlib.Path("/nowhere"),
))
routers = [found for found in gc.get_objects() if isinstance(found, Router)]
print(json.dumps([
    (route.pattern, {method: endpoint.access for method, endpoint in route.endpoints.items()})
    for router in routers for route in router
]))
sys.stdout.flush()
os._exit(0)
"""


@cache
def routes() -> list[tuple[str, dict[str, str]]]:
    """Every route that a worker answers, as the worker itself puts them together."""
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": "/tmp"}
    done = subprocess.run([sys.executable, "-c", ROUTES], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def path_of(pattern: str) -> str:
    """A path of that pattern about a model that no other test needs: some routes unload it."""
    return "/".join({"{name}": "walked"}.get(p, "1" if p.startswith("{") else p) for p in pattern.split("/"))


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    return KeyFile(tmp_path_factory.mktemp("keys") / "keys.json")


@pytest.fixture(scope="module")
def issuer():
    found = Issuer()
    found.publish()
    yield found
    found.close()


@pytest.fixture(scope="module")
def served(shared, keys, issuer):
    auth = {"keys": str(keys.path), "issuer": {"issuer": issuer.url, "audience": ["runner"]}}
    shared.start(auth=auth)
    for model in ("m", "walked"):
        shared.client.swap(model, "v1", shared.package(factor=2))
    return shared


@pytest.fixture(scope="module")
def by_scope(keys):
    return {scope: keys.add([scope])[0] for scope in SCOPES}


def test_every_route_says_who_may_ask_it_and_only_health_is_public():
    public = {pattern for pattern, endpoints in routes() if "public" in endpoints.values()}
    assert len(routes()) >= 6
    for pattern in public:
        assert pattern.rsplit("/", 1)[1] in ("healthz", "readyz", "live", "ready", "health"), pattern
    for pattern, endpoints in routes():
        assert endpoints, pattern
        assert set(endpoints.values()) <= {*SCOPES, "public"}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("given", [{}, {"authorization": "Bearer myk_a_" + "A" * 43}, {"x_api_key": "x"}])
def test_nobody_gets_through_any_route_by_any_method_without_credentials(served, method, given):
    for pattern, endpoints in routes():
        answer = served.request(method, path_of(pattern), BODY, **given)
        access = endpoints.get("GET" if method == "HEAD" else method)
        if access is None:
            # A method that HTTP does not know ends at the parser.
            assert answer.status == (501 if method == "LOAD" else 405), (method, pattern)
        elif access == "public":
            assert answer.status in (200, 503), (method, pattern)
        else:
            assert answer.status == 401, (method, pattern)
            assert answer.headers["www-authenticate"].startswith('Bearer realm="modelyard"')
            assert method == "HEAD" or answer.json["type"].endswith("unauthenticated")


def test_each_route_opens_for_its_own_scope_alone(served, by_scope):
    for pattern, endpoints in routes():
        for method, access in endpoints.items():
            if access == "public":
                continue
            for scope, key in by_scope.items():
                answer = served.request(method, path_of(pattern), BODY, authorization=f"Bearer {key}")
                if scope == access:
                    assert answer.status not in (401, 403), (method, pattern)
                else:
                    assert answer.status == 403, (method, pattern, scope)
                    assert f'scope="{access}"' in answer.headers["www-authenticate"]


@pytest.mark.parametrize(
    "head",
    [
        "GET {path} HTTP/1.0\r\n\r\n",
        "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n",
        "GET http://localhost{path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n",
        "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade, http2-settings\r\nupgrade: h2c\r\n"
        "http2-settings: AAMAAABkAAQAAP__\r\n\r\n",
        "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
        "sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
    ],
)
def test_no_form_of_http_goes_around_the_guard(served, head):
    port = int(served.client.url.rsplit(":", 1)[1])
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(head.format(path="/v1/models").encode())
        assert connection.recv(65536)[9:12] == b"401"


def test_a_token_of_the_issuer_opens_what_it_says(served, issuer):
    good = f"Bearer {issuer.token('infer')}"
    assert served.request("POST", PREDICT, BODY, authorization=good).json["rows"] == [{"value": 2.0}]
    assert served.request("GET", "/v1/models", authorization=good).status == 403
    for wrong in (issuer.token("infer", aud="another"), issuer.token("infer", exp=1), issuer.token("infer")[:-8]):
        answer = served.request("POST", PREDICT, BODY, authorization=f"Bearer {wrong}")
        assert answer.status == 401
        assert 'error="invalid_token"' in answer.headers["www-authenticate"]


def test_a_revoked_key_is_refused_by_every_worker_within_a_second(served, keys):
    key, record = keys.add(["infer"])
    assert {served.request("POST", PREDICT, BODY, x_api_key=key).status for _ in range(20)} == {200}
    keys.revoke(record.id)
    time.sleep(1.0)  # this is the promise
    assert {served.request("POST", PREDICT, BODY, x_api_key=key).status for _ in range(20)} == {401}


def test_a_key_for_one_model_opens_no_other(served, keys):
    served.client.swap("other", "v1", served.package(factor=3))
    key, _ = keys.add(["infer", "read"], models=["m"])
    assert served.request("POST", PREDICT, BODY, x_api_key=key).status == 200
    assert served.request("GET", "/v1/models/m", x_api_key=key).status == 200
    for method, path in (("POST", "/v1/models/other/predict"), ("GET", "/v1/models/other"), ("GET", "/v1/models")):
        assert served.request(method, path, BODY, x_api_key=key).status == 403
    # An encoded name is the same name.
    assert served.request("POST", "/v1/models/%6fther/predict", BODY, x_api_key=key).status == 403
    assert served.request("POST", "/v1/models/%6d/predict", BODY, x_api_key=key).status == 200


def test_secrets_are_in_no_log_and_on_no_command_line(served, by_scope, issuer):
    tokens = [issuer.token("infer"), *by_scope.values()]
    for token in tokens:
        served.request("POST", PREDICT, BODY, authorization=f"Bearer {token}")
        served.request("POST", PREDICT, BODY, authorization=f"Bearer {token}x")
    lines = [Path(f"/proc/{pid}/cmdline").read_text() for pid in served.client.status().workers]
    for token in tokens:
        assert token[-43:] not in served.log
        assert not any(token[-43:] in line for line in lines)


WEB = [
    {"host": "evil.com"}, {"host": "evil.com:80"}, {"host": ""}, {"origin": "https://evil.com"}, {"origin": "null"},
    {"sec_fetch_site": "cross-site"}, {"sec_fetch_site": "same-site"},
    {"origin": "http://localhost:1", "sec_fetch_site": "same-site", "content_type": "text/plain"},
]  # fmt: skip


def test_without_authentication_programs_get_through_and_web_pages_do_not(service):
    service.start(hosts=["models.test"])
    service.client.swap("m", "v1", service.package(factor=2))
    own = service.client.url
    for fine in ({}, {"host": "localhost"}, {"host": "models.test"}, {"origin": own, "sec_fetch_site": "same-origin"}):
        assert service.request("POST", PREDICT, BODY, **fine).status == 200
    for page in WEB:
        for pattern, endpoints in routes():
            for method, access in endpoints.items():
                if access != "public":
                    answer = service.request(method, path_of(pattern), BODY, **page)
                    assert answer.status == 403, (page, method, pattern)
                    assert "access-control-allow-origin" not in answer.headers


def test_what_everybody_may_do_can_be_narrowed(service):
    service.start(anonymous=["infer"])
    service.client.swap("m", "v1", service.package(factor=2))
    assert service.request("POST", PREDICT, BODY).status == 200
    assert service.request("GET", "/v1/models").status == 403


@pytest.fixture
def certificates(tmp_path):
    authority = Authority()
    authority.write(tmp_path / "ca.pem")
    authority.issue("localhost", tmp_path / "server.pem", tmp_path / "server.key")
    authority.issue("a client", tmp_path / "client.pem", tmp_path / "client.key")
    Authority("another root").issue("a stranger", tmp_path / "stranger.pem", tmp_path / "stranger.key")
    return tmp_path


def trusting(folder, client: str = "", newest: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=folder / "ca.pem")
    if client:
        context.load_cert_chain(folder / f"{client}.pem", folder / f"{client}.key")
    if newest is not None:
        context.maximum_version = newest
    return context


def ask(service, context: ssl.SSLContext, **headers: str) -> httpx.Response:
    assert service.client.url.startswith("https://127.0.0.1:")
    headers["content-type"] = "application/json"
    with httpx.Client(verify=context, trust_env=False) as client:
        return client.post(service.client.url + PREDICT, content=BODY, headers=headers)


def test_everybody_may_be_asked_over_tls_with_a_key(service, certificates, keys):
    key, _ = keys.add(["infer"])
    tls = {"certificate": str(certificates / "server.pem"), "key": str(certificates / "server.key")}
    service.start(host="0.0.0.0", tls=tls, auth={"keys": str(keys.path)})
    service.client.swap("m", "v1", service.package(factor=2))
    port = int(service.client.url.rsplit(":", 1)[1])
    with httpx.Client(verify=trusting(certificates), trust_env=False) as client:
        url = f"https://localhost:{port}{PREDICT}"
        answer = client.post(url, content=BODY, headers={"x-api-key": key, "content-type": "application/json"})
        assert answer.json()["rows"] == [{"value": 2.0}]
        assert client.post(url, content=BODY, headers={"content-type": "application/json"}).status_code == 401
    with pytest.raises(httpx.ConnectError), httpx.Client(trust_env=False) as client:
        client.get(f"https://localhost:{port}/healthz")
    with pytest.raises((http.client.HTTPException, ConnectionError)):
        service.request("GET", "/healthz")


def test_an_older_version_of_tls_than_the_minimum_is_refused(service, certificates):
    tls = {"certificate": str(certificates / "server.pem"), "key": str(certificates / "server.key"), "minimum": "1.3"}
    service.start(tls=tls)
    service.client.swap("m", "v1", service.package(factor=2))
    assert ask(service, trusting(certificates)).status_code == 200
    with pytest.raises(httpx.TransportError):
        ask(service, trusting(certificates, newest=ssl.TLSVersion.TLSv1_2))


def test_with_mutual_tls_only_certificates_of_the_given_roots_connect(service, certificates):
    files = {"certificate": "server.pem", "key": "server.key", "client_ca": "ca.pem"}
    service.start(tls={name: str(certificates / file) for name, file in files.items()})
    service.client.swap("m", "v1", service.package(factor=2))
    assert ask(service, trusting(certificates, "client")).status_code == 200
    old = ask(service, trusting(certificates, "client", newest=ssl.TLSVersion.TLSv1_2))
    assert old.status_code == 200
    for client in ("", "stranger"):
        with pytest.raises(httpx.TransportError):
            ask(service, trusting(certificates, client))


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        ({"host": "0.0.0.0"}, 3, "without proving"),
        ({"host": "0.0.0.0", "behind_proxy": True}, 3, "without proving"),
        ({"host": "0.0.0.0", "auth": {"keys": "k"}}, 3, "in the clear"),
        ({"auth": {}}, 2, "neither keys nor an issuer"),
        ({"auth": {"issuer": {"issuer": "https://i", "audience": []}}}, 2, "an audience"),
        ({"auth": {"issuer": {"issuer": "https://i", "audience": ["a"], "jwks": "missing.json"}}}, 6, "can't be read"),
        ({"auth": {"keys": __file__}}, 4, "keys"),
        ({"tls": {"certificate": __file__, "key": __file__}}, 2, "do not fit together"),
    ],
)
def test_a_service_that_would_be_open_or_could_check_nothing_does_not_start(service, options, code, says):
    service.live()
    assert service.spawn(**options).wait(20) == code
    assert says in service.log


def test_behind_a_proxy_that_encrypts_a_key_is_enough(service, keys):
    service.start(host="0.0.0.0", behind_proxy=True, auth={"keys": str(keys.path)})
    assert service.request("GET", "/healthz").status == 200
    assert service.request("GET", "/v1/models").status == 401


def test_a_key_for_one_model_serves_clients_that_name_none_where_it_is_the_only_one(service, keys):
    mine, others = (keys.add(["infer", "read"], models=[model])[0] for model in ("m", "n"))
    service.options |= {"loader": "modelyard.serving.packaged", "auth": {"keys": str(keys.path)}, "workers": 1}
    store = service.root / "store"
    store.mkdir()
    service.start()
    package = write_package(store, 2.0)

    def statuses(key: str, query: str = "") -> set[int]:
        asked = []
        for prefix in ("", "/modelrunner"):
            body, kind = form(("csvFile", "x\n1\n"))
            asked += [
                ("POST", f"{prefix}/{path}{query}", body, kind) for path in ("getBinaryDefault", "transformCSVDefault")
            ]
            asked += [
                (
                    "POST",
                    f"{prefix}/model/methods/predict{query}",
                    '{"rows":[{"x":1}]}',
                    {"content_type": "application/json"},
                ),
                ("GET", f"{prefix}/model/artifacts/metadata{query}", None, {}),
                ("GET", f"{prefix}/model/artifacts/protobuf{query}", None, {}),
            ]
        return {service.request(method, path, body, x_api_key=key, **kind).status for method, path, body, kind in asked}

    assert statuses(mine) == {403}, "there is no model, and who may use only some is told nothing"
    service.client.swap("m", "v1", package)
    assert statuses(mine) == {200}
    assert statuses(others) == {403}
    assert statuses(mine, "?model=n") == {403}
    assert statuses(mine, "?model=m&model=m") == {403}
    service.client.swap("n", "v1", package)
    assert statuses(mine) == {403}, "nobody can tell which is meant"
    assert statuses(mine, "?model=m") == {200}
    assert statuses(mine, "?model=n") == {403}
    assert statuses(others, "?model=n") == {200}
    # What changes the service, or is about all of it, is still not for them.
    for method, path in (("PUT", "/model"), ("GET", "/v1/models"), ("GET", "/metrics"), ("POST", "/transformCSV")):
        assert service.request(method, path, b"", x_api_key=mine).status == 403
