"""Draw docs/pictures/axes.png, the figure of docs/concepts/conventions.md: ``python docs/pictures/make_axes.py``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, Rectangle

from ii_world_env.ego.footprint import FRONT_M, FootprintConfig, band
from world_model.core.grid import EGO_LENGTH_M, EGO_REAR_OVERHANG_M, EGO_WHEELBASE_M, EGO_WIDTH_M, OCC3D

BODY, EDGE, AXIS_X, AXIS_Y, AXIS_Z, GRID, NOTE = (
    "#8fb7e0",
    "#2c5d8f",
    "#c0392b",
    "#1e8449",
    "#6c3483",
    "#c8c8c8",
    "#333333",
)


def arrow(ax: Axes, begin: tuple[float, float], end: tuple[float, float], colour: str, bend: float = 0.0) -> None:
    """One axis or rotation."""
    style = {"connectionstyle": f"arc3,rad={bend}", "arrowstyle": "-|>", "mutation_scale": 14}
    ax.add_patch(FancyArrowPatch(begin, end, lw=2, color=colour, zorder=6, **style))


def measure(ax: Axes, begin: tuple[float, float], end: tuple[float, float], text: str, at: tuple[float, float]) -> None:
    """A dimension line with its length."""
    ax.annotate("", end, begin, arrowprops={"arrowstyle": "<->", "lw": 0.9, "color": NOTE})
    upright = 90 if begin[0] == end[0] else 0
    ax.text(*at, text, fontsize=8.5, color=NOTE, ha="center", va="center", rotation=upright)


def lines(ax: Axes, low: float, high: float, across: tuple[float, float], vertical: bool) -> None:
    """Voxel borders between two metres."""
    for n in range(round((high - low) / OCC3D.voxel_m) + 1):
        at = low + n * OCC3D.voxel_m
        (ax.vlines if vertical else ax.hlines)(at, *across, color=GRID, lw=0.6, zorder=1)


def box(ax: Axes, x: float, y: float, width: float, height: float, **style: Any) -> None:
    """A rectangle from its lower left corner."""
    ax.add_patch(Rectangle((x, y), width, height, **style))


def from_above(ax: Axes) -> None:
    """The body on the voxels around it; x is drawn upwards and y to the left, so the picture's abscissa is -y."""
    low, high, side = -1.6, 4.8, 2.4
    lines(ax, -side, side, (low, high), vertical=True)
    lines(ax, low, high, (-side, side), vertical=False)
    right, rear = -EGO_WIDTH_M / 2, -EGO_REAR_OVERHANG_M
    box(ax, right, rear, EGO_WIDTH_M, EGO_LENGTH_M, fc=BODY, ec=EDGE, alpha=0.75, zorder=2)
    zone = FootprintConfig().rear_zone_m
    box(ax, right, rear, EGO_WIDTH_M, zone, fc="none", ec=EDGE, hatch="///", lw=0.6, zorder=3)
    for x in (0.0, EGO_WHEELBASE_M):
        for y in (-0.8, 0.8):
            box(ax, y - 0.1, x - 0.3, 0.2, 0.6, fc="#444444", zorder=3)
    box(ax, 0.0, 0.0, 1.6, 1.6, fc="none", ec="#b9770e", lw=1.8, ls="--", zorder=4)
    ax.text(0.98, 1.66, "token cell\n(25, 24)\n4 × 4 columns", fontsize=8, color="#b9770e", va="bottom")
    for (i, j), (x, y) in {(100, 100): (0.2, -0.2), (99, 99): (-0.2, 0.2)}.items():
        box(ax, y - 0.2, x - 0.2, 0.4, 0.4, fc="#f5d76e", ec="#9a7d0a", alpha=0.9, zorder=4)
        place, side = ((-1.35, x + 0.75), "right") if j == 100 else ((1.1, x - 0.55), "left")
        line = {"arrowstyle": "-", "lw": 0.7, "color": "#9a7d0a"}
        ax.annotate(f"voxel ({i}, {j})", (y, x), place, fontsize=8, ha=side, arrowprops=line, zorder=7)
    arrow(ax, (0, 0), (0, 2.2), AXIS_X)
    arrow(ax, (0, 0), (-2.0, 0), AXIS_Y)
    arrow(ax, (0, 4.3), (-1.3, 3.8), NOTE, 0.3)
    ax.text(0.08, 2.05, "x forward", color=AXIS_X, fontsize=10)
    ax.text(-2.3, 0.1, "y left", color=AXIS_Y, fontsize=10)
    ax.text(-1.4, 4.3, "yaw > 0", fontsize=9, color=NOTE, ha="right")
    ax.plot(0, 0, "o", color="black", ms=5, zorder=8)
    line = {"arrowstyle": "-", "lw": 0.7, "color": "black"}
    ax.annotate("origin:\nrear axle", (0, 0), (-1.35, -0.55), fontsize=8, ha="right", arrowprops=line, zorder=8)
    middle = (FRONT_M - EGO_REAR_OVERHANG_M) / 2 + 1.0
    measure(ax, (-1.25, -EGO_REAR_OVERHANG_M), (-1.25, FRONT_M), f"{EGO_LENGTH_M} m", (-1.42, middle))
    wheelbase = f"wheelbase {EGO_WHEELBASE_M} m"
    measure(ax, (2.15, 0), (2.15, EGO_WHEELBASE_M), wheelbase, (2.32, EGO_WHEELBASE_M / 2))
    measure(ax, (-EGO_WIDTH_M / 2, 3.55), (EGO_WIDTH_M / 2, 3.55), f"{EGO_WIDTH_M} m", (0, 3.7))
    hatched = "hatched: contacts here are not the ego's fault"
    ax.text(0, -1.05, hatched, fontsize=8, ha="center", va="top", color=EDGE)
    ax.set(xlim=(-2.5, 2.9), ylim=(low, high), aspect="equal", title="Ego frame and footprint, from above")
    ax.axis("off")


