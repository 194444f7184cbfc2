"""Who may call what over gRPC, and over which connection: keys, scopes, models, pages of other origins, TLS."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import grpc
import pytest
from tests.certificates import Authority

from modelyard.serving.auth.keys import KeyFile
from modelyard.serving.auth.spec import SCOPES
from modelyard.serving.grpc.front import SERVICES
from modelyard.serving.grpc.messages import POOL, message

sys.path.insert(0, str(Path(__file__).parent))

from grpc_calls import channel, infer, predict

PUBLIC = {"ServerLive", "ServerReady", "Check", "Watch"}

NEEDS = {"ModelInfer": "infer", "ModelStreamInfer": "infer"} | dict.fromkeys(
    ("RepositoryModelLoad", "RepositoryModelUnload"), "load"
)
"""What is not among them needs `read`."""

METHODS = [
    (service, method.name, method.input_type)
    for service in SERVICES
    for method in POOL.FindServiceByName(service).methods
]


def code_of(open_channel: grpc.Channel, service: str, name: str, kind: Any, *metadata: tuple[str, str]) -> Any:
    """Call any method with an empty message, and return what became of it; `Watch` ends with its first answer."""
    request = message(kind.full_name)()
    if name in ("ModelInfer", "ModelStreamInfer"):
        request = infer()
    stub = open_channel.stream_stream(
        f"/{service}/{name}", request_serializer=bytes, response_deserializer=bytes
    )  # fmt: skip
    call = stub(iter([request.SerializeToString()]), timeout=20, metadata=metadata)
    try:
        if name == "Watch":
            next(call)
            call.cancel()
            return grpc.StatusCode.OK
        list(call)
    except grpc.RpcError as error:
        return error.code()
    return call.code()


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    return KeyFile(tmp_path_factory.mktemp("keys") / "keys.json")


@pytest.fixture(scope="module")
def guarded(shared, keys):
    shared.options |= {"grpc_port": 0, "control": "explicit"}
    keys.add(["infer"])
    shared.start(auth={"keys": str(keys.path)})
    shared.client.swap("m", "v1.0.0", shared.package(factor=2.0))
    shared.all_accept()
    return shared


@pytest.mark.parametrize(("service", "name", "kind"), METHODS, ids=[name for _, name, _ in METHODS])
def test_no_method_but_health_is_answered_without_credentials(guarded, service, name, kind):
    with channel(guarded.client.grpc) as open_channel:
        code = code_of(open_channel, service, name, kind)
        wrong = code_of(open_channel, service, name, kind, ("authorization", "Bearer nonsense"))
    if name in PUBLIC:
        assert code is grpc.StatusCode.OK
    else:
        assert code is wrong is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize("scope", SCOPES)
def test_a_key_opens_the_methods_of_its_scope_and_no_others(guarded, keys, scope):
    key, _ = keys.add([scope])
    guarded.until(lambda: _knows(guarded, key))
    with channel(guarded.client.grpc) as open_channel:
        for service, name, kind in METHODS:
            if name in PUBLIC:
                continue
            code = code_of(open_channel, service, name, kind, ("x-api-key", key))
            allowed = NEEDS.get(name, "read") == scope
            assert (code is not grpc.StatusCode.PERMISSION_DENIED) == allowed, name
            assert code is not grpc.StatusCode.UNAUTHENTICATED, name


def _knows(served: Any, key: str) -> bool:
    """Say whether every worker has read the key; a fresh connection may go to any."""
    codes = set()
    for _ in range(8):
        with channel(served.client.grpc) as open_channel:
            service, name, kind = next(entry for entry in METHODS if entry[1] == "ServerMetadata")
            codes.add(code_of(open_channel, service, name, kind, ("x-api-key", key)))
    return grpc.StatusCode.UNAUTHENTICATED not in codes


def test_a_key_for_one_model_opens_no_other_even_within_a_stream(guarded, keys):
    key, _ = keys.add(["infer"], models=["other"])
    guarded.until(lambda: _knows(guarded, key))
    with channel(guarded.client.grpc) as open_channel:
        with pytest.raises(grpc.RpcError) as caught:
            predict(open_channel, metadata=(("x-api-key", key),))
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
        service, name, kind = next(entry for entry in METHODS if entry[1] == "ModelStreamInfer")
        assert code_of(open_channel, service, name, kind, ("x-api-key", key)) is grpc.StatusCode.PERMISSION_DENIED


def test_an_open_service_answers_no_page_of_another_origin(service):
    service.options |= {"grpc_port": 0, "control": "explicit"}
    service.start()
    service.client.swap("m", "v1.0.0", service.package(factor=2.0))
    with channel(service.client.grpc) as open_channel:
        assert predict(open_channel).model_version == "v1.0.0"
        with pytest.raises(grpc.RpcError) as caught:
            predict(open_channel, metadata=(("origin", "https://evil.example"),))
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED


@pytest.fixture
def certificates(tmp_path):
    root = Authority()
    root.write(tmp_path / "root.pem")
    root.issue("localhost", tmp_path / "server.pem", tmp_path / "server.key")
    root.issue("a client", tmp_path / "client.pem", tmp_path / "client.key")
    return tmp_path


@pytest.mark.parametrize("mutual", [False, True])
def test_tls_is_grpcs_too_and_mutual_tls_asks_for_a_certificate(service, certificates, mutual):
    tls = {"certificate": str(certificates / "server.pem"), "key": str(certificates / "server.key")}
    if mutual:
        tls["client_ca"] = str(certificates / "root.pem")
    service.options |= {"grpc_port": 0, "control": "explicit"}
    service.start(tls=tls)
    service.client.swap("m", "v1.0.0", service.package(factor=2.0))

    def connect(*, certificate: bool) -> grpc.Channel:
        root = (certificates / "root.pem").read_bytes()
        own = [(certificates / f"client.{end}").read_bytes() for end in ("key", "pem")] if certificate else [None, None]
        credentials = grpc.ssl_channel_credentials(root, *own)
        return grpc.secure_channel(service.client.grpc, credentials, [("grpc.use_local_subchannel_pool", 1)])

    with connect(certificate=mutual) as open_channel:
        assert predict(open_channel).model_version == "v1.0.0"
    with channel(service.client.grpc) as plain, pytest.raises(grpc.RpcError) as caught:
        predict(plain)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    if mutual:
        with connect(certificate=False) as without, pytest.raises(grpc.RpcError) as caught:
            predict(without)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
