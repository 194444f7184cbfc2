from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta

import pytest

from modelyard.errors import BusyError, InputError, IntegrityError, NotFoundError
from modelyard.serving.auth import keys as module
from modelyard.serving.auth.keys import KeyFile, KeyRing


@pytest.fixture
def file(tmp_path):
    return KeyFile(tmp_path / "auth" / "keys.json")


def until(true, seconds: float = 1.0) -> None:
    """A second is what is promised."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_key_is_told_once_and_kept_as_a_digest_alone(file):
    key, record = file.add(["infer"], note="the shop")
    assert re.fullmatch(rf"myk_{record.id}_[A-Za-z0-9_-]{{43}}", key)
    text = file.path.read_text()
    assert key not in text
    assert key[-43:] not in text
    assert json.loads(text)["keys"][0]["hash"] == hashlib.sha256(key.encode()).hexdigest()
    assert repr(record).find(key[-43:]) < 0


def test_the_file_is_private_from_the_first_byte_and_after_each_change(file):
    for _ in range(2):
        file.add(["infer"])
        assert file.path.stat().st_mode & 0o777 == 0o600


def test_no_two_keys_are_alike(file):
    made = [file.add(["infer"]) for _ in range(20)]
    assert len({key for key, _ in made}) == len({record.id for _, record in made}) == 20
    assert [record for _, record in made] == list(file.all())


def test_a_key_stands_for_its_scopes_and_models(file, written):
    key, record = file.add(["infer", "read", "infer"], models=["fraud-*", "churn"])
    principal = KeyRing(file.path, written.log).find(key)
    assert principal.name == f"key:{record.id}"
    assert principal.scopes == {"infer", "read"}
    assert principal.models == ("fraud-*", "churn")


def test_what_differs_in_one_character_anywhere_is_no_key(file, written):
    key, _ = file.add(["infer"])
    ring = KeyRing(file.path, written.log)
    assert ring.find(key) is not None
    for place in range(len(key)):
        assert ring.find(f"{key[:place]}{'A' if key[place] != 'A' else 'B'}{key[place + 1 :]}") is None
    for wrong in ("", "myk_", key[:-1], key + "A", key.upper(), f" {key}", key[4:], "é" * 60, "\udcff" + key):
        assert ring.find(wrong) is None


def test_a_key_does_not_lend_its_secret_to_another_id(file, written):
    first, _ = file.add(["infer"])
    _, second = file.add(["promote"])
    assert KeyRing(file.path, written.log).find(f"myk_{second.id}_{first[-43:]}") is None


def test_a_revoked_key_ends_within_a_second_and_stays_in_the_file(file, written):
    key, record = file.add(["infer"])
    ring = KeyRing(file.path, written.log)
    assert ring.find(key) is not None
    assert file.revoke(record.id).state(datetime.now(UTC)) == "revoked"
    until(lambda: ring.find(key) is None)
    assert file.revoke(record.id) == file.all()[0]


def test_a_new_key_begins_at_once(file, written):
    ring = KeyRing(file.path, written.log)
    assert ring.find("myk_a_" + "b" * 43) is None
    for _ in range(3):
        key, _ = file.add(["infer"])
        assert ring.find(key) is not None


def test_a_key_can_be_revoked_by_its_whole_text(file):
    key, record = file.add(["infer"])
    assert file.revoke(key).id == record.id


def test_revoking_an_unknown_key_repeats_nothing_of_what_was_given(file):
    file.add(["infer"])
    with pytest.raises(NotFoundError) as raised:
        file.revoke("secretsecret")
    assert "secretsecret" not in str(raised.value)


def test_a_key_ends_by_itself(file, written):
    end = datetime.now(UTC) + timedelta(seconds=0.2)
    key, record = file.add(["infer"], expires=end)
    ring = KeyRing(file.path, written.log)
    assert record.state(end - timedelta(seconds=1)) == "active"
    assert record.state(end) == "expired"
    assert ring.find(key) is not None
    until(lambda: ring.find(key) is None)


def test_a_file_that_is_gone_ends_every_key(file, written):
    key, _ = file.add(["infer"])
    ring = KeyRing(file.path, written.log)
    assert ring.find(key) is not None
    file.path.unlink()
    until(lambda: ring.find(key) is None)


def test_while_a_file_is_damaged_no_key_counts_and_the_log_says_why(file, written):
    key, _ = file.add(["infer"])
    ring = KeyRing(file.path, written.log)
    assert ring.find(key) is not None
    whole = file.path.read_bytes()
    file.path.write_bytes(whole[:-20])

    def refused() -> bool:
        try:
            ring.find(key)
        except BusyError:
            return True
        return False

    until(refused)
    assert written.events[-1]["event"] == "keys-unreadable"
    file.path.write_bytes(whole)
    until(lambda: not refused())
    assert ring.find(key) is not None


@pytest.mark.parametrize("mode", [0o620, 0o602])
def test_a_file_that_others_may_write_is_refused(file, mode):
    file.add(["infer"])
    file.path.chmod(mode)
    with pytest.raises(IntegrityError, match="chmod 600"):
        file.all()


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.update(version=2),
        lambda d: d.update(extra=1),
        lambda d: d["keys"][0].update(scopes=["root"]),
        lambda d: d["keys"][0].update(hash="00"),
        lambda d: d["keys"][0].update(id="a/b"),
        lambda d: d["keys"][0].update(created="2026-01-01T00:00:00"),
        lambda d: d["keys"].append(d["keys"][0]),
    ],
)
def test_a_file_that_says_something_else_is_refused(file, change):
    file.add(["infer"])
    document = json.loads(file.path.read_text())
    change(document)
    file.path.write_text(json.dumps(document))
    with pytest.raises(IntegrityError):
        file.all()


def test_the_secret_is_in_no_log(file, written):
    key, record = file.add(["infer"])
    ring = KeyRing(file.path, written.log)
    ring.find(key)
    ring.find(key[:-1] + "!")
    file.revoke(record.id)
    until(lambda: ring.find(key) is None)
    assert [event["event"] for event in written.events] == ["keys-read", "keys-read"]
    assert key[-43:] not in written.text


@pytest.mark.parametrize(
    "wrong",
    [
        {"scopes": []},
        {"scopes": ["admin"]},
        {"scopes": ["infer"], "models": []},
        {"scopes": ["infer"], "models": [""]},
        {"scopes": ["infer"], "expires": datetime.now(UTC) - timedelta(days=1)},
    ],
)
def test_a_key_that_makes_no_sense_is_not_made(file, wrong):
    with pytest.raises(InputError):
        file.add(**wrong)
    assert not file.path.exists()


def test_writers_at_one_time_lose_no_key(file):
    program = (
        "import sys; from pathlib import Path; from modelyard.serving.auth.keys import KeyFile\n"
        "for _ in range(5): KeyFile(Path(sys.argv[1])).add(['infer'])"
    )
    writers = [subprocess.Popen([sys.executable, "-c", program, str(file.path)]) for _ in range(4)]
    assert [writer.wait() for writer in writers] == [0, 0, 0, 0]
    assert len(file.all()) == 20


def test_a_known_key_costs_no_system_call(file, written, monkeypatch):
    key, _ = file.add(["infer"])
    ring = KeyRing(file.path, written.log)
    ring.find(key)
    monkeypatch.setattr(ring, "_next_look", float("inf"))
    file.path.unlink()
    file.path.mkdir()  # whoever looked would fail
    assert ring.find(key) is not None
    assert module.LOOK_SECONDS <= 0.5
