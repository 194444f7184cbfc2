"""`demo`: the whole loop on MNIST."""

from __future__ import annotations

import os
from pathlib import Path

import click

from modelyard.demo.loop import Outcome, play
from modelyard.text import span
from modelyard.yard import Yard

__all__ = ["commands"]


@click.command()
@click.option(
    "--folder", type=click.Path(path_type=Path, file_okay=False), help="Default: the next free demo/digits-N here."
)
@click.option("--small", is_flag=True, help="Use the 1,797 digits that scikit-learn carries; fetches nothing.")
@click.option("--keep-serving", is_flag=True, help="Leave the services running.")
def demo(folder: Path | None, small: bool, keep_serving: bool) -> None:
    """Run the whole loop on MNIST in a new project: train, review, release, serve, swap under load, roll back."""
    target = folder or _free(Path("demo"))
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "modelyard" / "mnist"
    try:
        _summary(play(target.resolve(), cache, small=small), keep_serving)
    finally:
        if not keep_serving and target.exists():
            Yard.open(target).services.down()


def _free(base: Path) -> Path:
    number = 1
    while (base / f"digits-{number}").exists():
        number += 1
    return base / f"digits-{number}"


def _summary(outcome: Outcome, keep_serving: bool) -> None:
    load, swap, back = outcome.load, outcome.swap, outcome.rollback
    lines = (
        ("data", outcome.data),
        ("perceptron", f"{outcome.first:.2%} of {outcome.images:,} test images right"),
        ("convolutional network", f"{outcome.second:.2%} of {outcome.images:,} test images right"),
        ("load during training and swaps", f"{load.requests:,} requests, {len(load.failures)} failed"),
        ("latency", f"p50 {span(load.latency(0.5))}, p99 {span(load.latency(0.99))}"),
        (
            "swap",
            f"prepare {span(swap.prepare)}, commit {span(swap.commit)}; answers after {span(swap.seconds)}",
        ),
        ("rollback", f"commit {span(back.commit)}, nothing had to be loaded"),
        ("work", span(outcome.seconds)),
        ("project", str(outcome.project)),
    )
    click.echo(f"\n{click.style('Summary', bold=True)}")
    for name, text in lines:
        click.echo(f"  {name:<32} {text}")
    click.echo(
        f"\nGo on by hand: cd {outcome.project} && modelyard ls models" + ("" if keep_serving else " && modelyard up")
    )


commands: dict[str, click.Command] = {"demo": demo}
