"""The files that run a project's service in production: its systemd unit, and its site in nginx."""

from __future__ import annotations

import pwd
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from modelyard.errors import InputError
from modelyard.serving.deployment.nginx import Front, nginx_site
from modelyard.serving.deployment.systemd import Process, systemd_unit
from modelyard.yard.project import INTERNAL
from modelyard.yard.specification import specification

if TYPE_CHECKING:
    from modelyard.yard.yard import Yard

__all__ = ["Deployment"]

ROOT = 0


class Deployment:
    """Renders files for one service.

    Args:
        yard: The project.
        environment: Whose service.
        port: Of HTTP.
        grpc_port: Of gRPC; None: it is not spoken.
        workers: Default: the setting.
        explicit: Whether it follows no releases.

    Raises:
        NotFoundError: There is no such environment.
    """

    def __init__(
        self,
        yard: Yard,
        environment: str,
        *,
        port: int,
        grpc_port: int | None = None,
        workers: int | None = None,
        explicit: bool = False,
    ) -> None:
        yard.services.check(environment, explicit=explicit)
        self._yard = yard
        self._explicit = explicit
        self._workers = workers
        self._spec = specification(
            yard, environment, yard.services.folder(environment), port=port, grpc_port=grpc_port, workers=workers,
            explicit=explicit,
        )  # fmt: skip
        self._spec.check()

    def systemd(self, *, user: str | None = None, memory_max: str | None = None) -> tuple[str, str]:
        """Return name and text of a unit that runs the service.

        Args:
            user: Whom it runs as. Default: the project's owner.
            memory_max: Such as `4G`. Default: no bound.

        Raises:
            InputError: The project belongs to root, and no user is named; or a path can't stand in a unit.
        """
        spec = self._spec
        command = [sys.executable, "-m", "modelyard", "-C", str(self._yard.project), "serve", spec.name]
        command += ["--port", str(spec.port)]
        command += ["--grpc-port", str(spec.grpc_port)] if spec.grpc_port is not None else []
        command += ["--workers", str(self._workers)] if self._workers is not None else []
        command += ["--explicit"] if self._explicit else []
        process = Process(command, self._yard.project, self._writable(), user or self._owner(), memory_max)
        return f"modelyard-{spec.name}.service", systemd_unit(spec, process)

    def nginx(self, name: str, certificate: Path, key: Path, *, listen: str = "443") -> tuple[str, str]:
        """Return name and text of a site that leads to the service.

        Args:
            name: Host name that clients ask.
            certificate: PEM file.
            key: PEM file of its private key.
            listen: Port, or address and port.

        Raises:
            InputError: Something can't stand in nginx's settings.
            RefusedError: The service would let everybody change what it serves, or encrypts itself.
        """
        return f"modelyard-{self._spec.name}.conf", nginx_site(
            self._spec, Front(name, certificate.absolute(), key.absolute(), listen)
        )

    def _owner(self) -> str:
        owner = self._yard.project.stat().st_uid
        if owner == ROOT:
            raise InputError("The project belongs to root, as whom no service should run.", remedy="Name a --user.")
        try:
            return pwd.getpwuid(owner).pw_name
        except KeyError:
            raise InputError(
                f"The project belongs to nobody this machine knows ({owner}).", remedy="Name a --user."
            ) from None

    def _writable(self) -> list[Path]:
        """Return where the service writes: its own folder in the project, and what settings put elsewhere."""
        inside = self._yard.project / INTERNAL
        found = [inside]
        settings = self._yard.settings
        for url in (settings.store, settings.catalog, settings.bus):
            for scheme in ("sqlite:///", "file://"):
                text = url.removeprefix(scheme)
                path = self._yard.project / text
                if text != url and not path.is_relative_to(inside):
                    # A database's journal lies beside it.
                    found.append(path.parent if scheme == "sqlite:///" else path)
        return found
