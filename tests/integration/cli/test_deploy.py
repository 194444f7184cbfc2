from __future__ import annotations

import json
import pwd
import sys
from pathlib import Path

import pytest
from tests.projects import modelyard, new_project

SITE = ("deploy", "nginx", "--env", "production", "--port", "8080", "--server-name", "models.example.org",
        "--certificate", "certificate.pem", "--key", "key.pem")  # fmt: skip
UNIT = ("deploy", "systemd", "--env", "production", "--port", "8080", "--user", "nobody")


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    return new_project(tmp_path_factory.mktemp("deploy"))


def test_the_unit_starts_this_interpreter_in_this_project_and_lets_it_write_its_state(project):
    made = modelyard(project, *UNIT, "--grpc-port", "8081", "--memory-max", "4G", "--output", "files").stdout.strip()
    text = (project / made).read_text()
    assert Path(made).name == "modelyard-production.service"
    start = f"{sys.executable} -m modelyard -C {project} serve production --port 8080 --grpc-port 8081"
    assert f"ExecStart={start}\n" in text
    assert f"ReadWritePaths={project}/.modelyard\n" in text
    assert "MemoryMax=4G\n" in text
    assert modelyard(project, *UNIT, "--grpc-port", "8081", "--memory-max", "4G").stdout == text


def test_what_settings_put_elsewhere_is_writable_too(project, tmp_path):
    text = modelyard(project, *UNIT, MODELYARD_STORE=f"file://{tmp_path}/store",
                     MODELYARD_CATALOG=f"sqlite:///{tmp_path}/db/catalog.db").stdout  # fmt: skip
    assert f"ReadWritePaths={project}/.modelyard {tmp_path}/store {tmp_path}/db\n" in text


def test_a_project_of_root_s_needs_a_user(project):
    owner = pwd.getpwuid(project.stat().st_uid)
    done = modelyard(project, *UNIT[:-2], code=2 if owner.pw_uid == 0 else 0)
    assert "--user" in done.stderr if owner.pw_uid == 0 else f"User={owner.pw_name}\n" in done.stdout


def test_a_site_is_refused_until_the_service_asks_who_it_is(project):
    done = modelyard(project, *SITE, code=3)
    assert "serve_keys" in done.stderr
    answer = json.loads(modelyard(project, *SITE, "--json", MODELYARD_SERVE_KEYS=".modelyard/keys.json").stdout)
    assert answer["name"] == "modelyard-production.conf"
    assert f'ssl_certificate "{project}/certificate.pem";' in answer["text"]
    assert "client_max_body_size 16777216;" in answer["text"]


def test_an_environment_that_is_not_there_is_told(project):
    done = modelyard(project, "deploy", "systemd", "--env", "prodution", "--port", "8080", code=2)
    assert "Did you mean production?" in done.stderr
