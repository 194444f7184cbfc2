from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from modelyard.serving.client import ServiceClient
from modelyard.testing.load import LoadGenerator

DOUBLES = Path(__file__).parent / "doubles"
sys.path.insert(0, str(DOUBLES))

from double_loader import write_double  # noqa: E402  (the line above makes it found)


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Service:
    """A service of double packages in a real process, and everything a test does with it."""

    root: Path
    options: dict[str, Any] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None
    path: Path = DOUBLES
    """What stands first on the service's import path."""

    @property
    def folder(self) -> Path:
        return self.root / "service"

    @property
    def client(self) -> ServiceClient:
        return ServiceClient(self.folder)

    @property
    def log(self) -> str:
        return (self.root / "log").read_text()

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.splitlines()]

    def package(self, **behaviour: Any) -> str:
        return write_double(self.root / "store", **behaviour)

    def live(self, **models: tuple[str, str]) -> None:
        text = json.dumps({name: {"model": name, "version": v, "package": p} for name, (v, p) in models.items()})
        (self.root / "live.new").write_text(text)
        (self.root / "live.new").rename(self.root / "live.json")

    def spawn(self, **options: Any) -> subprocess.Popen[bytes]:
        given = {
            "folder": str(self.folder), "store": str(self.root / "store"), "live": str(self.root / "live.json"),
            **self.options, **options,
        }  # fmt: skip
        environment = {**os.environ, "PYTHONPATH": f"{self.path}:{DOUBLES}", "OMP_NUM_THREADS": "1"}
        with (self.root / "log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, str(DOUBLES / "run_double.py"), json.dumps(given)], stderr=log, env=environment
            )

    def start(self, **options: Any) -> Service:
        if not (self.root / "live.json").exists():
            self.live()
        self.process = self.spawn(**options)
        self.client.wait_ready(30)
        return self

    def until(self, true: Callable[[], Any], timeout: float = 15.0) -> Any:
        deadline = time.monotonic() + timeout
        while not (result := true()):
            assert time.monotonic() < deadline, f"it never came true; the log says\n{self.log[-3000:]}"
            time.sleep(0.02)
        return result

    def all_accept(self) -> tuple[int, ...]:
        workers = self.options.get("workers", 2)
        return self.until(lambda: pids if len(pids := self.client.status().workers) == workers else None)

    def request(self, method: str, path: str, body: bytes | str | None = None, **headers: str) -> Answer:
        port = int(self.client.url.rsplit(":", 1)[1])
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        try:
            connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
            response = connection.getresponse()
            return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        finally:
            connection.close()

    def predict(self, model: str = "m", x: float = 1.0) -> Answer:
        return self.request("POST", f"/v1/models/{model}/predict", json.dumps({"rows": [{"x": x}]}))

    def load(self, factors: dict[str, float], model: str = "m", **options: Any) -> LoadGenerator:
        """Send rows with x = 7; an answer is right when it is 7 times the factor of the version that it names."""

        def right(answer: Any) -> bool:
            return answer["rows"] == [{"value": 7.0 * factors[answer["version"]]}]

        url = f"{self.client.url}/v1/models/{model}/predict"
        return LoadGenerator(url, b'{"rows":[{"x":7.0}]}', check=right, **options)

    def kill(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    service = Service(tmp_path)
    yield service
    service.close()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service for all tests of a module that change nothing in it."""
    service = Service(tmp_path_factory.mktemp("shared"))
    yield service
    service.close()
