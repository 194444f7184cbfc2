"""The answer to where an artefact came from and where it went."""

from __future__ import annotations

import msgspec

__all__ = ["Lineage", "Link"]


class Link(msgspec.Struct, frozen=True):
    """One task that made or used an artefact.

    Args:
        run: The run's id.
        blueprint: Name of the run's pipeline.
        task: The step's id.
        port: Name of the task's output or input; `file:<name>` is a file from outside.
        time: When the task finished, seconds since 1970, UTC; 0 while it runs.
        cached: Whether the task took its result from the cache instead of computing it.
    """

    run: str
    blueprint: str
    task: str
    port: str
    time: float = 0.0
    cached: bool = False


class Lineage(msgspec.Struct, frozen=True):
    """Which tasks made an artefact, and which used it, oldest first.

    Args:
        digest: The artefact.
        made_by: Tasks with it among their outputs; more than one where a result was cached or came out the same.
        used_by: Tasks with it among their inputs.
    """

    digest: str
    made_by: tuple[Link, ...] = ()
    used_by: tuple[Link, ...] = ()
