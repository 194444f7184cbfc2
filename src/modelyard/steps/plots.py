"""Pictures for evidence: loss curve, confusion matrix, predicted against true, residuals; as SVG and PNG.

Colours are Okabe and Ito's, which colour-blind readers can tell apart; nothing is told by colour alone. Equal data
gives equal bytes. (M. Okabe and K. Ito, "Color Universal Design", 2008.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelyard.files import storage_errors

try:
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import LinearSegmentedColormap, LogNorm, PowerNorm
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine
    from matplotlib.ticker import MaxNLocator
except ImportError:  # the extra `plots`; evidence is then JSON alone
    mpl = None  # type: ignore[assignment]  # stands for a module that is not there

__all__ = ["AVAILABLE", "draw_confusion_matrix", "draw_loss_curve", "draw_regression"]

AVAILABLE = mpl is not None
"""Whether matplotlib is installed."""

_BLUE, _ORANGE = "#0072B2", "#D55E00"
_INK, _SOFT, _FAINT = "#1F2933", "#6B7785", "#E4E8EC"
_STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "text.color": _INK,
    "axes.edgecolor": _SOFT,
    "axes.labelcolor": _INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": _FAINT,
    "grid.linewidth": 0.8,
    "xtick.color": _SOFT,
    "ytick.color": _SOFT,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "svg.hashsalt": "modelyard",
}
_COUNTS_UP_TO = 15
_NAMES_UP_TO = 60
_POINTS_UP_TO = 2000


def draw_loss_curve(history: Sequence[Mapping[str, Any]], stem: Path) -> None:
    """Draw training loss, and validation loss where there is one, by epoch.

    Args:
        history: One mapping an epoch, with `epoch`, `loss`, and perhaps `validation_loss` and `best`.
        stem: Path without a suffix; `.svg` and `.png` are written.
    """
    with mpl.rc_context(_STYLE):
        figure, axes = _figure(6.4, 4.0, "Loss by epoch", _loss_note(history))
        for key, colour, style, label in (
            ("loss", _BLUE, "-", "training"),
            ("validation_loss", _ORANGE, "--", "validation"),
        ):
            points = [(each["epoch"], each[key]) for each in history if each.get(key) is not None]
            if not points:
                continue
            epochs, values = zip(*points, strict=True)
            axes.plot(epochs, values, style, color=colour, linewidth=2, marker="o" if len(points) <= 30 else None,
                      markersize=4, label=label)  # fmt: skip
        best = _best(history)
        if best is not None:
            axes.plot([best["epoch"]], [best["validation_loss"]], "o", markersize=10, markerfacecolor="none",
                      markeredgecolor=_INK, markeredgewidth=1.4, label="best, and kept")  # fmt: skip
        if len(axes.get_lines()) > 1:
            axes.legend(frameon=False)
        axes.set_xlabel("epoch")
        axes.set_ylabel("loss")
        axes.set_ylim(bottom=min(0.0, *axes.get_ylim()))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        _save(figure, stem)


def _best(history: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    tried = [each for each in history if each.get("validation_loss") is not None]
    return min(tried, key=lambda each: float(each["validation_loss"]), default=None)


def _loss_note(history: Sequence[Mapping[str, Any]]) -> str:
    best, last = _best(history), history[-1]
    if best is not None:
        return f"best validation loss {best['validation_loss']:.4g} at epoch {best['epoch']} of {last['epoch']}"
    return f"training loss {last['loss']:.4g} after epoch {last['epoch']}"


def draw_confusion_matrix(matrix: NDArray[np.int64], classes: Sequence[Any], stem: Path) -> None:
    """Draw a confusion matrix: colour is the share of the true class's rows, so that small classes show.

    Counts stand in the cells of up to 15 classes, with each class's recall beside its row; names stand at the axes
    of up to 60 classes, and every so many of more.

    Args:
        matrix: Rows by true class, columns by predicted class.
        classes: Their names, in order.
        stem: Path without a suffix.
    """
    size = len(classes)
    totals = matrix.sum(axis=1, keepdims=True)
    share = matrix / np.maximum(totals, 1)
    names = [_short(each) for each in classes]
    side = float(np.clip(0.46 * size, 3.4, 8.4)) if size <= _COUNTS_UP_TO else float(np.clip(0.2 * size, 6.0, 10.0))
    right = int(np.trace(matrix))
    note = f"{right:,} of {int(matrix.sum()):,} right; darker is a larger share of the row"
    with mpl.rc_context({**_STYLE, "axes.grid": False}):
        figure, axes = _figure(side + 1.9, side + 1.5, "Confusion matrix", note)
        shades = LinearSegmentedColormap.from_list("modelyard", ["#FFFFFF", "#CFE3F2", "#5BA3D0", _BLUE, "#083A5E"])
        # A model worth evaluating is right almost always: without a root its mistakes would all be white.
        picture = axes.imshow(share, cmap=shades, norm=PowerNorm(0.45, vmin=0, vmax=1), interpolation="nearest")
        step = 1 if size <= _NAMES_UP_TO else int(np.ceil(size / 40))
        ticks = np.arange(0, size, step)
        letters = 9.5 if size <= _COUNTS_UP_TO else float(np.clip(320 / size, 6.0, 8.5))
        turned = max(len(name) for name in names) * letters / 110 > 0.9 * step * side / size
        axes.set_xticks(ticks, [names[i] for i in ticks], rotation=90 if turned else 0, fontsize=letters)
        axes.set_yticks(ticks, [names[i] for i in ticks], fontsize=letters)
        axes.set_xlabel("predicted")
        axes.set_ylabel("true")
        axes.tick_params(length=0)
        for spine in axes.spines.values():
            spine.set_visible(False)
        axes.set_xticks(np.arange(size + 1) - 0.5, minor=True)
        axes.set_yticks(np.arange(size + 1) - 0.5, minor=True)
        axes.grid(which="minor", color=_FAINT, linewidth=0.7 if size <= _COUNTS_UP_TO else 0.4)
        axes.tick_params(which="minor", length=0)
        if size <= _COUNTS_UP_TO:
            _write_counts(axes, matrix, share)
        else:
            bar = figure.colorbar(picture, ax=axes, fraction=0.035, pad=0.02, ticks=[0, 0.01, 0.05, 0.2, 0.5, 1])
            bar.ax.set_yticklabels(["0", "1 %", "5 %", "20 %", "50 %", "100 %"], fontsize=8)
            bar.outline.set_visible(False)
        _save(figure, stem)


def _write_counts(axes: Any, matrix: NDArray[np.int64], share: NDArray[np.float64]) -> None:
    size = len(matrix)
    digits = len(f"{matrix.max():,}")
    letters = float(np.clip(9.5 - max(0, digits - 4), 6.0, 9.5))
    for (row, column), count in np.ndenumerate(matrix):
        if count:
            colour = "white" if share[row, column] > 0.35 else _INK
            axes.text(column, row, f"{count:,}", ha="center", va="center", color=colour, fontsize=letters)
    for row in range(size):
        known = matrix[row].sum() > 0
        axes.text(size - 0.35, row, f"{share[row, row]:.1%}" if known else "-", ha="left", va="center", color=_SOFT,
                  fontsize=8.5)  # fmt: skip
    axes.annotate("recall", xy=(1 + 0.15 / size, 1), xycoords="axes fraction", xytext=(0, 8), color=_SOFT,
                  textcoords="offset points", fontsize=8.5, annotation_clip=False)  # fmt: skip


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 18 else f"{text[:17]}…"


def draw_regression(true: NDArray[Any], predicted: NDArray[Any], name: str, folder: Path) -> None:
    """Draw predicted against true values, and residuals against predicted values.

    Up to 2,000 rows are points; more are counted in hexagons.

    Args:
        true: One value a row.
        predicted: The same.
        name: The target's name.
        folder: Where `predicted_vs_true` and `residuals` are written, each as SVG and PNG.
    """
    residuals = predicted - true
    with mpl.rc_context(_STYLE):
        figure, axes = _figure(5.4, 5.2, "Predicted against true", f"{name}, {len(true):,} rows; on the line is right")
        low, high = float(min(true.min(), predicted.min())), float(max(true.max(), predicted.max()))
        edge = (high - low or 1.0) * 0.04
        _cloud(figure, axes, true, predicted)
        axes.plot([low - edge, high + edge], [low - edge, high + edge], color=_INK, linewidth=1, linestyle="--")
        axes.set_xlim(low - edge, high + edge)
        axes.set_ylim(low - edge, high + edge)
        axes.set_aspect("equal")
        axes.set_xlabel(f"true {name}")
        axes.set_ylabel(f"predicted {name}")
        _save(figure, folder / "predicted_vs_true")

        note = f"predicted minus true {name}: mean {residuals.mean():.3g}, deviation {residuals.std():.3g}"
        figure, axes = _figure(6.4, 4.0, "Residuals", note)
        _cloud(figure, axes, predicted, residuals)
        axes.axhline(0.0, color=_INK, linewidth=1, linestyle="--")
        axes.set_xlabel(f"predicted {name}")
        axes.set_ylabel("residual")
        _save(figure, folder / "residuals")


def _cloud(figure: Any, axes: Any, across: NDArray[Any], up: NDArray[Any]) -> None:
    if len(across) <= _POINTS_UP_TO:
        axes.scatter(across, up, s=18, color=_BLUE, alpha=0.55, linewidths=0)
        return
    shades = LinearSegmentedColormap.from_list("modelyard", ["#DCEBF6", "#5BA3D0", _BLUE, "#083A5E"])
    cells = axes.hexbin(across, up, gridsize=(45, 26), mincnt=1, cmap=shades, norm=LogNorm(), linewidths=0.2)
    bar = figure.colorbar(cells, ax=axes, fraction=0.04, pad=0.02)
    bar.set_label("rows")
    bar.outline.set_visible(False)


def _figure(width: float, height: float, title: str, note: str) -> tuple[Any, Any]:
    # No pyplot: it keeps every figure in a global list, and would look for a display.
    layout = ConstrainedLayoutEngine(w_pad=0.14, h_pad=0.14)
    figure = Figure(figsize=(width, height), dpi=150, layout=layout)
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.set_title(title, loc="left", fontsize=12.5, fontweight="bold", pad=22)
    axes.annotate(note, xy=(0, 1), xycoords="axes fraction", xytext=(0, 8), textcoords="offset points", color=_SOFT,
                  fontsize=8.5, annotation_clip=False)  # fmt: skip
    return figure, axes


def _save(figure: Any, stem: Path) -> None:
    with storage_errors(stem):
        figure.savefig(stem.with_suffix(".svg"), metadata={"Date": None, "Creator": None})
        figure.savefig(stem.with_suffix(".png"), metadata={"Software": None})
