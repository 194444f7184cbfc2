from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest

from modelyard.serving.auth.keys import KeyRing
from modelyard.serving.logs import Log


@pytest.fixture
def project(tmp_path):
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    (tmp_path / "modelyard.toml").write_text('serve_keys = ".modelyard/keys.json"\n')
    return tmp_path


def key(project, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "modelyard", "-C", str(project), "key", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_key_is_printed_alone_once_and_counts(project):
    made = key(project, "add", "--scopes", "infer,read", "--models", "fraud-*", "--note", "the shop")
    assert made.returncode == 0, made.stderr
    secret = made.stdout.strip()
    principal = KeyRing(project / ".modelyard" / "keys.json", Log("error")).find(secret)
    assert principal is not None
    assert principal.scopes == {"infer", "read"}
    listed = key(project, "ls").stdout
    assert "infer read" in listed
    assert "the shop" in listed
    assert secret[-43:] not in made.stderr + listed + key(project, "ls", "--json").stdout


def test_json_tells_the_same(project):
    made = json.loads(key(project, "add", "--expires", "90d", "--json").stdout)
    assert made["key"].startswith(f"myk_{made['id']}_")
    left = datetime.fromisoformat(made["expires"]) - datetime.now(UTC)
    assert timedelta(days=89) < left <= timedelta(days=90)
    assert json.loads(key(project, "revoke", made["id"], "--json").stdout)["state"] == "revoked"
    (listed,) = json.loads(key(project, "ls", "--json").stdout)
    assert listed["state"] == "revoked"
    assert "hash" not in listed


def test_a_date_is_taken_as_utc(project):
    made = json.loads(key(project, "add", "--expires", "2199-01-31", "--json").stdout)
    assert made["expires"] == "2199-01-31T00:00:00Z"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("add", "--scopes", "root"), "There is no scope 'root'"),
        (("add", "--scopes", ""), "needs a scope"),
        (("add", "--models", ""), "needs a model"),
        (("add", "--expires", "soon"), "is no time"),
        (("add", "--expires", "2001-01-01"), "ended already"),
        (("add", "--expires", "999999w"), "is no time"),
        (("revoke", "nobody"), "There is no such key"),
    ],
)
def test_what_makes_no_sense_is_told_in_one_line_with_a_remedy(project, words, says):
    done = key(project, *words)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_where_no_file_is_named_the_remedy_is_the_line_to_write(project):
    (project / "modelyard.toml").write_text("")
    done = key(project, "add")
    assert done.returncode == 2
    assert 'serve_keys = ".modelyard/keys.json"' in done.stderr
