"""Clients that nobody here wrote, each in an environment of its own, since their pins clash with ours and each other's.

A file `NAME.txt` of exact pins, in tests/integration/serving/foreign, becomes an environment in .cache/clients/NAME,
which is kept as long as the file and the interpreter stay the same.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

__all__ = ["Foreign", "foreign"]

ROOT = Path(__file__).parents[1]
PINS = ROOT / "tests/integration/serving/foreign"
CACHE = ROOT / ".cache/clients"
UNREACHABLE = (
    "Failed to establish a new connection",
    "Max retries exceeded",
    "Temporary failure in name resolution",
    "Name or service not known",
    "Network is unreachable",
    "Connection refused",
    "Read timed out",
    "ConnectTimeoutError",
    "ProxyError",
)
"""What pip says where it can't reach a registry, and not where a pin is wrong."""


@dataclass(frozen=True)
class Foreign:
    """An environment with a client in it.

    Args:
        folder: Of the environment.
    """

    folder: Path

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.folder / "bin/python"

    def start(self, script: str | Path, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        """Start a script (a file, or Python text) under the environment's interpreter; it sees nothing of ours."""
        told = [str(script)] if isinstance(script, Path) else ["-c", script]
        environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")}
        return subprocess.Popen(
            [str(self.python), "-P", *told, *arguments], env=environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options,
        )  # fmt: skip

    def run(self, script: str | Path, *arguments: str, timeout: float = 120.0) -> Any:
        """Run a script to its end, and return the JSON that it printed as its last line."""
        process = self.start(script, *arguments)
        try:
            out, err = process.communicate(timeout=timeout)
        finally:
            process.kill()
            process.wait()
        assert process.returncode == 0, f"the client failed:\n{err[-4000:]}"
        return json.loads(out.splitlines()[-1])


def foreign(name: str) -> Foreign:
    """Return the environment of a file of pins; it is made where it is missing or the file is another.

    The test is skipped, and says why, only where no registry can be reached.
    """
    pins = PINS / f"{name}.txt"
    wanted = hashlib.sha256(pins.read_bytes() + sys.version.encode()).hexdigest()
    folder = CACHE / name
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{name}.lock").open("w") as lock:
        # Several test processes may want it at once.
        fcntl.flock(lock, fcntl.LOCK_EX)
        stamp = folder / "pins"
        if not stamp.exists() or stamp.read_text() != wanted:
            shutil.rmtree(folder, ignore_errors=True)
            subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, timeout=120)
            install = [str(folder / "bin/python"), "-m", "pip", "install", "--quiet", "--no-input", "-r", str(pins)]
            done = subprocess.run(install, capture_output=True, text=True, timeout=250)
            if done.returncode:
                if any(sign in done.stderr for sign in UNREACHABLE):
                    pytest.skip(f"the client {name} can't be installed: no registry can be reached")
                pytest.fail(f"the client {name} can't be installed:\n{done.stderr[-3000:]}")
            stamp.write_text(wanted)
    return Foreign(folder)
