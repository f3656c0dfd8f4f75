"""Plots of scores by horizon and by class, and what all plots share. Drawn without a display.

Colours are those of Okabe and Ito (2008), which stay apart for colour-blind readers; markers and line styles say the
same once more, for print in grey.
"""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from world_model.core.files import atomic_write
from world_model.core.grid import CLASS_NAMES
from world_model.evaluation.metrics import SEMANTIC
from world_model.evaluation.result import METRICS, ForecastResult, regime_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BASELINE_STYLE: dict[str, dict[str, Any]] = {
    "copy-paste": {"color": "#999999", "marker": "x", "linestyle": "-"},
    "ego warp": {"color": "#E69F00", "marker": "^", "linestyle": "-"},
    "ego warp + CV boxes": {"color": "#8a5a00", "marker": "v", "linestyle": (0, (4, 2))},
    "tokenizer": {"color": "#000000", "marker": "", "linestyle": ":"},
}
REGIME_STYLE: dict[str, dict[str, Any]] = {
    "gt-ego": {"marker": "o", "linestyle": "-"},
    "pred-ego": {"marker": "s", "linestyle": "--"},
    "action": {"marker": "D", "linestyle": "-."},
}
WORLD_COLORS = ("#0072B2", "#CC79A7", "#009E73", "#D55E00", "#56B4E9")
"""The first one is the model's; a world keeps its colour in every regime."""


def new_figure(width: float, height: float, title: str) -> Figure:
    """An empty figure, inches."""
    # A Figure without pyplot draws with Agg, needs no display and leaves the user's backend alone.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    figure.suptitle(title, fontsize=11)
    return figure


def legend_below(figure: Figure, axis: Axes, columns: int, size: int = 9) -> None:
    """One legend of an axis' lines for the whole figure, below the axes."""
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=columns, fontsize=size)


def write_plot(path: str | Path, figure: Figure, dpi: int = 120) -> Path:
    """Write a PNG with so many pixels per inch, atomically; returns its path.

    Raises:
        OutputError: the folder cannot be written.
    """
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    with atomic_write(path) as stream:
        stream.write(buffer.getvalue())
    return Path(path)


def plot_horizons(title: str, result: ForecastResult) -> Figure:
    """mIoU and IoU of every row by horizon, side by side."""
    figure = new_figure(10.5, 4.6, f"Forecast by horizon: {title}, {result.windows} windows")
    axes = figure.subplots(1, 2)
    for axis, metric in zip(axes, ("miou", "iou"), strict=True):
        for name in result.rows:
            scores = [100 * result.score(name, h, metric) for h in range(len(result.horizons_s))]
            axis.plot(result.horizons_s, scores, label=_label(name), **_style(name, result.rows))
        axis.set(xlabel="horizon (s)", ylabel=f"{METRICS[metric]} (%)", ylim=(0, None), xticks=result.horizons_s)
        axis.grid(alpha=0.3)
    legend_below(figure, axes[0], 4)
    return figure


def plot_classes(title: str, result: ForecastResult) -> Figure:
    """IoU of every class, of the model beside the baselines, one panel per horizon (three at most)."""
    rows = [row for row in result.rows if row != "tokenizer" and regime_of(row) not in ("pred-ego", "action")]
    count = len(result.horizons_s)
    horizons = range(count) if count <= 3 else (0, count // 2, count - 1)
    title = f"Forecast by class: {title}, {result.windows} windows"
    figure = new_figure(12, 1.2 + 2.6 * len(horizons), title)
    axes = np.atleast_1d(figure.subplots(len(horizons), 1, sharex=True, sharey=True))
    for axis, horizon in zip(axes, horizons, strict=True):
        _class_bars(axis, result, rows, horizon)
        axis.set_ylabel(f"IoU (%) at {result.horizons_s[horizon]:g} s")
        axis.grid(axis="y", alpha=0.3)
        axis.set_axisbelow(True)
    axes[-1].set_xticks(range(len(SEMANTIC)), [CLASS_NAMES[c] for c in SEMANTIC], rotation=35, ha="right", fontsize=10)
    axes[-1].set_xlim(-0.6, len(SEMANTIC) - 0.4)
    legend_below(figure, axes[0], len(rows))
    return figure


def _class_bars(axis: Axes, result: ForecastResult, rows: Sequence[str], horizon: int) -> None:
    width = 0.84 / len(rows)
    for i, name in enumerate(rows):
        scores = 100 * result.confusion(name, horizon).per_class()[list(SEMANTIC)]
        place = np.arange(len(SEMANTIC)) + (i - (len(rows) - 1) / 2) * width
        color = _style(name, result.rows)["color"]
        axis.bar(place, np.nan_to_num(scores), width, label=_label(name), color=color)
        for absent in np.flatnonzero(np.isnan(scores)) if i == 0 else ():
            axis.text(absent, 1, "absent", rotation=90, ha="center", va="bottom", fontsize=8, color="#666666")


def _label(name: str) -> str:
    return f"{name} (ceiling)" if name == "tokenizer" else name


def _style(name: str, rows: Sequence[str]) -> dict[str, Any]:
    """How a row is drawn: baselines thin, worlds thick, each world in a colour of its own."""
    if name in BASELINE_STYLE:
        return {**BASELINE_STYLE[name], "linewidth": 1.4, "markersize": 5}
    worlds = list(dict.fromkeys(row.rpartition(" ")[0] for row in rows if row not in BASELINE_STYLE))
    color = WORLD_COLORS[worlds.index(name.rpartition(" ")[0]) % len(WORLD_COLORS)]
    return {**REGIME_STYLE[regime_of(name)], "color": color, "linewidth": 2.2, "markersize": 6}
