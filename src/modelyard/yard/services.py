"""The services of a project: one runner for each environment, which follows what is released to it."""

from __future__ import annotations

import difflib
import itertools
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelyard.errors import (
    BusyError,
    InputError,
    IntegrityError,
    ModelyardError,
    NotFoundError,
    RefusedError,
    RunError,
    StorageError,
)
from modelyard.files import storage_errors
from modelyard.records import Failure
from modelyard.releases.events import topic_of
from modelyard.serving.asking import ServiceStatus
from modelyard.serving.client import ServiceClient
from modelyard.serving.service import run_service
from modelyard.serving.spec import Live
from modelyard.yard.asking import ask
from modelyard.yard.project import INTERNAL
from modelyard.yard.review import fetch_package
from modelyard.yard.specification import specification
from modelyard.yard.versions import Versions

if TYPE_CHECKING:
    from modelyard.yard.yard import Yard

__all__ = ["ServiceState", "Services"]

_ENDINGS: dict[int, type[ModelyardError]] = {
    kind.exit_code: kind for kind in (InputError, RefusedError, IntegrityError, StorageError)
}
"""What a service's exit code says of why it ended; every other is a run that did not succeed."""

_NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}")

PATIENCE = 3.0
"""Seconds that `up` waits for a service which says what stands in its way."""


@dataclass(frozen=True, slots=True)
class ServiceState:
    """A service as it stands.

    Args:
        environment: Its name.
        state: `ready`, `starting` or `stopped`.
        url: Where it answers, or None.
        pid: Of its supervisor, or None.
        serving: `model vX.Y.Z` of each slot.
        obstacle: What stands in the way of serving all that is released, or None.
        grpc: Where it speaks gRPC, such as `127.0.0.1:8001`, or None.
    """

    environment: str
    state: str
    url: str | None
    pid: int | None
    serving: tuple[str, ...]
    obstacle: Failure | None = None
    grpc: str | None = None


