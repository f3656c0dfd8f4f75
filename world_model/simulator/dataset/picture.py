"""The calibration picture: a few frames from above and bars of synthetic against real shares."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from world_model.core.files import atomic_write
from world_model.core.grid import CLASS_COLORS, CLASS_ID
from world_model.data.labels import read_labels
from world_model.pictures.bev import class_map
from world_model.simulator.dataset.calibration import REAL_LEVELS, REAL_SHARES
from world_model.simulator.dataset.config import DatasetConfig
from world_model.simulator.dataset.export import part_path
from world_model.simulator.dataset.statistics import SceneStatistics
from world_model.simulator.state import Floats

SHOWN = (
    *("car", "pedestrian", "barrier", "construction_vehicle", "driveable_surface"),
    *("other_flat", "sidewalk", "terrain", "manmade", "vegetation"),
)


def _bars(axes: Any, synthetic: Floats, real: Sequence[float], real_name: str, label: str) -> None:
    place = np.arange(len(real))
    axes.bar(place - 0.2, synthetic, 0.4, label="synthetic")
    axes.bar(place + 0.2, real, 0.4, label=real_name)
    axes.set_ylabel(label)
    axes.legend()


def write_picture(root: Path, config: DatasetConfig, statistics: SceneStatistics) -> None:
    """Write ``calibration.png`` into a finished data set."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(16, 11))
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(3, 4)
    for k, scene in enumerate(np.linspace(0, config.scenes - 1, 8).astype(int).tolist()):
        samples = json.loads(part_path(root, config, scene).read_text())["tables"]["sample"]
        frame = (5 + 4 * k) % len(samples)  # wild scenes are shorter
        axes = figure.add_subplot(grid[k // 4, k % 4])
        labels = read_labels(root / "gts" / config.name(scene) / samples[frame]["token"] / "labels.npz")
        axes.imshow(np.array(CLASS_COLORS)[class_map(labels)][::-1, ::-1])  # forward up, left to the left
        axes.set_title(f"{config.name(scene)}, frame {frame}", fontsize=9)
        axes.axis("off")
    shares, levels = 100 * statistics.mean("class"), 100 * statistics.mean("level")
    axes, real = figure.add_subplot(grid[2, :2]), [float(np.mean(REAL_SHARES[n])) for n in SHOWN]
    _bars(axes, shares[[CLASS_ID[n] for n in SHOWN]], real, "real (2 frames)", "% of the grid")
    axes.set_xticks(np.arange(len(SHOWN)), [n.replace("_", "\n") for n in SHOWN], fontsize=7)
    axes = figure.add_subplot(grid[2, 2:])
    _bars(axes, levels, REAL_LEVELS, "real (frame A)", "occupied, %")
    axes.set_xlabel("z level")
    figure.tight_layout()
    with atomic_write(root / "calibration.png") as stream:
        figure.savefig(stream, format="png", dpi=80)
