"""gRPC of a service in real processes: swaps, kills, drains, limits, repository, and clients that nobody here wrote."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path

import grpc
import pytest
from tests.foreign import foreign
from tests.unit.serving.grpc.frames import PREFACE, settings

from modelyard.errors import InputError
from modelyard.serving.grpc.front import SERVICES
from modelyard.serving.grpc.messages import message
from modelyard.serving.spec import ServiceSpec

sys.path.insert(0, str(Path(__file__).parent))

from grpc_calls import Load, ask, channel, predict

SCRIPTS = Path(__file__).parent / "foreign"


@pytest.fixture
def served(service):
    """A service with gRPC and the model m in version v1.0.0, which doubles."""
    service.options |= {"grpc_port": 0, "control": "explicit"}
    service.start()
    service.client.swap("m", "v1.0.0", service.package(factor=2.0))
    service.all_accept()
    return service


def test_a_service_tells_where_it_speaks_grpc_and_keeps_the_port(served):
    address = served.client.grpc
    assert served.client.status().grpc_port == int(address.rsplit(":", 1)[1])
    with channel(address) as open_channel:
        assert predict(open_channel).model_version == "v1.0.0"
    served.client.stop()
    served.process.wait(15)
    served.start()
    assert served.client.grpc == address


def test_without_its_library_a_service_starts_and_only_one_that_shall_speak_grpc_does_not(service, tmp_path):
    (tmp_path / "path").mkdir()
    (tmp_path / "path/h2.py").write_text("raise ModuleNotFoundError('h2 is hidden')\n")
    service.path = tmp_path / "path"
    service.start(control="explicit")
    service.client.swap("m", "v1.0.0", service.package(factor=2.0))
    assert service.predict().status == 200
    assert service.client.grpc is None
    service.client.stop()
    service.process.wait(15)
    process = service.spawn(grpc_port=0)
    assert process.wait(15) == 2
    assert "MissingExtraError: gRPC needs h2 and protobuf." in service.log
    assert "pip install 'modelyard[serve]'" in service.log


def test_one_port_for_both_is_refused(tmp_path):
    with pytest.raises(InputError):
        ServiceSpec(name="dev", folder=tmp_path, port=8000, grpc_port=8000).check()


def test_swaps_under_load_fail_no_call_and_mix_no_answers(served):
    factors = {f"v1.{index}.0": index + 2.0 for index in range(12)}
    packages = {version: served.package(factor=factor) for version, factor in factors.items()}
    with Load(served.client.grpc, factors) as load, Load(served.client.grpc, factors, threads=2, fresh=True) as fresh:
        for version in list(factors)[1:]:
            served.client.swap("m", version, packages[version])
            # After the acknowledgement no other version answers.
            with channel(served.client.grpc) as open_channel:
                assert predict(open_channel).model_version == version
            load.wait(20)
    assert (load.failed, load.wrong, fresh.failed, fresh.wrong) == ([], [], [], [])
    assert len(load.versions) >= 6
    assert fresh.calls > 0


def test_a_killed_worker_takes_no_connection_with_it_that_it_had_not_accepted(served):
    port = int(served.client.grpc.rsplit(":", 1)[1])
    victim = served.all_accept()[0]
    os.kill(victim, signal.SIGSTOP)
    clients = []
    try:
        for _ in range(100):
            clients.append(socket.create_connection(("127.0.0.1", port), timeout=10))
            clients[-1].sendall(PREFACE + settings({}))
        os.kill(victim, signal.SIGKILL)
        greeted = sum(len(client.recv(9)) == 9 for client in clients)
    finally:
        for client in clients:
            client.close()
    assert greeted == 100
    served.until(lambda: victim not in served.client.status().workers and len(served.all_accept()) == 2)


def test_of_a_killed_worker_one_call_fails_for_each_connection_and_the_next_are_answered(served):
    with Load(served.client.grpc, {"v1.0.0": 2.0}, threads=6) as load:
        lost = 0
        for _ in range(4):
            load.wait(50)
            victim = served.all_accept()[0]
            served.until(lambda: all(load.held))
            place = next(event["worker"] for event in served.events if event.get("worker_pid") == victim)
            on_it = [worker for worker in load.held if worker.endswith(f"-{place}")]
            before = len(load.failed)
            os.kill(victim, signal.SIGKILL)
            served.until(lambda gone=victim: gone not in served.client.status().workers)
            load.wait(50)
            failed = load.failed_on[before:]
            # Each connection had one call in flight, or was about to send one; those of the other worker fail nothing.
            assert len(failed) <= len(on_it)
            assert set(failed) <= set(on_it)
            lost += len(failed)
        load.wait(200)
        assert len(load.failed) == lost
    assert lost > 0
    assert {error.code() for error in load.failed} == {grpc.StatusCode.UNAVAILABLE}
    assert load.wrong == []


def test_a_stop_answers_what_is_in_flight(served):
    served.client.swap("m", "v2.0.0", served.package(factor=3.0, predict_seconds=1.0, row_seconds=1.0))
    answers = []
    with channel(served.client.grpc) as open_channel:
        predict(open_channel)
        thread = threading.Thread(target=lambda: answers.append(predict(open_channel)))
        thread.start()
        served.until(lambda: b"modelyard_in_flight 1.0" in served.request("GET", "/metrics").body)
        served.client.stop()
        thread.join(10)
    assert answers[0].model_version == "v2.0.0"


def test_a_deadline_ends_the_call_and_not_the_service(served):
    served.client.swap("m", "v2.0.0", served.package(factor=3.0, predict_seconds=0.5, row_seconds=0.5))
    with channel(served.client.grpc) as open_channel:
        started = time.monotonic()
        with pytest.raises(grpc.RpcError) as caught:
            predict(open_channel, timeout=0.2)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert time.monotonic() - started < 0.45
        assert predict(open_channel).model_version == "v2.0.0"
    served.until(lambda: b"modelyard_in_flight 0.0" in served.request("GET", "/metrics").body)


def test_admission_is_shared_with_http(service):
    service.options |= {"grpc_port": 0, "control": "explicit", "workers": 1, "limits": {"in_flight": 1}}
    service.start()
    service.client.swap("m", "v1.0.0", service.package(factor=2.0, predict_seconds=1.0, row_seconds=1.0))
    service.all_accept()
    first = threading.Thread(target=service.predict)
    first.start()
    service.until(lambda: b"modelyard_in_flight 1.0" in service.request("GET", "/metrics").body)
    with channel(service.client.grpc) as open_channel, pytest.raises(grpc.RpcError) as caught:
        predict(open_channel)
    first.join(10)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert dict(caught.value.trailing_metadata())["grpc-retry-pushback-ms"] == "1000"


def test_the_repository_lists_loads_and_unloads_by_name_and_version(service):
    known = service.root / "repository.json"
    packages = {"v1.0.0": service.package(factor=2.0), "v1.1.0": service.package(factor=3.0)}
    known.write_text(json.dumps({"m": packages}))
    service.options |= {"grpc_port": 0, "control": "explicit", "repository": str(known)}
    service.start()
    load, unload = message("inference.RepositoryModelLoadRequest"), message("inference.RepositoryModelUnloadRequest")
    with channel(service.client.grpc) as open_channel:
        chosen = load(model_name="m")
        chosen.parameters["version"].string_param = "v1.0.0"
        ask(open_channel, "RepositoryModelLoad", chosen)
        assert predict(open_channel).model_version == "v1.0.0"
        index = ask(open_channel, "RepositoryIndex", message("inference.RepositoryIndexRequest")())
        states = {entry.version: entry.state for entry in index.models}
        assert states == {"v1.0.0": "READY", "v1.1.0": "UNAVAILABLE"}
        ask(open_channel, "RepositoryModelLoad", load(model_name="m"))
        assert predict(open_channel).model_version == "v1.1.0"
        by_path = load(model_name="m")
        by_path.parameters["file:1/model.onnx"].bytes_param = b"bytes"
        for request, code in (
            (by_path, grpc.StatusCode.INVALID_ARGUMENT),
            (load(model_name="../../etc"), grpc.StatusCode.NOT_FOUND),
            (load(repository_name="http://elsewhere", model_name="m"), grpc.StatusCode.NOT_FOUND),
        ):
            with pytest.raises(grpc.RpcError) as caught:
                ask(open_channel, "RepositoryModelLoad", request)
            assert caught.value.code() is code
        ask(open_channel, "RepositoryModelUnload", unload(model_name="m"))
        with pytest.raises(grpc.RpcError) as caught:
            predict(open_channel)
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


@pytest.mark.network
def test_tritons_own_client_gets_right_answers(served):
    said = foreign("tritonclient").run(SCRIPTS / "triton_infer.py", served.client.grpc)
    assert (said["live"], said["ready"], said["model_ready"]) == (True, True, [True, False, False])
    assert said["server"]["name"] == "modelyard"
    assert said["model"]["inputs"] == [{"name": "x", "datatype": "FP64", "shape": ["-1"]}]
    assert said["infer"] == said["pinned"] == said["gzip"] == [2.0, 5.0]
    assert said["response"]["model_version"] == "v1.0.0"
    assert said["response"]["id"] == "one"
    assert said["large"] is True
    assert said["missing"] == "StatusCode.NOT_FOUND"
    assert said["stream"] == [2.0 * index for index in range(20)]
    assert said["aio"] == [2.0 * index for index in range(50)]
    assert said["index"] == [["m", "v1.0.0", "READY"]]


@pytest.mark.network
def test_kserves_own_client_gets_right_answers(served):
    said = foreign("kserve").run(SCRIPTS / "kserve_infer.py", served.client.grpc)
    assert (said["live"], said["ready"], said["model_ready"]) == (True, True, True)
    assert said["raw"] == said["typed"] == [2.0, 4.0, 6.0]
    assert (said["id"], said["version"]) == ("one", "v1.0.0")


@pytest.mark.network
def test_the_protocols_own_stubs_get_right_answers(served):
    said = foreign("open-inference").run(SCRIPTS / "open_inference_infer.py", served.client.grpc)
    assert said == {
        "server": "modelyard", "inputs": ["x"], "infer": [2.0, 4.0], "id": "one", "version": "v1.0.0",
        "generation": 1, "metadata": "v1.0.0",
    }  # fmt: skip


@pytest.mark.network
def test_grpcios_own_clients_read_the_descriptors_and_watch_health_to_the_end(served):
    cats = served.package(factor=3.0)
    served.client.swap("cats", "v1.0.0", cats)
    served.kill()
    damaged = served.root / "store" / cats / "double.json"
    good = damaged.read_text()
    damaged.write_text('{"factor": 9}')
    served.process = served.spawn()
    served.until(lambda: served.client.alive)
    served.all_accept()
    with foreign("grpcio").start(SCRIPTS / "grpcio_health.py", served.client.grpc) as client:
        told = (json.loads(line) for line in client.stdout)
        try:
            descriptors = next(told)
            assert descriptors["services"] == sorted(SERVICES)
            assert {"ModelInfer", "RepositoryModelLoad"} < set(descriptors["methods"])
            assert (descriptors["infer"], descriptors["missing"], descriptors["extensions"]) == ([8.0], True, [])
            assert [next(told), next(told), next(told)] == [
                {"check": "NOT_SERVING"}, {"unknown": "SERVICE_UNKNOWN"}, {"watch": "NOT_SERVING"},
            ]  # fmt: skip
            damaged.write_text(good)
            served.client.swap("cats", "v1.0.0", cats)
            assert next(told) == {"watch": "SERVING"}
            served.client.stop()
            assert list(told) == [{"end": "UNAVAILABLE"}]
        finally:
            client.kill()
    assert served.process.wait(15) == 0
