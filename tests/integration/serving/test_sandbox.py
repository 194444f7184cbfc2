"""What a process for an upload may take, and that its end harms nobody."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from modelyard.serving.sandbox import Bounds, Sandbox, SandboxLostError, SandboxRefusedError

TAKE = {"do": "take_in", "name": "m", "own_proto": False, "wishes": {}}


@pytest.fixture
def upload(tmp_path: Path) -> Path:
    file = tmp_path / "upload"
    file.write_bytes(b"no model at all")
    return file


def limits_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/limits").read_text().splitlines()
    return {line[:26].strip(): line[26:].split()[0] for line in lines}


def test_the_process_has_its_limits_and_a_lower_priority(tmp_path, upload):
    sandbox = Sandbox(tmp_path / "box", Bounds(memory=1 << 30, cpu_seconds=7, file_bytes=1 << 20))
    try:
        with pytest.raises(SandboxRefusedError) as refused:
            sandbox.ask({**TAKE, "upload": str(upload)})
        assert (refused.value.status, refused.value.failure.code) == (415, "format")
        limits = limits_of(sandbox.pid)
        assert (limits["Max data size"], limits["Max cpu time"], limits["Max file size"]) == (
            str(1 << 30), "7", str(1 << 20)
        )  # fmt: skip
        assert limits["Max core file size"] == "0"
        nice = int(Path(f"/proc/{sandbox.pid}/stat").read_text().rpartition(")")[2].split()[16])
        assert nice >= 10
    finally:
        sandbox.end()
    assert not sandbox.folder.exists()


def test_too_little_memory_is_told_or_ends_the_process(tmp_path, upload):
    sandbox = Sandbox(tmp_path / "box", Bounds(memory=24 << 20))
    try:
        with pytest.raises((SandboxRefusedError, SandboxLostError)):
            sandbox.ask({**TAKE, "upload": str(upload)})
    finally:
        sandbox.end()


def test_a_process_that_does_not_answer_in_time_is_ended(tmp_path, upload):
    sandbox = Sandbox(tmp_path / "box", Bounds(seconds=0.01))
    started = time.monotonic()
    with pytest.raises(SandboxLostError, match="longer than"):
        sandbox.ask({**TAKE, "upload": str(upload)})
    assert time.monotonic() - started < 5
    assert not sandbox.alive
    assert not sandbox.folder.exists()


def test_the_end_of_who_asked_is_the_end_of_the_process(tmp_path, upload):
    """As after a kill of the worker: the pipe is closed, and nothing else says so."""
    sandbox = Sandbox(tmp_path / "box", Bounds())
    with pytest.raises(SandboxRefusedError):
        sandbox.ask({**TAKE, "upload": str(upload)})
    process = sandbox._process
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(10) == 0
    sandbox.end()
