"""Plots of the benchmark: scores by horizon, ego response, obstacle persistence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from world_model.evaluation.fidelity.actions import ACTION_SETS
from world_model.evaluation.fidelity.result import TRUTH, WITHIN_DEG, WITHIN_M, WorldResult
from world_model.evaluation.plots import WORLD_COLORS, legend_below, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ARM_LINES = {"": "-", "frozen": ":", "shuffled": "--"}
TRUTH_COLOR, GUIDE_COLOR = "#777777", "#bbbbbb"
LEAST_DRAWN = 1e-3
"""Smallest error drawn on logarithmic axes."""


def plot_scores(title: str, horizons_s: Sequence[float], worlds: Sequence[WorldResult]) -> Figure:
    """mIoU and IoU by horizon, a column for every action set; control arms dotted and dashed."""
    action_sets = [name for name in ACTION_SETS if any(name in world.tables for world in worlds)]
    figure = new_figure(1.6 + 2.7 * len(action_sets), 5.8, f"Forecast under actions: {title}")
    axes = figure.subplots(2, len(action_sets), sharex=True, sharey="row", squeeze=False)
    lines = [(w, c, arm) for w, c in zip(worlds, _colors(len(worlds)), strict=True) for arm in ARM_LINES]
    for row, (metric, label) in enumerate((("miou", "mIoU"), ("iou", "IoU"))):
        for axis, actions in zip(axes[row], action_sets, strict=True):
            for world, color, arm in lines:
                name, label_of = (f"{text}, {arm}" if arm else text for text in (actions, world.name))
                if name in world.tables:
                    style = {"color": color, "marker": None if arm else "o", "ms": 4, "label": label_of}
                    axis.plot(horizons_s, 100 * world.scores(name, metric), ARM_LINES[arm], **style)
            axis.grid(alpha=0.3)
            axis.set_ylim(0, 100)
        axes[row, 0].set_ylabel(f"{label} (%)")
    for top, bottom, actions in zip(*axes, action_sets, strict=True):
        top.set_title(actions, fontsize=10)
        bottom.set_xlabel("horizon (s)")
    legend_below(figure, axes[0, 0], 6, 8)
    return figure


def plot_response(title: str, worlds: Sequence[WorldResult]) -> Figure:
    """How many steps are answered within which error, and found against executed motion along x; the ground truth
    (`TRUTH`) in grey."""
    figure = new_figure(12, 4.2, f"Ego response: {title}")
    axes, colors, longest = figure.subplots(1, 3), iter(_colors(len(worlds))), 8.0
    for world in worlds:
        color = TRUTH_COLOR if world.name == TRUTH else next(colors)
        if not world.response:
            continue
        pairs = np.concatenate(list(world.response.values()))
        error = pairs[:, 0] - pairs[:, 1]
        errors = (np.hypot(error[:, 0], error[:, 1]), np.degrees(np.abs(error[:, 2])))
        name = f"{world.name} (floor)" if world.name == TRUTH else world.name
        for axis, values in zip(axes, errors, strict=False):
            rising = np.sort(np.nan_to_num(values, nan=np.inf)).clip(LEAST_DRAWN)
            axis.plot(rising, 100 * (np.arange(len(rising)) + 1) / len(rising), color=color, label=name)
        axes[2].plot(pairs[:, 1, 0], pairs[:, 0, 0], ".", color=color, ms=3, alpha=0.6)
        longest = max(longest, float(np.nanmax(pairs[:, 1, 0])))
    for axis, limit, unit in zip(axes, (WITHIN_M, WITHIN_DEG), ("m", "degrees"), strict=False):
        axis.axvline(limit, color=GUIDE_COLOR, lw=1)
        axis.set(xscale="log", xlabel=f"error per step ({unit})", ylabel="steps within it (%)", ylim=(0, 101))
        axis.grid(alpha=0.3)
    axes[2].plot((0, longest), (0, longest), color=GUIDE_COLOR, lw=1, zorder=0)
    axes[2].set(xlabel="driven forwards in a step (m)", ylabel="found in the forecast (m)", ylim=(-2, longest + 2))
    axes[2].grid(alpha=0.3)
    legend_below(figure, axes[0], 6)
    return figure


def plot_persistence(title: str, worlds: Sequence[WorldResult]) -> Figure:
    """Share of the vehicle ahead that is still there, by second."""
    figure = new_figure(6, 4, f"Obstacle persistence: {title}, {len(worlds[0].kept)} drives")
    axis, width = figure.subplots(), 0.8 / len(worlds)
    for i, (world, color) in enumerate(zip(worlds, _colors(len(worlds)), strict=True)):
        found = world.persistence()
        place = np.array(list(found)) + (i - (len(worlds) - 1) / 2) * width
        near, exact = ([100 * np.nan_to_num(shares[n]) for shares in found.values()] for n in (0, 1))
        axis.bar(place, near, width, color=color, label=world.name)
        axis.plot(place, exact, "_", color="black", ms=14, label="exactly there" if i == 0 else None)
    axis.axhline(95, color=GUIDE_COLOR, lw=1)
    axis.set(xlabel="driving at it for (s)", ylabel="vehicle still there (%)", ylim=(0, 105), xticks=list(found))
    axis.grid(axis="y", alpha=0.3)
    axis.set_axisbelow(True)
    legend_below(figure, axis, 5)
    return figure


def _colors(count: int) -> list[str]:
    return [WORLD_COLORS[i % len(WORLD_COLORS)] for i in range(count)]
