"""What a shell offers where a model, a version, an environment or a service is to be named."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import click

from modelyard.cli.output import yard_of
from modelyard.errors import ModelyardError
from modelyard.yard import Yard

__all__ = ["environments", "models", "services", "versions"]

Completer = Callable[[click.Context, click.Parameter, str], list[str]]


def _offer(find: Callable[[Yard, click.Context], Iterable[str]]) -> Completer:
    def complete(ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
        # Nobody ran the group's own function while a line is completed.
        root = ctx.find_root()
        root.obj = {"project": root.params.get("project") or ".", "debug": False}
        try:
            return [name for name in find(yard_of(ctx), ctx) if name.startswith(incomplete)]
        except (ModelyardError, OSError):
            # No project here, or a broken one: the command says so when it is run.
            return []

    return complete


def _versions(yard: Yard, ctx: click.Context) -> Iterable[str]:
    name = ctx.params.get("model")
    known = yard.center.state().models
    # Before an option's value is there, click has not read the words before it: any model may be meant.
    chosen = known.values() if not name else [known[name]] if name in known else []
    return dict.fromkeys(f"v{version}" for model in chosen for version in reversed(tuple(model.versions)))


environments = _offer(lambda yard, _ctx: yard.services.environments())
services = _offer(lambda yard, _ctx: dict.fromkeys((*yard.services.environments(), *yard.services.started())))
models = _offer(lambda yard, _ctx: yard.center.state().models)
versions = _offer(_versions)
