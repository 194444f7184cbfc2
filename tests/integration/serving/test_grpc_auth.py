"""The guard in front of gRPC: every method of every service, without credentials, with wrong ones, with each scope."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from typing import Any

import grpc
import pytest
from tests.certificates import Authority

from modelyard.serving.auth.keys import KeyFile
from modelyard.serving.auth.spec import SCOPES

METHODS = """
import asyncio, gc, json, os, socket
from modelyard.serving.auth.guard import Guard
from modelyard.serving.grpc.calls import Dispatcher
from modelyard.serving.spec import Limits, WorkerSpec
from modelyard.serving.worker import Worker
ports, (ours, theirs) = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)], socket.socketpair()
page = os.memfd_create("page")
os.ftruncate(page, 1 << 20)
worker = Worker(WorkerSpec(
    service="dev", worker=0, workers=1, supervisor=os.getppid(), listening=ports[0].fileno(), grpc=ports[1].fileno(),
    control=theirs.fileno(), page=page, limits=Limits(), log_level="error", loader="modelyard.serving.packaged",
    drain_seconds=1.0,
))
dispatchers = [found for found in gc.get_objects() if isinstance(found, Dispatcher)]
found = {path.decode(): method.access for d in dispatchers for path, method in d._methods.items()}
print(json.dumps(found), flush=True)
os._exit(0)
"""


@cache
def methods() -> dict[str, str]:
    """Every method that a worker answers, and what it needs, as the worker itself puts them together."""
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": "/tmp"}
    done = subprocess.run([sys.executable, "-c", METHODS], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def port(service) -> int:
    return json.loads((service.folder / "service.json").read_text())["grpc_port"]


def said(channel: grpc.Channel, path: str, **metadata: str) -> grpc.StatusCode:
    """What an empty message to a method is answered by; a stream takes one too, and `Watch` ends with its first."""
    call: Any = channel.unary_stream(path)
    given = [(name.replace("_", "-"), value) for name, value in metadata.items()]
    answers = call(b"", timeout=20, metadata=given)
    try:
        next(answers, None)
        answers.cancel()
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    return KeyFile(tmp_path_factory.mktemp("keys") / "keys.json")


@pytest.fixture(scope="module")
def channel(shared, keys):
    shared.start(auth={"keys": str(keys.path)}, grpc_port=0)
    shared.client.swap("m", "v1", shared.package(factor=2))
    with grpc.insecure_channel(f"127.0.0.1:{port(shared)}") as found:
        yield found


def test_only_health_is_public():
    public = {path.rsplit("/", 1)[1] for path, access in methods().items() if access == "public"}
    assert public <= {"Check", "Watch", "ServerLive", "ServerReady"}
    assert len(methods()) >= 8
    assert set(methods().values()) <= {*SCOPES, "public"}


@pytest.mark.parametrize(
    "given", [{}, {"authorization": "Bearer myk_a_" + "A" * 43}, {"x_api_key": "x"}, {"authorization": "Basic YTpi"}]
)
def test_nobody_gets_through_any_method_without_credentials(channel, given):
    for path, access in methods().items():
        code = said(channel, path, **given)
        if access == "public":
            assert code == grpc.StatusCode.OK, path
        else:
            assert code == grpc.StatusCode.UNAUTHENTICATED, path


def test_each_method_opens_for_its_own_scope_alone(channel, keys):
    for scope in SCOPES:
        key, _ = keys.add([scope])
        for given in ({"x_api_key": key}, {"authorization": f"Bearer {key}"}):
            for path, access in methods().items():
                code = said(channel, path, **given)
                refused = code in (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED)
                assert refused == (access not in (scope, "public")), (path, scope, code)


def test_a_key_for_one_model_is_for_no_other(channel, keys):
    key, _ = keys.add(["infer", "read"], models=["other"])
    for path, access in methods().items():
        if access in ("infer", "read"):
            assert said(channel, path, x_api_key=key) == grpc.StatusCode.PERMISSION_DENIED, path


def test_without_authentication_a_name_that_was_rebound_is_refused(service):
    service.start(grpc_port=0)
    with grpc.insecure_channel(f"127.0.0.1:{port(service)}") as channel:
        assert said(channel, "/inference.GRPCInferenceService/ServerMetadata") == grpc.StatusCode.OK
    options = [("grpc.default_authority", "evil.com")]
    with grpc.insecure_channel(f"127.0.0.1:{port(service)}", options=options) as channel:
        code = said(channel, "/inference.GRPCInferenceService/ServerMetadata")
        assert code == grpc.StatusCode.PERMISSION_DENIED


def test_the_port_for_grpc_is_encrypted_by_the_same_certificate(service, tmp_path, keys):
    authority = Authority()
    roots = authority.write(tmp_path / "ca.pem").read_bytes()
    authority.issue("localhost", tmp_path / "server.pem", tmp_path / "server.key")
    authority.issue("a client", tmp_path / "client.pem", tmp_path / "client.key")
    files = {"certificate": "server.pem", "key": "server.key", "client_ca": "ca.pem"}
    service.start(grpc_port=0, tls={name: str(tmp_path / file) for name, file in files.items()})
    own = (tmp_path / "client.key").read_bytes(), (tmp_path / "client.pem").read_bytes()
    address, path = f"localhost:{port(service)}", "/inference.GRPCInferenceService/ServerLive"
    with grpc.secure_channel(address, grpc.ssl_channel_credentials(roots, *own)) as channel:
        assert said(channel, path) == grpc.StatusCode.OK
    with grpc.secure_channel(address, grpc.ssl_channel_credentials(roots)) as channel:
        assert said(channel, path) == grpc.StatusCode.UNAVAILABLE
    with grpc.insecure_channel(address) as channel:
        assert said(channel, path) == grpc.StatusCode.UNAVAILABLE
