"""Chooses an executor by its name."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from importlib.metadata import entry_points

from modelyard.contracts import Executor
from modelyard.engines.inline import InlineExecutor
from modelyard.engines.processes import ProcessExecutor
from modelyard.errors import MissingExtraError, NotFoundError
from modelyard.store.store import Store

__all__ = ["GROUP", "open_executor"]

GROUP = "modelyard.executors"
"""Entry points of executors: each a callable that takes `workers` and returns an Executor."""


@contextlib.contextmanager
def open_executor(name: str, *, workers: int | None = None, store: Store | None = None) -> Iterator[Executor]:
    """Open an executor for a block, and close it at its end.

    Args:
        name: `inline`, `processes`, or the name of an installed one.
        workers: Tasks side by side. Default: what the executor finds right, for `processes` one for each core.
        store: The scheduler's own store, which `inline` then uses too. Default: `inline` opens one.

    Raises:
        NotFoundError: No executor has that name.
        MissingExtraError: It needs a library that is not installed.
    """
    executor = _make(name, workers, store)
    try:
        yield executor
    finally:
        executor.close()


def _make(name: str, workers: int | None, store: Store | None) -> Executor:
    if name == "inline":
        return InlineExecutor(store)
    if name == "processes":
        return ProcessExecutor(workers)
    found = {point.name: point for point in entry_points(group=GROUP)}
    if name not in found:
        known = ", ".join(["inline", "processes", *sorted(found)])
        raise NotFoundError(f"There is no executor {name!r}.", remedy=f"The executors are {known}.")
    try:
        factory = found[name].load()
    except ImportError as error:
        raise MissingExtraError(
            f"The executor {name!r} can't be loaded: {error}.", remedy="Install the distribution it needs."
        ) from error
    executor: Executor = factory(workers=workers)
    return executor
