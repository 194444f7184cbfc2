"""A systemd unit that runs a service with as little as it needs (systemd.exec(5), systemd.service(5))."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from modelyard.errors import InputError
from modelyard.serving.spec import ServiceSpec

__all__ = ["Process", "systemd_unit"]

_MARGIN = 10
"""Seconds beyond what the service itself allows, before the manager becomes impatient."""


_UNIT = """\
# A Modelyard service under systemd. Written by `modelyard deploy systemd`; make changes in a drop-in:
# systemctl edit modelyard-%(name)s.service
[Unit]
Description=Modelyard service %(name)s
After=network-online.target
Wants=network-online.target
StartLimitIntervalSec=300
StartLimitBurst=10

[Service]
# Ready is said once every worker accepts; a model that can't be served holds nothing up.
Type=notify
NotifyAccess=main
ExecStart=%(command)s
WorkingDirectory=%(folder)s
User=%(user)s
Environment=PYTHONUNBUFFERED=1
Restart=on-failure
RestartSec=1
# Wrong input and what a rule refuses do not get better by themselves.
RestartPreventExitStatus=2 3
TimeoutStartSec=%(start)d
# The supervisor drains its workers itself: only it is told, and whoever is left at the end is killed.
KillMode=mixed
TimeoutStopSec=%(stop)d
WatchdogSec=30
LimitNOFILE=65536
UMask=0077
%(memory)s
# It reads the project and writes its state: nothing else.
NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome=read-only
ReadWritePaths=%(writable)s
PrivateTmp=yes
PrivateDevices=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
LockPersonality=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
RemoveIPC=yes
CapabilityBoundingSet=
SystemCallArchitectures=native
SystemCallFilter=@system-service

[Install]
WantedBy=multi-user.target
"""


@dataclass(frozen=True, slots=True)
class Process:
    """How a service is started.

    Args:
        command: The program, by its absolute path, and its arguments.
        folder: The project's.
        writable: What it writes to.
        user: Whom it runs as: the project's owner, as Git reads nobody else's repositories.
        memory_max: Bytes that it may take before the kernel ends it, or a size such as `4G`; None: no bound.
    """

    command: Sequence[str]
    folder: Path
    writable: Sequence[Path]
    user: str
    memory_max: str | None = None


def systemd_unit(spec: ServiceSpec, process: Process) -> str:
    """Return the text of a unit.

    Args:
        spec: The service.
        process: How it is started.

    Raises:
        InputError: A path or name can't stand in a unit, or the command is no absolute path.
    """
    if not process.command or not Path(process.command[0]).is_absolute():
        raise InputError("systemd starts a program by its absolute path.", remedy="Name it from / on.")
    return _UNIT % {
        "name": _plain(spec.name),
        "command": " ".join(map(_word, process.command)),
        "folder": _plain(str(process.folder)).replace("%", "%%"),
        "user": _plain(process.user),
        "start": round(spec.prepare_seconds) + _MARGIN,
        "stop": round(spec.drain_seconds) + _MARGIN,
        "memory": f"MemoryMax={_plain(process.memory_max)}\n" if process.memory_max else "",
        "writable": " ".join(map(_path, process.writable)),
    }


def _word(text: str) -> str:
    """Return one word of a command line (systemd.service(5), "Command lines")."""
    escaped = _plain(text).replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"' if escaped != text or " " in text or "'" in text or ";" in text or not text else escaped


def _path(path: Path) -> str:
    escaped = _plain(str(path)).replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"' if " " in escaped else escaped


def _plain(text: str) -> str:
    if not text.isprintable():
        raise InputError(f"{text!r} can't stand in a unit.", remedy="Use names of printable characters.")
    return text
