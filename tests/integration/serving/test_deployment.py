"""Units and sites as their programs read them: systemd's own check, and nginx in front of a running service.

nginx is Debian's `nginx-light`; where it is missing and we are root, it is installed by apt-get.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import httpx
import pytest
from tests.certificates import Authority
from tests.integration.serving import grpc_calls
from tests.integration.serving.test_auth import path_of, routes

from modelyard.errors import InputError, RefusedError
from modelyard.serving.auth.keys import KeyFile
from modelyard.serving.auth.spec import AuthSpec, TlsSpec
from modelyard.serving.deployment.examples import examples
from modelyard.serving.deployment.nginx import FORMS, UPLOADS, Front, nginx_site
from modelyard.serving.deployment.systemd import Process, systemd_unit
from modelyard.serving.spec import Limits, ServiceSpec

NAME = "models.example.org"
BODY = json.dumps({"rows": [{"x": 2.0}]})
LIMITS = {"body_bytes": 20_000, "upload_bytes": 24_000_000}
PREDICT = "/v1/models/m/predict"


def program(name: str, package: str) -> str:
    found = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    if found is None and os.geteuid() == 0 and shutil.which("apt-get"):
        subprocess.run(
            ["apt-get", "install", "-y", "--no-install-recommends", package], check=False, capture_output=True,
            timeout=240, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"},
        )  # fmt: skip
        found = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    if found is None:
        pytest.skip(f"{name} is missing: as root, apt-get install {package}")
    return found


# systemd


def unit(project: Path, **changes) -> str:
    given = {"command": ["/bin/true", "-C", "/srv/a project", "100%", "$HOME", 'a"b'], "folder": project,
             "writable": [project], "user": "daemon"}  # fmt: skip
    return systemd_unit(
        ServiceSpec(name="production", folder=project, drain_seconds=25), Process(**{**given, **changes})
    )


def test_systemd_reads_the_unit_without_a_complaint(tmp_path):
    folder = tmp_path / "a project 100%"
    folder.mkdir()
    file = tmp_path / "modelyard-production.service"
    file.write_text(unit(folder, memory_max="4G"))
    done = subprocess.run(
        [program("systemd-analyze", "systemd"), "verify", str(file)], capture_output=True, text=True, check=False
    )
    mine = [line for line in done.stderr.splitlines() if file.name in line or str(file) in line]
    assert mine == []
    # The check is one that fails: it complains of a directive that does not exist.
    file.write_text(unit(folder).replace("NoNewPrivileges", "NoNewPrivilege"))
    done = subprocess.run(["systemd-analyze", "verify", str(file)], capture_output=True, text=True, check=False)
    assert "NoNewPrivilege" in done.stderr


def test_a_unit_waits_as_long_as_the_service_drains_and_quotes_what_it_must(tmp_path):
    text = unit(tmp_path)
    assert "TimeoutStopSec=35\n" in text
    assert 'ExecStart=/bin/true -C "/srv/a project" "100%%" "$$HOME" "a\\"b"\n' in text
    assert "MemoryMax" not in text
    assert "MemoryMax=2G\n" in unit(tmp_path, memory_max="2G")
    for wrong in ({"user": "a\nb"}, {"command": ["python"]}, {"folder": Path("/srv/\n")}):
        with pytest.raises(InputError):
            unit(tmp_path, **wrong)


def test_the_manager_hears_ready_signs_of_life_and_the_end(service, tmp_path, monkeypatch):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(20)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "1000000")
        monkeypatch.delenv("WATCHDOG_PID", raising=False)
        service.start()
        heard: list[str] = []
        while "READY=1" not in heard or heard.count("WATCHDOG=1") < 3:
            heard += manager.recv(4096).decode().splitlines()
        assert service.predict().status == 404, "it answers once it has said that it is ready"
        assert heard.count("READY=1") == 1
        assert "STATUS=2 of 2 workers accept" in heard
        service.process.terminate()
        while "STOPPING=1" not in heard:
            heard += manager.recv(4096).decode().splitlines()
        assert service.process.wait(20) == 0


def test_a_manager_that_is_not_there_stops_nothing(service, monkeypatch):
    monkeypatch.setenv("NOTIFY_SOCKET", "/nowhere/notify")
    monkeypatch.setenv("WATCHDOG_USEC", "none")
    service.start()
    assert service.client.status().ready


# nginx


class Nginx:
    """An nginx of our own in a folder, with one site."""

    def __init__(self, folder: Path, site: str, port: int) -> None:
        self.folder, self.port = folder, port
        (folder / "site.conf").write_text(site)
        temporary = "".join(
            f"    {kind}_temp_path {folder}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        (folder / "nginx.conf").write_text(
            f"daemon off;\nworker_processes 1;\npid {folder}/pid;\nerror_log {folder}/error.log;\n"
            "events { worker_connections 256; }\n"
            f"http {{\n{temporary}    access_log {folder}/access.log;\n    include {folder}/site.conf;\n}}\n"
        )
        self.command = [program("nginx", "nginx-light"), "-p", str(folder), "-c", str(folder / "nginx.conf")]

    def check(self) -> str:
        done = subprocess.run([*self.command, "-t"], capture_output=True, text=True, check=False, timeout=30)
        assert done.returncode == 0, done.stderr
        return done.stderr

    def __enter__(self) -> Nginx:
        self.process = subprocess.Popen(self.command, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return self
            except OSError:
                assert time.monotonic() < deadline
                assert self.process.poll() is None, (self.folder / "error.log").read_text()
                time.sleep(0.02)

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(20)


def trusting(root: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=root)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return listening.getsockname()[1]


@pytest.fixture(scope="module")
def fronted(shared, tmp_path_factory) -> Iterator[tuple]:
    folder = tmp_path_factory.mktemp("nginx")
    keys = KeyFile(folder / "keys.json")
    infer, _ = keys.add(["infer", "read"])
    load, _ = keys.add(["load", "infer"])
    shared.start(auth={"keys": str(keys.path)}, grpc_port=0, limits=LIMITS)
    shared.client.swap("m", "v1", shared.package(factor=2))
    authority = Authority()
    authority.write(folder / "root.pem")
    authority.issue(NAME, folder / "certificate.pem", folder / "key.pem")
    port = free_port()
    spec = ServiceSpec(
        name="dev", folder=shared.folder, port=int(shared.client.url.rsplit(":", 1)[1]),
        grpc_port=int(shared.client.grpc.rsplit(":", 1)[1]), limits=Limits(**LIMITS),
        auth=AuthSpec(keys=keys.path),
    )  # fmt: skip
    front = Front(NAME, folder / "certificate.pem", folder / "key.pem", f"127.0.0.1:{port}")
    nginx = Nginx(folder, nginx_site(spec, front), port)
    assert "warn" not in nginx.check()
    with nginx, httpx.Client(
        base_url=f"https://127.0.0.1:{port}", verify=trusting(folder / "root.pem"),
        headers={"host": NAME, "x-api-key": infer},
    ) as client:  # fmt: skip
        yield shared, client, nginx, (infer, load)


def test_a_prediction_passes_nginx_with_its_request_id_and_key(fronted):
    shared, client, *_ = fronted
    answer = client.post(PREDICT, content=BODY, headers={"x-request-id": "mine-1", "content-type": "application/json"})
    assert (answer.status_code, answer.json()["rows"]) == (200, [{"value": 4.0}])
    assert answer.headers["x-request-id"] == "mine-1"
    shared.until(lambda: '"mine-1"' in shared.log)
    # What is no harmless id is replaced, and the service takes nginx's over.
    answer = client.post(PREDICT, content=BODY, headers={"x-request-id": "not harmless!", "content-type": "text/json"})
    assert len(answer.headers["x-request-id"]) == 32
    assert client.post(PREDICT, content=BODY, headers={"x-api-key": "wrong"}).status_code == 401
    assert client.get("/healthz").status_code == 200
    assert "strict-transport-security" in client.get("/healthz").headers


def test_connections_to_the_service_are_kept(fronted):
    shared, client, *_ = fronted
    port = shared.client.url.rsplit(":", 1)[1]

    def open_connections() -> int:
        lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
        rows = [line.split() for line in lines]
        return sum(row[2].endswith(f":{int(port):04X}") and row[3] in ("01", "06") for row in rows)

    for _ in range(40):
        assert client.get("/v1/models").status_code == 200
    # Connections that were closed would still be counted, as TIME_WAIT.
    assert open_connections() < 20


def test_a_body_that_is_too_long_is_a_problem_document_of_the_same_form(fronted):
    _, client, nginx, _ = fronted
    answer = client.post(PREDICT, content=b"x" * 20_001, headers={"x-request-id": "long"})
    assert (answer.status_code, answer.headers["content-type"]) == (413, "application/problem+json")
    assert (answer.json()["status"], answer.json()["request_id"]) == (413, "long")
    # A body just within the limit passes, and was written to no disk.
    row = json.dumps({"rows": [{"x": 1.0}] * 1000})
    assert client.post(PREDICT, content=row, headers={"content-type": "application/json"}).status_code == 200
    assert list((nginx.folder / "client_body").rglob("*")) == []
    assert "buffered to a temporary file" not in (nginx.folder / "error.log").read_text()


def zeros(size: int) -> Iterator[bytes]:
    """The size of a body, in pieces, so that a test holds little of it."""
    for start in range(0, size, 65536):
        yield bytes(min(65536, size - start))


def upload(client: httpx.Client, path: str, size: int, name: str = "model", **headers: str) -> httpx.Response:
    """Send a form whose one part has this size."""
    head = f'--b\r\ncontent-disposition: form-data; name="{name}"; filename="m"\r\n\r\n'.encode()
    tail = b"\r\n--b--\r\n"
    headers |= {
        "content-type": "multipart/form-data; boundary=b", "content-length": str(len(head) + size + len(tail))
    }  # fmt: skip
    return client.put(path, content=itertools.chain([head], zeros(size), [tail]), headers=headers)


@pytest.mark.parametrize("path", ["/model", "/modelrunner/putModel"])
def test_a_model_as_large_as_the_service_takes_passes_nginx_unbuffered_and_a_larger_one_does_not(fronted, path):
    """Many times as long as a request may be; zeros are no model, which only the service itself can tell."""
    _, client, nginx, (_, load) = fronted
    answer = upload(client, path, LIMITS["upload_bytes"], **{"x-api-key": load})
    assert (answer.status_code, answer.json()["type"]) == (415, "urn:modelyard:problem:format"), answer.text
    answer = upload(client, path, LIMITS["upload_bytes"] + 1, **{"x-api-key": load})
    assert (answer.status_code, "'model'" in answer.text) == (413, True), "it is the service that counts to the byte"
    answer = upload(client, path, LIMITS["upload_bytes"] + 1_000_000, **{"x-api-key": load})
    assert answer.status_code == 413
    assert list((nginx.folder / "client_body").rglob("*")) == []
    assert "buffered to a temporary file" not in (nginx.folder / "error.log").read_text()


def test_who_may_upload_nothing_is_told_so_through_nginx(fronted):
    _, client, _, (infer, _) = fronted
    for key, status in (("wrong", 401), (infer, 403)):
        assert upload(client, "/model", LIMITS["upload_bytes"], **{"x-api-key": key}).status_code == status
    assert client.post(PREDICT, content=BODY, headers={"content-type": "application/json"}).status_code == 200


def test_the_file_in_a_form_may_be_as_long_as_a_body(fronted):
    _, client, *_ = fronted
    for size, status in ((20_000, 422), (20_001, 413), (1_000_000, 413)):
        answer = client.post("/transformCSVDefault", files={"csvFile": b"x" * size})
        assert answer.status_code == status, answer.text


def test_every_path_that_takes_a_form_has_a_location_that_lets_it_pass(fronted):
    shared, _, _, (_, load) = fronted
    forms = set()
    for pattern, methods in routes():
        for method in methods.keys() & {"POST", "PUT"}:
            path = path_of(pattern)
            answer = shared.request(method, path, b"x", x_api_key=load, content_type="text/plain")
            if answer.status == 415 and "is no form" in answer.json["detail"]:
                forms.add(path)
            else:
                assert not re.search(f"{UPLOADS}|{FORMS}", path), answer.body
    assert {path for path in forms if re.search(UPLOADS, path)} >= {"/model", "/modelrunner/transformCSV"}
    assert len({path for path in forms if re.search(FORMS, path)}) >= 10
    assert {path for path in forms if not re.search(f"{UPLOADS}|{FORMS}", path)} == set()


def test_grpc_passes_on_the_same_port(fronted):
    _, _, nginx, (key, _) = fronted
    credentials = grpc.ssl_channel_credentials((nginx.folder / "root.pem").read_bytes())
    with grpc.secure_channel(
        f"127.0.0.1:{nginx.port}", credentials, options=[("grpc.ssl_target_name_override", NAME)]
    ) as channel:
        answer = grpc_calls.predict(channel, metadata=[("x-api-key", key)], timeout=10)
        assert (answer.model_name, answer.model_version) == ("m", "v1")
        with pytest.raises(grpc.RpcError) as refused:
            grpc_calls.predict(channel, timeout=10)
        assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED


def test_a_service_that_is_gone_is_told_by_a_problem_document(tmp_path):
    authority = Authority()
    authority.write(tmp_path / "root.pem")
    authority.issue(NAME, tmp_path / "certificate.pem", tmp_path / "key.pem")
    port = free_port()
    spec = ServiceSpec(
        name="gone", folder=tmp_path, port=free_port(), anonymous=("infer", "read"), hosts=(NAME,)
    )  # fmt: skip
    front = Front(NAME, tmp_path / "certificate.pem", tmp_path / "key.pem", f"127.0.0.1:{port}")
    with Nginx(tmp_path, nginx_site(spec, front), port):
        answer = httpx.get(
            f"https://127.0.0.1:{port}/healthz", verify=trusting(tmp_path / "root.pem"), headers={"host": NAME}
        )
    assert (answer.status_code, answer.headers["content-type"]) == (502, "application/problem+json")
    assert answer.json()["type"] == "urn:modelyard:problem:unreachable"


@pytest.mark.parametrize(
    ("changes", "front", "error", "says"),
    [
        ({}, {}, RefusedError, "change what the service serves"),
        ({"anonymous": ("infer",)}, {}, InputError, "knows no such name"),
        ({"port": 0}, {}, InputError, "ports"),
        ({"host": "10.0.0.1"}, {}, RefusedError, "past nginx"),
        ({"tls": TlsSpec(certificate=Path("/c"), key=Path("/k"))}, {}, RefusedError, "encrypts by itself"),
        ({}, {"name": "a;b"}, InputError, "host name"),
        ({}, {"listen": "443; #"}, InputError, "listened on"),
        ({"anonymous": ("infer",), "hosts": (NAME,)}, {"key": Path('/a";')}, InputError, "can't stand"),
    ],
)
def test_a_site_that_would_harm_is_refused(tmp_path, changes, front, error, says):
    spec = ServiceSpec(**{"name": "dev", "folder": tmp_path, "port": 8080, **changes})
    given = {"name": NAME, "certificate": Path("/c"), "key": Path("/k"), **front}
    with pytest.raises(error, match=says) as raised:
        nginx_site(spec, Front(**given))
    assert raised.value.remedy


EXAMPLES = Path(__file__).parents[3] / "docs" / "examples"


@pytest.mark.parametrize("name", examples())
def test_the_examples_in_the_documentation_are_what_is_written(name):
    assert (EXAMPLES / name).read_text(encoding="utf-8") == examples()[name], "run make docs"