class Services:
    """Starts, finds and stops the services of a project.

    Args:
        yard: The project.
    """

    def __init__(self, yard: Yard) -> None:
        self._yard = yard

    def folder(self, environment: str) -> Path:
        """Return where a service keeps its state."""
        return self._yard.project / INTERNAL / "services" / environment

    def client(self, environment: str) -> ServiceClient:
        """Return the client of a running service.

        Raises:
            NotFoundError: No service runs for that environment.
        """
        return ServiceClient(self.folder(environment))

    def started(self) -> tuple[str, ...]:
        """Return the names of the services that were ever started, in order."""
        base = self._yard.project / INTERNAL / "services"
        return tuple(sorted(path.name for path in base.iterdir() if path.is_dir())) if base.is_dir() else ()

    def all(self) -> list[ServiceState]:
        """Return every service that was ever started, by environment."""
        return [self.state(name) for name in self.started()]

    def state(self, environment: str) -> ServiceState:
        """Return how a service stands."""
        try:
            status = self.client(environment).status()
        except (NotFoundError, BusyError):
            return ServiceState(environment, "stopped", None, None, ())
        serving = tuple(
            f"{model} {slot.current.version}" for model, slot in status.slots.items() if slot.current is not None
        )
        client = self.client(environment)
        state = "ready" if status.ready else "starting"
        return ServiceState(environment, state, client.url, status.pid, serving, status.obstacle, client.grpc)

    def status(self, environment: str) -> ServiceStatus | None:
        """Return all that a service says of itself, or None where it does not run."""
        try:
            return self.client(environment).status()
        except (NotFoundError, BusyError):
            return None

    def running(self, environment: str) -> ServiceClient:
        """Return the client of a service that runs.

        Raises:
            NotFoundError: There is no such environment, or its service does not run.
        """
        self.check_known(environment)
        client = self.client(environment)
        _ = client.url
        return client

    def live(self, environment: str) -> Mapping[str, Live]:
        """Return what is released to an environment, by model; only what the Model Center's rules allow."""
        return self.versions(environment).live()

    def versions(self, environment: str) -> Versions:
        """Return the versions that may be served in an environment."""
        return Versions(self._yard, environment)

    def environments(self) -> tuple[str, ...]:
        """Return the environments of every blueprint, in order."""
        yard = self._yard
        found = (e.name for name in yard.blueprints() for e in yard.blueprint(name).environments)
        return tuple(dict.fromkeys(found))

    def serve(
        self,
        environment: str,
        *,
        host: str | None = None,
        port: int = 0,
        grpc_port: int | None = None,
        workers: int | None = None,
        explicit: bool = False,
    ) -> None:
        """Serve an environment in this process until it is told to stop.

        Args:
            environment: What is released to it is served, and followed.
            host: Default: the setting; one that others can reach needs authentication and TLS.
            port: Default 0: the one it had last, else a free one.
            grpc_port: The same for gRPC. Default: it is not spoken.
            workers: Default: the setting.
            explicit: Follow nothing: serve approved versions that are loaded by hand. The environment may be any name.

        Raises:
            NotFoundError: No blueprint has such an environment.
            InputError: The name can't be a service's.
            BusyError: A service runs for it already.
        """
        self.check(environment, explicit=explicit)
        yard = self._yard
        spec = specification(
            yard, environment, self.folder(environment), host=host, port=port, grpc_port=grpc_port, workers=workers,
            explicit=explicit,
        )  # fmt: skip
        versions = self.versions(environment)
        run_service(
            spec,
            live=None if explicit else versions.live,
            wake=None if explicit else lambda timeout: yard.bus.wait(topic_of(environment), timeout),
            fetch=lambda digest: fetch_package(yard.store, digest),
            repository=versions,
            pickles=versions.pickle,
        )

    def up(
        self,
        environments: Sequence[str] = (),
        *,
        port: int | None = None,
        grpc_port: int | None = None,
        timeout: float = 60.0,
        explicit: bool = False,
        started: Callable[[ServiceState], None] | None = None,
    ) -> list[ServiceState]:
        """Start the services that do not run yet, each in a process of its own, and wait until they are ready.

        Args:
            environments: Default: all of the project's.
            port: Of HTTP, where it is one environment; see `serve`.
            grpc_port: Of gRPC, where it is one environment; default: as the setting says.
            timeout: Seconds to wait for each.
            explicit: Start those that serve what is loaded by hand; see `serve`.
            started: Called with each service as it becomes ready.

        Raises:
            NotFoundError: No blueprint has such an environment.
            InputError: The project is in no Git repository.
            ModelyardError: A service refused to start: as it did itself, by its class's exit code.
            RunError: A service failed, can't serve what is released, or was not ready in time; its log says more.
            BusyError: A port is taken, or the service runs already, and otherwise than asked for.
        """
        chosen = tuple(environments) or self.environments()
        ports = {"--port": port, "--grpc-port": grpc_port}
        asked = {option: number for option, number in ports.items() if number is not None}
        if asked and len(chosen) != 1:
            raise InputError("No two services have the same port.", remedy="Start one environment at a time.")
        for environment in chosen:
            self.check(environment, explicit=explicit)
        # Asked here, so that a project outside Git is told at once, and no service is left that can serve nothing.
        _ = self._yard.center
        stopped = [name for name in chosen if self.state(name).state == "stopped"]
        for name in chosen:
            if name not in stopped:
                self._check_running(name, asked, explicit=explicit)
        processes = {name: self._spawn(name, explicit, asked) for name in stopped}
        states = []
        for environment in chosen:
            states.append(self._wait(environment, processes.get(environment), timeout))
            if started is not None:
                started(states[-1])
        return states

    def down(self, environments: Sequence[str] = ()) -> list[str]:
        """Stop services, letting requests in flight end; return those that were running.

        Raises:
            NotFoundError: No blueprint has such an environment, and nothing was ever served for it.
        """
        running = self.would_stop(environments)
        for name in running:
            self.client(name).stop()
        return running

    def would_stop(self, environments: Sequence[str] = ()) -> list[str]:
        """Return the services that `down` would stop; it takes and raises what that does."""
        for name in environments:
            self.check_known(name)
        return [name for name in environments or self.started() if self.state(name).state != "stopped"]

    def predict(self, environment: str, model: str, body: bytes, media: str = "application/json") -> Mapping[str, Any]:
        """Ask a running service.

        Args:
            environment: Whose service.
            model: Which model.
            body: Rows as JSON or CSV.
            media: `application/json` or `text/csv`.

        Raises:
            NotFoundError: There is no such environment, no service runs for it, or it has no such model.
            ContractError: The rows do not fit the model's contract.
            RefusedError: The service asks for a key, as in the variable MODELYARD_API_KEY, and this is none for it.
            RunError: The service failed or is gone, or something else listens on its port.
        """
        self.check_known(environment)
        return ask(self.client(environment).url, environment, model, body, media)

    def log_file(self, environment: str) -> Path:
        """Return the file that a detached service logs to."""
        return self.folder(environment) / "service.log"

    def check(self, environment: str, *, explicit: bool = False) -> None:
        """See that a service may be started by that name.

        Args:
            environment: One of the project's.
            explicit: Any other name will do as well.

        Raises:
            NotFoundError: No blueprint has it; it names the nearest.
            InputError: It can't be a name.
        """
        known = self.environments()
        if explicit and environment not in known:
            if not _NAME.fullmatch(environment):
                raise InputError(
                    f"{environment!r} can't be a service's name.",
                    remedy="Use up to 63 lower-case letters, digits, `-` and `_`; first a letter.",
                )
        elif environment not in known:
            raise _unknown(environment, known)

    def check_known(self, environment: str) -> None:
        """See that a service may run, or has run, by that name.

        Raises:
            NotFoundError: None has; it names the nearest.
        """
        known = tuple(dict.fromkeys((*self.environments(), *self.started())))
        if environment not in known:
            raise _unknown(environment, known)

    def _check_running(self, environment: str, asked: Mapping[str, int], *, explicit: bool) -> None:
        """Raise BusyError where a service runs on other ports, or is controlled otherwise."""
        client = self.client(environment)
        status = self.status(environment)
        if status is not None and (status.control == "explicit") is not explicit:
            does = "follows no releases" if status.control == "explicit" else "follows releases"
            raise BusyError(
                f"The service of {environment} runs already, and {does}.",
                remedy=f"Run `modelyard down {environment}` first.",
            )
        has = {"--port": client.url, "--grpc-port": client.grpc}
        for option, number in asked.items():
            place = has[option]
            if place is None or (number and place.rpartition(":")[2] != str(number)):
                raise BusyError(
                    f"The service of {environment} runs already, on other ports.",
                    remedy=f"Run `modelyard down {environment}` first.",
                )

    def _spawn(self, environment: str, explicit: bool, ports: Mapping[str, int]) -> subprocess.Popen[bytes]:
        log = self.log_file(environment)
        mode = ["--explicit"] if explicit else []
        mode += [f"{option}={number}" for option, number in ports.items()]
        with storage_errors(log):
            log.parent.mkdir(parents=True, exist_ok=True)
            with log.open("ab") as output:
                return subprocess.Popen(
                    [sys.executable, "-m", "modelyard", "-C", str(self._yard.project), "serve", environment, *mode],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                    env=os.environ | {"PYTHONUNBUFFERED": "1"},
                )

    def _wait(self, environment: str, process: subprocess.Popen[bytes] | None, timeout: float) -> ServiceState:
        deadline = time.monotonic() + timeout
        log = self.log_file(environment)
        obstacle = alone = None
        while time.monotonic() < deadline:
            state = self.state(environment)
            if state.state == "ready":
                return state
            if state.obstacle is not None and obstacle is None:
                # It may pass: the service goes on trying. Nobody should wait long for what seldom passes.
                deadline = min(deadline, time.monotonic() + PATIENCE)
            obstacle = state.obstacle
            code = process.poll() if process is not None else None
            if code not in (None, BusyError.exit_code):
                what, remedy = _last_error(log)
                # What it refused to start with is no failed run, and for scripts the same as where it was asked itself.
                kind = _ENDINGS.get(code or 0, RunError)
                raise kind(f"The service of {environment} ended: {what}", remedy=f"{remedy} Its log: {log}".strip())
            # One that ended because another had just been started leaves the place to that one, if there is one.
            if code is None or state.state != "stopped":
                alone = None
            elif alone is None:
                alone = time.monotonic()
            elif time.monotonic() > alone + PATIENCE:
                what, remedy = _last_error(log)
                raise BusyError(f"The service of {environment} can't start: {what}", remedy=remedy or f"Its log: {log}")
            time.sleep(0.05)
        if obstacle is not None:
            raise RunError(
                f"The service of {environment} runs, and can't serve what is released: {obstacle.what}",
                where=obstacle.where,
                remedy=f"{obstacle.remedy or ''} It goes on trying; its log: {log}".strip(),
            )
        raise RunError(f"The service of {environment} was not ready within {timeout:.0f} s.", remedy=f"Its log: {log}")


def _unknown(environment: str, known: Sequence[str]) -> NotFoundError:
    near = difflib.get_close_matches(environment, known, n=1)
    there = f"There are {', '.join(known)}."
    return NotFoundError(
        f"No blueprint has an environment {environment!r}.",
        remedy=f"Did you mean {near[0]}? {there}" if near else there,
    )


def _last_error(log: Path) -> tuple[str, str]:
    """Return the last error in a log and its remedy, which is what follows it; else its last line."""
    with storage_errors(log):
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["no output"]
    for at in range(len(lines) - 1, -1, -1):
        if lines[at].startswith("error: "):
            remedy = itertools.takewhile(lambda line: line.startswith("  "), lines[at + 1 :])
            return lines[at].removeprefix("error: "), " ".join(line.strip() for line in remedy)
    return lines[-1], ""