def from_the_side(ax: Axes) -> None:
    """Heights: x to the right, z upwards."""
    low, high = -1.6, 4.4
    bottom, top = OCC3D.lower_m[2], OCC3D.upper_m[2]
    lines(ax, low, high, (bottom, top), vertical=True)
    lines(ax, bottom, top, (low, high), vertical=False)
    first, last = band(FootprintConfig().band_m, OCC3D)
    level = bottom + OCC3D.voxel_m * 2
    box(ax, low, level, high - low, OCC3D.voxel_m, fc="#d6c7a8", zorder=2)
    ax.text(high - 0.05, level + 0.2, "ground, k = 2", fontsize=8.5, ha="right", va="center", zorder=5)
    begin, end = bottom + OCC3D.voxel_m * first, bottom + OCC3D.voxel_m * last
    box(ax, -EGO_REAR_OVERHANG_M, begin, EGO_LENGTH_M, end - begin, fc=BODY, ec=EDGE, alpha=0.75, zorder=3)
    counted, at = f"obstacles count at\nk = {first}..{last - 1}", (FRONT_M / 2 - 0.3, (begin + end) / 2 + 0.25)
    ax.text(*at, counted, fontsize=8.5, ha="center", va="center", zorder=5)
    arrow(ax, (0, 0), (1.6, 0), AXIS_X)
    arrow(ax, (0, 0), (0, 1.6), AXIS_Z)
    ax.text(1.65, -0.1, "x", color=AXIS_X, fontsize=10, va="top")
    ax.text(-0.25, 1.55, "z up", color=AXIS_Z, fontsize=10, ha="right")
    ax.plot(0, 0, "o", color="black", ms=5, zorder=8)
    for k in (0, 2, 5, 10, 15):
        ax.text(low - 0.1, bottom + OCC3D.voxel_m * (k + 0.5), f"k = {k}", fontsize=8, ha="right", va="center")
    for z in (bottom, 0.0, top):
        ax.text(high + 0.1, z, f"{z:g} m", fontsize=8, va="center")
    ax.set(xlim=(low - 0.9, high + 0.9), ylim=(bottom - 0.3, top + 0.3), aspect="equal", title="Heights, from the side")
    ax.axis("off")


def whole_grid(ax: Axes) -> None:
    """All 200 x 200 columns, drawn as the bird's eye is: axis 0 upwards, axis 1 to the left."""
    far = -OCC3D.lower_m[0]
    box(ax, -far, -far, 2 * far, 2 * far, fc="#f4f6f7", ec=NOTE)
    for n in range(-30, 40, 10):
        ax.hlines(n, -far, far, color=GRID, lw=0.5)
        ax.vlines(n, -far, far, color=GRID, lw=0.5)
    box(ax, -EGO_WIDTH_M / 2, -EGO_REAR_OVERHANG_M, EGO_WIDTH_M, EGO_LENGTH_M, fc=EDGE)
    corners = {(0, 0): (-far, -far), (199, 0): (far, -far), (0, 199): (-far, far), (199, 199): (far, far)}
    for (i, j), (x, y) in corners.items():
        ax.text(-y + (-1.5 if y < 0 else 1.5), x + (1.5 if x < 0 else -1.5), f"labels[{i}, {j}]", fontsize=8,
                ha="right" if y < 0 else "left", va="bottom" if x < 0 else "top")  # fmt: skip
    arrow(ax, (0, 0), (0, 18), AXIS_X)
    arrow(ax, (0, 0), (-18, 0), AXIS_Y)
    ax.text(1.5, 17, "x, axis 0", color=AXIS_X, fontsize=10)
    ax.text(-18, 2, "y, axis 1", color=AXIS_Y, fontsize=10)
    for at, text in ((-far, "-40 m"), (far, "+40 m")):
        ax.text(far + 1.5, at, f"x = {text}", fontsize=8, va="center")
        ax.text(-at, -far - 1.5, f"y = {text}", fontsize=8, ha="center", va="top")
    ax.set(xlim=(-far - 4, far + 16), ylim=(-far - 6, far + 4), aspect="equal")
    ax.set_title("Grid: 200 × 200 × 16 voxels of 0.4 m")
    ax.axis("off")


def main() -> None:
    """Write the figure."""
    figure, axes = plt.subplots(1, 3, figsize=(15, 5.6), width_ratios=(1.0, 1.0, 1.05), layout="constrained")
    for draw, ax in zip((from_above, from_the_side, whole_grid), axes):
        draw(ax)
    figure.savefig(Path(__file__).parent / "axes.png", dpi=110)


if __name__ == "__main__":
    main()
