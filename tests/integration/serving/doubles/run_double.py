"""Run a service of double packages in this process: the entry that tests start, with a crash at a chosen moment."""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import time
from pathlib import Path

import msgspec

from modelyard.errors import ModelyardError, NotFoundError
from modelyard.serving.faults import Faults
from modelyard.serving.service import Limits, Live, ServiceSpec, run_service


class KillAt(Faults):
    def __init__(self, point: str) -> None:
        self.point = point

    def at(self, point: str) -> None:
        if point == self.point:
            os.kill(os.getpid(), signal.SIGKILL)


PLAIN = (
    "control", "error_rate", "p99_seconds", "minimum_requests", "grace_seconds", "canary_ppm", "canary_seconds",
    "hang_seconds", "memory", "grpc_port", "otel_endpoint", "log_level",
)  # fmt: skip
"""Values of a ServiceSpec that a test may set."""


class Known:
    """A repository of a JSON file: by name of the model, its versions and their packages; the last one is named."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def index(self) -> list[Live]:
        versions = json.loads(self.file.read_text())
        return [Live(name, version, package) for name in versions for version, package in versions[name].items()]

    def resolve(self, name: str, version: str | None) -> Live:
        found = [live for live in self.index() if live.model == name and version in (None, live.version)]
        if not found:
            raise NotFoundError(f"The repository has no {name} {version or ''}.")
        return found[-1]


def main() -> None:
    options = json.loads(sys.argv[1])
    store, live_file = Path(options["store"]), Path(options["live"])

    def fetch(digest: str) -> Path:
        if not (store / digest).is_dir():
            raise NotFoundError(f"There is no package {digest[:12]}.")
        return store / digest

    def live() -> dict[str, Live]:
        return {name: Live(**value) for name, value in json.loads(live_file.read_text()).items()}

    def wake(timeout: float) -> bool:
        before = live_file.stat().st_mtime_ns
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if live_file.stat().st_mtime_ns != before:
                return True
            time.sleep(0.01)
        return False

    if options.get("descriptors"):
        resource.setrlimit(resource.RLIMIT_NOFILE, tuple(options["descriptors"]))
    options.setdefault("log_level", "debug")
    spec = ServiceSpec(
        name=options.get("name", "dev"), folder=Path(options["folder"]), host=options.get("host", "127.0.0.1"),
        workers=options.get("workers", 2), limits=Limits(**options.get("limits", {})),
        loader=options.get("loader", "double_loader"), drain_seconds=options.get("drain_seconds", 5.0),
        prepare_seconds=options.get("prepare_seconds", 60.0),
        **{name: options[name] for name in PLAIN if name in options},
    )  # fmt: skip
    given = {name: options[name] for name in ("auth", "tls", "behind_proxy", "hosts", "anonymous") if name in options}
    told = msgspec.to_builtins(spec, enc_hook=str) | given
    spec = msgspec.convert(told, ServiceSpec, dec_hook=lambda kind, value: kind(value))
    follow = options.get("follow", False)
    try:
        run_service(
            spec, fetch=fetch, live=live if follow else None, wake=wake if follow else None,
            repository=Known(Path(options["repository"])) if options.get("repository") else None,
            faults=KillAt(options["kill_at"]) if options.get("kill_at") else None,
        )  # fmt: skip
    except ModelyardError as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
