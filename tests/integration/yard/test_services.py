"""Services from the yard: what `up`, `down` and `predict` say when something is missing or wrong."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import grpc
import pytest
from tests.projects import environment, modelyard


@pytest.fixture
def running(project: Path):
    modelyard(project, "up", "dev")
    yield project
    modelyard(project, "down", code=None)


def test_a_service_in_the_background_has_the_ports_that_it_was_given(project: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        port, grpc_port = one.getsockname()[1], other.getsockname()[1]
    ports = (f"--port={port}", f"--grpc-port={grpc_port}")
    try:
        (state,) = json.loads(modelyard(project, "up", "dev", *ports, "--json").stdout)
        assert (state["url"], state["grpc"]) == (f"http://127.0.0.1:{port}", f"127.0.0.1:{grpc_port}")
        with grpc.insecure_channel(state["grpc"]) as channel:
            live = channel.unary_unary("/inference.GRPCInferenceService/ServerLive")
            assert live(b"", timeout=20) == b"\x08\x01"
        # It runs as it was asked to: nothing is to be done, unless other ports are asked for.
        modelyard(project, "up", "dev", *ports)
        told = modelyard(project, "up", "dev", f"--grpc-port={port}", code=None)
        assert told.returncode
        assert "other ports" in told.stderr
        assert "modelyard down dev" in told.stderr
    finally:
        modelyard(project, "down", code=None)
    assert "--grpc-port" in modelyard(project, "up", "--grpc-port=0", code=2).stderr


def test_a_port_that_somebody_else_has_is_told_with_the_remedy_and_long_before_the_timeout(project: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        told = modelyard(project, "up", "dev", f"--port={port}", "--timeout=120", code=5).stderr
    assert f"127.0.0.1:{port} can't be listened on" in told
    assert "Choose another port" in told
    assert "not ready within" not in told


def test_a_service_that_runs_is_not_taken_for_one_that_is_controlled_otherwise(running: Path) -> None:
    told = modelyard(running, "up", "dev", "--explicit", code=5).stderr
    assert "follows releases" in told
    assert "modelyard down dev" in told
    modelyard(running, "down", "dev")
    assert "nothing loaded yet" in modelyard(running, "up", "lab", "--explicit").stdout
    modelyard(running, "up", "dev", "--explicit")
    assert "follows no releases" in modelyard(running, "up", "dev", code=5).stderr


@pytest.mark.parametrize(
    ("setting", "code", "words"),
    [
        ('serve_host = "0.0.0.0"', 3, ("may not listen on '0.0.0.0'", "serve_keys")),
        ('serve_tls_certificate = "cert.pem"', 2, ("TLS needs a certificate and its key", "serve_tls_key")),
        (
            'serve_tls_certificate = "cert.pem"\nserve_tls_key = "key.pem"', 2,
            ("project/cert.pem: There is no such file", "correct serve_tls_certificate"),
        ),
    ],
)  # fmt: skip
def test_what_keeps_a_service_from_starting_is_told_with_its_remedy_and_its_exit_code(
    project: Path, setting: str, code: int, words: tuple[str, ...]
) -> None:
    settings = project / "modelyard.toml"
    settings.write_text(setting + "\n")
    try:
        told = modelyard(project, "up", "dev", code=code).stderr
        alone = modelyard(project, "serve", "dev", code=code).stderr
    finally:
        settings.unlink()
    for word in words:
        assert word in told
        assert word in alone


def test_a_second_service_of_one_name_is_told_how_to_stop_the_first(running: Path) -> None:
    told = modelyard(running, "serve", "dev", code=5).stderr
    assert "'dev' runs already" in told
    assert "modelyard down dev" in told


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_a_service_in_the_foreground_says_by_its_exit_code_whether_it_was_interrupted(
    project: Path, number: int, code: int
) -> None:
    service = subprocess.Popen(
        [sys.executable, "-m", "modelyard", "serve", "dev"], cwd=project, env=environment(project.parent),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        assert service.stdout is not None
        assert any('"started"' in line for line in service.stdout)
        service.send_signal(number)
        printed = service.communicate(timeout=60)[0]
    finally:
        service.kill()
    assert service.returncode == code, printed
    assert '"stopped"' in printed


def predict(project: Path, body: object, code: int = 0) -> str:
    file = project.parent / "rows.json"
    file.write_text(json.dumps(body))
    done = modelyard(project, "predict", "trees", str(file), "--env", "dev", code=code)
    return done.stdout + done.stderr


def test_no_rows_are_answered_with_no_rows(running: Path) -> None:
    assert "no rows" in predict(running, {"rows": []})
    assert "no rows" in predict(running, {"columns": {"height": [], "width": []}})


def test_rows_that_do_not_fit_are_told_with_row_field_and_remedy(running: Path) -> None:
    told = predict(running, {"rows": [{"height": 3, "width": "wide"}]}, code=2)
    assert "row 0" in told
    assert "'width'" in told
    assert len(told.strip().splitlines()) == 2


def test_an_environment_that_no_blueprint_has_is_told_with_the_nearest(running: Path) -> None:
    (running.parent / "rows.json").write_text("{}")
    for words in (("up", "dve"), ("down", "dve"), ("predict", "trees", "../rows.json", "--env", "dve")):
        assert "Did you mean dev?" in modelyard(running, *words, code=2).stderr


def test_two_that_start_the_same_service_at_once_both_find_it_running(project: Path) -> None:
    command = ["bash", "-c", "python -m modelyard up dev & a=$!; python -m modelyard up dev; b=$?; wait $a && exit $b"]
    done = subprocess.run(
        command, cwd=project, env=environment(project.parent), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first == second
    modelyard(project, "down")


def test_a_service_whose_package_is_not_in_the_store_is_told_soon_and_goes_on_trying(project: Path) -> None:
    store, aside = project / ".modelyard" / "store", project.parent / "aside"
    shutil.rmtree(project / ".modelyard" / "services", ignore_errors=True)
    store.rename(aside)
    try:
        told = modelyard(project, "up", "dev", code=7).stderr
        assert "can't serve what is released" in told
        assert "trouble" in modelyard(project, "ls", "services").stdout
        shutil.rmtree(store, ignore_errors=True)
        aside.rename(store)
        deadline = time.monotonic() + 60
        while "ready" not in modelyard(project, "ls", "services").stdout:
            assert time.monotonic() < deadline
    finally:
        modelyard(project, "down", code=None)


def test_a_project_outside_git_is_told_at_once_and_no_service_is_left(project: Path, tmp_path: Path) -> None:
    folder = tmp_path / "outside"
    folder.mkdir()
    shutil.copy(project / "blueprint.yaml", folder)
    assert "no Git repository" in modelyard(folder, "up", code=2).stderr
    assert modelyard(folder, "ls", "services").stdout.startswith("No service")
