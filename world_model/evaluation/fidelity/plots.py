"""Plots of the benchmark: scores by horizon, ego response, obstacle persistence."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from world_model.evaluation.fidelity.drives import ACTION_SETS
from world_model.evaluation.fidelity.result import TRUTH, WITHIN_DEG, WITHIN_M
from world_model.evaluation.plots import WORLD_COLORS

if TYPE_CHECKING:
    from world_model.evaluation.fidelity.report import FidelityReport

ARM_LINES = {"": "-", "frozen": ":", "shuffled": "--"}
TRUTH_COLOR = "#777777"
LEAST_SHOWN = 1e-3
"""Smallest error drawn on logarithmic axes."""


def plot_scores(report: FidelityReport) -> Figure:
    """mIoU and IoU by horizon, a column for every action set; control arms dotted and dashed."""
    drives = [name for name in ACTION_SETS if any(name in world.tables for world in report.judged)]
    figure = Figure(figsize=(1.6 + 2.7 * len(drives), 5.8), layout="constrained")
    axes = figure.subplots(2, len(drives), sharex=True, sharey="row", squeeze=False)
    for row, (metric, label) in enumerate((("miou", "mIoU"), ("iou", "IoU"))):
        for axis, drive in zip(axes[row], drives, strict=True):
            for world, color in zip(report.judged, _colors(len(report.judged)), strict=True):
                for arm, line in ARM_LINES.items():
                    task = f"{drive}, {arm}" if arm else drive
                    if task in world.tables:
                        label_of = f"{world.name}, {arm}" if arm else world.name
                        marker = None if arm else "o"
                        scores = 100 * world.scores(task, metric)
                        axis.plot(report.horizons_s, scores, line, color=color, marker=marker, ms=4, label=label_of)
            axis.grid(alpha=0.3)
            axis.set_ylim(0, 100)
        axes[row, 0].set_ylabel(f"{label} (%)")
    for axis, drive in zip(axes[0], drives, strict=True):
        axis.set_title(drive, fontsize=10)
    for axis in axes[-1]:
        axis.set_xlabel("horizon (s)")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=6, fontsize=8)
    figure.suptitle(f"Forecast under actions: {report.title}", fontsize=11)
    return figure


def plot_response(report: FidelityReport) -> Figure:
    """How many steps are answered within which error, and found against driven motion along x."""
    figure = Figure(figsize=(12, 4.2), layout="constrained")
    axes = figure.subplots(1, 3)
    colors = iter(_colors(len(report.judged)))
    for world in report.worlds:
        color = TRUTH_COLOR if world.name == TRUTH else next(colors)
        if not world.response:
            continue
        pairs = np.concatenate(list(world.response.values()))
        off = pairs[:, 0] - pairs[:, 1]
        errors = (np.hypot(off[:, 0], off[:, 1]), np.degrees(np.abs(off[:, 2])))
        name = f"{world.name} (floor)" if world.name == TRUTH else world.name
        for axis, error in zip(axes, errors, strict=False):
            rising = np.sort(np.nan_to_num(error, nan=np.inf)).clip(LEAST_SHOWN)
            axis.plot(rising, 100 * (np.arange(len(rising)) + 1) / len(rising), color=color, label=name)
        axes[2].plot(pairs[:, 1, 0], pairs[:, 0, 0], ".", color=color, ms=3, alpha=0.6)
    for axis, limit, unit in zip(axes, (WITHIN_M, WITHIN_DEG), ("m", "degrees"), strict=False):
        axis.axvline(limit, color="#bbbbbb", lw=1)
        axis.set(xscale="log", xlabel=f"error per step ({unit})", ylabel="steps within it (%)", ylim=(0, 101))
        axis.grid(alpha=0.3)
    longest = max([8.0, *(float(np.nanmax(p[:, 1, 0])) for w in report.worlds for p in w.response.values())])
    axes[2].plot((0, longest), (0, longest), color="#bbbbbb", lw=1, zorder=0)
    axes[2].set(xlabel="driven forwards in a step (m)", ylabel="found in the forecast (m)", ylim=(-2, longest + 2))
    axes[2].grid(alpha=0.3)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=6, fontsize=9)
    figure.suptitle(f"Ego response: {report.title}", fontsize=11)
    return figure


def plot_persistence(report: FidelityReport) -> Figure:
    """Share of the vehicle ahead that is still there, by second."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axis = figure.subplots()
    shown = [world for world in report.judged if world.kept.size]
    width = 0.8 / len(shown)
    for i, (world, color) in enumerate(zip(shown, _colors(len(shown)), strict=True)):
        found = world.persistence()
        place = np.array(list(found)) + (i - (len(shown) - 1) / 2) * width
        axis.bar(place, [100 * np.nan_to_num(v[0]) for v in found.values()], width, color=color, label=world.name)
        exact = [100 * np.nan_to_num(v[1]) for v in found.values()]
        axis.plot(place, exact, "_", color="black", ms=14, label="exactly there" if i == 0 else None)
    axis.axhline(95, color="#bbbbbb", lw=1)
    axis.set(xlabel="driving at it for (s)", ylabel="vehicle still there (%)", ylim=(0, 105), xticks=list(found))
    axis.grid(axis="y", alpha=0.3)
    axis.set_axisbelow(True)
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize=9)
    figure.suptitle(f"Obstacle persistence: {report.title}, {len(shown[0].kept)} drives", fontsize=11)
    return figure


def _colors(count: int) -> list[str]:
    return [WORLD_COLORS[i % len(WORLD_COLORS)] for i in range(count)]
