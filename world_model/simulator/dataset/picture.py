"""The calibration picture: a few frames from above and bars of synthetic against real shares."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from world_model.core.files import atomic_write
from world_model.core.grid import CLASS_COLORS, CLASS_ID
from world_model.data.labels import read_labels
from world_model.pictures.bev import class_map
from world_model.simulator.dataset.calibration import REAL_LEVELS
from world_model.simulator.dataset.config import DatasetConfig
from world_model.simulator.dataset.export import part_path
from world_model.simulator.dataset.statistics import SceneStatistics
from world_model.simulator.state import Floats

REAL_SHARES = {
    "car": 0.149,
    "pedestrian": 0.024,
    "barrier": 0.022,
    "construction_vehicle": 0.065,
    "driveable_surface": 1.27,
    "other_flat": 0.065,
    "sidewalk": 0.145,
    "terrain": 0.49,
    "manmade": 1.49,
    "vegetation": 1.085,
}
"""Mean of the two real frames, % of the grid."""


def _bars(axes: Any, synthetic: Floats, real: tuple[float, ...], real_name: str) -> None:
    place = np.arange(len(real))
    axes.bar(place - 0.2, synthetic, 0.4, label="synthetic")
    axes.bar(place + 0.2, real, 0.4, label=real_name)
    axes.legend()


def _label_bars(figure: Any, grid: Any, statistics: SceneStatistics) -> None:
    names = list(REAL_SHARES)
    axes = figure.add_subplot(grid[2, :2])
    shares = 100 * statistics.mean("class")[[CLASS_ID[n] for n in names]]
    _bars(axes, shares, tuple(REAL_SHARES.values()), "real (2 frames)")
    axes.set_xticks(np.arange(len(names)), [n.replace("_", "\n") for n in names], fontsize=7)
    axes.set_ylabel("% of the grid")
    axes = figure.add_subplot(grid[2, 2:])
    _bars(axes, 100 * statistics.mean("level"), REAL_LEVELS, "real (frame A)")
    axes.set_xlabel("z level")
    axes.set_ylabel("occupied, %")


def write_picture(root: Path, config: DatasetConfig, statistics: SceneStatistics) -> None:
    """Write ``calibration.png`` into a finished data set."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = 3 if statistics.has_labels else 2
    figure = Figure(figsize=(16, 11 * rows / 3))
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(rows, 4)
    for k, scene in enumerate(np.linspace(0, config.scenes - 1, 8).astype(int).tolist()):
        samples = json.loads(part_path(root, config, scene).read_text(encoding="utf-8-sig"))["tables"]["sample"]
        frame = (5 + 4 * k) % len(samples)  # wild scenes are shorter
        axes = figure.add_subplot(grid[k // 4, k % 4])
        labels = read_labels(root / "gts" / config.name(scene) / samples[frame]["token"] / "labels.npz")
        axes.imshow(np.array(CLASS_COLORS)[class_map(labels)][::-1, ::-1])  # forward up, left to the left
        axes.set_title(f"{config.name(scene)}, frame {frame}", fontsize=9)
        axes.axis("off")
    if statistics.has_labels:
        _label_bars(figure, grid, statistics)
    figure.tight_layout()
    with atomic_write(root / "calibration.png") as stream:
        figure.savefig(stream, format="png", dpi=80)
