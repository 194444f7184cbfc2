"""What a run shows while it runs: a live table on a terminal, one line for each change elsewhere."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType

import click
from rich import progress as rich_progress
from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from modelyard.cli.output import STATE_STYLE, console
from modelyard.records import Event, EventKind
from modelyard.text import span

__all__ = ["Bar", "LineBar", "LineProgress", "LiveBar", "LiveProgress", "Progress", "open_bar", "open_progress"]


class Progress:
    """Listens to a run's events; used as a context manager around the run."""

    def __call__(self, event: Event) -> None:
        """Take one event."""

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None


class LineProgress(Progress):
    """One line for each state a step reaches: for pipes and logs."""

    def __init__(self) -> None:
        self._started: dict[str, float] = {}
        self._last: dict[str, dict[str, float]] = {}

    def __call__(self, event: Event) -> None:
        """Print what changed."""
        if event.kind is EventKind.METRIC:
            self._last.setdefault(event.task, {})[event.data["name"]] = event.data["value"]
        if event.kind is not EventKind.STATE or not event.task:
            return
        state = event.data["state"]
        if state == "running":
            self._started[event.task] = event.time
            click.echo(f"  {event.task:<16} started")
            return
        failure = event.data.get("failure") or {}
        if state == "waiting":
            if "retry_in" in event.data:
                why = failure.get("what") or "it failed"
                click.echo(f"  {event.task:<16} again in {span(event.data['retry_in'])}: {why}")
            return
        took = f" in {span(event.time - self._started[event.task])}" if event.task in self._started else ""
        figures = ", ".join(f"{name} {value:.4g}" for name, value in self._last.get(event.task, {}).items())
        why = f": {failure['what']}" if failure.get("what") else ""
        click.echo(f"  {event.task:<16} {state}{took}{'  (' + figures + ')' if figures else ''}{why}")


class LiveProgress(Progress):
    """A table that follows the run: state, time, progress and the newest metrics of each step."""

    def __init__(self, steps: Sequence[str]) -> None:
        self._rows: dict[str, dict[str, object]] = {step: {"state": "waiting"} for step in steps}
        self._live = Live(console=console(), refresh_per_second=8, get_renderable=self._render)

    def __enter__(self) -> Progress:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def __call__(self, event: Event) -> None:
        """Take one event; the table is drawn by its own clock."""
        row = self._rows.setdefault(event.task, {"state": "waiting"})
        if event.kind is EventKind.STATE and event.task:
            row["state"] = event.data["state"]
            if event.data["state"] == "running":
                row["started"] = event.time
            else:
                row["finished"] = event.time
        elif event.kind is EventKind.PROGRESS:
            row["progress"] = (event.data["done"], event.data["total"])
        elif event.kind is EventKind.METRIC:
            metrics = row.setdefault("metrics", {})
            if isinstance(metrics, dict):
                metrics[event.data["name"]] = event.data["value"]

    def _render(self) -> Group:
        grid = Table.grid(padding=(0, 2))
        for step, row in self._rows.items():
            if not step:
                continue
            state = str(row["state"])
            started, finished = row.get("started"), row.get("finished")
            took = ""
            if isinstance(started, float):
                took = span((finished if isinstance(finished, float) else time.time()) - started)
            progress = row.get("progress")
            bar: ProgressBar | Text = Text("")
            if state == "running" and isinstance(progress, tuple):
                bar = ProgressBar(total=progress[1] or 1, completed=progress[0], width=24)
            metrics = row.get("metrics")
            figures = ""
            if isinstance(metrics, dict):
                figures = "  ".join(f"{name} {value:.4g}" for name, value in list(metrics.items())[-4:])
            grid.add_row(Text(step), Text(state, style=STATE_STYLE.get(state, "")), Text(took), bar, Text(figures))
        return Group(grid)


def open_progress(steps: Sequence[str], *, quiet: bool) -> Progress:
    """Return what fits the place that output goes to.

    Args:
        steps: Ids, in the plan's order.
        quiet: Show nothing.
    """
    if quiet:
        return Progress()
    return LiveProgress(steps) if console().is_terminal else LineProgress()


class Bar:
    """How far one long work is; used as a context manager around it. This one shows nothing."""

    def __enter__(self) -> Bar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def show(self, label: str, done: float, total: float, figures: str) -> None:
        """Show that `done` of `total` is done under a label, with what else there is to say."""

    def note(self, text: str) -> None:
        """Tell something that stays."""


class LineBar(Bar):
    """One line for each tenth of each label, on standard error: for pipes and logs."""

    def __init__(self) -> None:
        self._label = ""
        self._tenth = 0

    def show(self, label: str, done: float, total: float, figures: str) -> None:
        """Print a line where another tenth is done."""
        tenth = int(10 * done / total) if total else 10
        if label != self._label:
            self._label, self._tenth = label, 0
        if tenth > self._tenth:
            self._tenth = tenth
            click.echo(f"{label} {10 * tenth:>3} %  {figures}".rstrip(), err=True)

    def note(self, text: str) -> None:
        """Print it."""
        click.echo(text, err=True)


class LiveBar(Bar):
    """A bar with the time that is left, on a terminal."""

    def __init__(self) -> None:
        self._progress = rich_progress.Progress(
            rich_progress.TextColumn("{task.description}"),
            rich_progress.BarColumn(),
            rich_progress.TaskProgressColumn(),
            rich_progress.TextColumn("{task.fields[figures]}"),
            rich_progress.TimeRemainingColumn(),
            console=console(stderr=True),
        )
        self._tasks: dict[str, rich_progress.TaskID] = {}

    def __enter__(self) -> Bar:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def show(self, label: str, done: float, total: float, figures: str) -> None:
        """Move the label's bar."""
        if label not in self._tasks:
            self._tasks[label] = self._progress.add_task(label, total=total, figures="")
        self._progress.update(self._tasks[label], completed=done, total=total, figures=figures)

    def note(self, text: str) -> None:
        """Print it above the bars."""
        self._progress.console.print(Text(text))


def open_bar(*, quiet: bool) -> Bar:
    """Return the bar that fits the place that standard error goes to; with `quiet` one that shows nothing."""
    if quiet:
        return Bar()
    return LiveBar() if console(stderr=True).is_terminal else LineBar()
