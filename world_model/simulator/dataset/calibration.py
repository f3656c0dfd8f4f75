"""The calibration report and picture: synthetic scenes beside real nuScenes and Occ3D-nuScenes frames."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from world_model.core.files import atomic_write
from world_model.core.grid import CLASS_COLORS, CLASS_ID, CLASS_NAMES, FREE
from world_model.core.table import Table
from world_model.data.labels import read_labels
from world_model.pictures.bev import class_map
from world_model.simulator.dataset.config import DatasetConfig
from world_model.simulator.dataset.export import part_path
from world_model.simulator.dataset.statistics import AGENTS, SceneStatistics
from world_model.simulator.state import Floats

Line = tuple[str, str, str]
"""Quantity, synthetic, real."""
REAL_SHARES = {
    "car": (0.227, 0.071),
    "pedestrian": (0.047, 0),
    "barrier": (0.043, 0),
    "construction_vehicle": (0.021, 0.108),
    "driveable_surface": (1.25, 1.29),
    "other_flat": (0.04, 0.09),
    "sidewalk": (0.11, 0.18),
    "terrain": (0.25, 0.73),
    "manmade": (1.65, 1.33),
    "vegetation": (1.13, 1.04),
    "bicycle": (0.003, 0.008),
    "bus": (),
    "motorcycle": (0.014, 0.005),
    "traffic_cone": (0.002, 0),
}
"""Voxels of two real frames, % of the grid."""
IN_PICTURE = list(REAL_SHARES)[:10]
REAL_AGENTS = {
    "car": ("13.0 / 37, 26 %", "10.0 16.5"),
    "truck": ("1.1 / 4, 23 %", "6.7 12.1"),
    "bus": (".48 / 2, 51 %", "8.7 10.7"),
    "trailer": (".12 / 1, 0 %", ""),
    "construction_vehicle": (".30 / 2, 4 %", ""),
    "motorcycle": (".96 / 6, 27 %", "6.4 13.3"),
    "bicycle": (".50 / 3, 27 %", "4.8 5.9"),
    "pedestrian": ("10.2 / 36, 69 %", "1.5 1.8"),
    "traffic_cone": ("3.0 / 28, 0 %", ""),
    "barrier": ("4.4 / 30, 0 %", ""),
}
"""Boxes a frame (mean / p95) and share that moves; p90 and p99 of the moving ones' speed, m/s."""
REAL_LEVELS = (0, 1.1, 27.0, 6.6, 5.8, 4.9, 3.9, 3.6, 3.1, 2.9, 3.1, 3.2, 3.2, 3.3, 2.5, 2.7)
"""Occupied share per z level, %."""
SUNK_M = 0.2
"""Half a voxel."""
REAL_IOU = {"car": ".15-.37", "driveable_surface": ".43-.55", "manmade": ".52-.72", "vegetation": "-"}


def _numbers(values: Iterable[float], digits: int = 2, between: str = " ") -> str:
    return between.join(f"{v:.{digits}f}" for v in values)


def _percentiles(values: Floats | list[float], which: tuple[float, ...], digits: int = 2) -> str:
    return _numbers(np.percentile(values, which), digits) if len(values) else "-"


def _label_lines(s: SceneStatistics) -> list[Line]:
    shares, masks, levels = 100 * s.mean("class"), s.mean("masks"), _numbers(100 * s.mean("level"), 1)
    columns, near = _numbers(100 * s.mean("columns"), 1, " / "), _numbers(s.mean("drive_ring")[:4])
    lines = [
        ("occupied voxels, %", f"{100 - shares[FREE]:.2f}", "4.80 / 4.86"),
        ("columns with anything / driveable, %", columns, "40.2-44.4 / 19.8-20.3"),
        ("driveable coverage 0-10, 10-20, 20-30, 30-40 m", near, ".83 .37 .19 .15 / .57 .27 .25 .19"),
        ("mask_lidar / mask_camera mean", _numbers(masks[:2], 3, " / "), ".168-.188 / .157-.171"),
        ("mask_camera 0-10, .., 30-40, >40 m", _numbers(s.mean("camera_ring")), ".44 .39 .21 .11 .02"),
        ("occupied inside mask_lidar / mask_camera", _numbers(masks[2:], 3, " / "), ".966-.973 / .605-.744"),
        ("occupied share per z level, %", levels, " ".join(map(str, REAL_LEVELS))),
    ]
    real = {name: "/".join(f"{v:g}".lstrip("0") or "0" for v in REAL_SHARES.get(name, (0,))) for name in CLASS_NAMES}
    return lines + [(f"share of {n}, %", f"{shares[CLASS_ID[n]]:.3f}", real[n] or "-") for n in CLASS_NAMES[1:FREE]]


def _overlap_lines(s: SceneStatistics) -> list[Line]:
    warped, all_pairs = s.iou("warp"), [s.iou(name)[FREE] for name in ("all_warp", "all_copy")]
    return [
        ("ego-warp IoU of keyframes 3-5.5 m apart", f"{warped[FREE]:.3f}", ".48-.61"),
        ("copy-last IoU of keyframes 3-5.5 m apart", f"{s.iou('copy')[FREE]:.3f}", ".22-.26"),
        ("ego-warp IoU / copy-last IoU, all neighbours", _numbers(all_pairs, 3, " / "), "-"),
        *((f"ego-warp IoU, {n}", f"{warped[CLASS_ID[n]]:.3f}", real) for n, real in REAL_IOU.items()),
    ]


def _agent_lines(s: SceneStatistics) -> list[Line]:
    speeds, boxes = np.array(s.lists["speeds"]).reshape(-1, 2), s.lists["boxes"]
    found = f"{np.mean(boxes):.1f}, {_percentiles(boxes, (5, 50, 95), 0)}"
    counted, driven = [("boxes a frame: mean, p5 p50 p95", found, "34, 9 29 95")], []
    for name, count, moving in zip(AGENTS, np.array(s.lists["per_class"]).T, s.sums["moving"], strict=True):
        share, (real_count, real_speed) = 100 * moving / max(1, count.sum()), REAL_AGENTS[name]
        found = f"{count.mean():.2f} / {np.percentile(count, 95):.0f}, {share:.0f} %"
        counted.append((f"{name}: mean / p95 a frame, moving", found, real_count))
        if real_speed:
            found = _percentiles(speeds[speeds[:, 0] == CLASS_ID[name], 1], (90, 99), 1)
            driven.append((f"{name}: moving speed p90 p99, m/s", found, real_speed))
    return counted + driven


def _ego_lines(s: SceneStatistics) -> list[Line]:
    e = s.ego()
    left, right = 100 * (e["left_3s"] >= 2).mean(), 100 * (e["left_3s"] <= -2).mean()
    stops = f"{100 * (e['speed'] < 0.2).mean():.1f}; {100 * e['stops'].mean():.0f}; {100 * e['never'].mean():.0f}"
    forward, yaw = _percentiles(e["forward"], (5, 25, 50, 75, 95, 99)), _percentiles(e["yaw_deg"], (50, 75, 90, 95, 99))
    turns = _numbers((left, right, 100 - left - right), 1, " / ")
    accel, lateral = _percentiles(e["accel"], (1, 5, 95, 99)), _percentiles(e["lateral"], (1, 99))
    return [
        ("ego forward a step p5 25 50 75 95 99, m", forward, "0 1.16 2.80 4.01 5.40 6.13"),
        ("ego yaw step p50 75 90 95 99, deg", yaw, ".21 .89 3.1 6.3 11.4"),
        ("longitudinal acceleration p1 p5 p95 p99, m/s²", accel, "-3.4 -1.96 2.05 3.8"),
        ("lateral acceleration p1 p99, m/s²", lateral, "-1.6 1.4"),
        ("stationary steps; scenes with a stop; never moving, %", stops, "15.3; 39; 6"),
        ("forward in 3 s p50 p95, m", _percentiles(e["forward_3s"], (50, 95), 1), "16.6 31.9"),
        ("command left / right / straight, %", turns, "5.1 / 7.0 / 87.9"),
    ]


def _ground_lines(s: SceneStatistics) -> list[Line]:
    """Heights and slopes of the ground, and the tilt of the ego; nothing on flat ground."""
    lines: list[Line] = []
    if "ground_level" in s.sums:
        road, sidewalk = (_numbers(100 * row[:7] / max(1, row.sum()), 0) for row in s.sums["ground_level"])
        voxels, columns = s.sums["ground_columns"]
        along, left = np.abs(s.lists["slopes"]).reshape(-1, 2).T
        slopes = f"{_percentiles(along, (50, 95, 100))} / {_percentiles(left, (50, 95, 100))}"
        lines += [
            ("driveable voxels by z 0 .. 6, %", road, "0 5 91 4 0 0 0 / 21 20 52 5 1 1 0"),
            ("sidewalk voxels by z 0 .. 6, %", sidewalk, "0 0 66 34 0 0 0 (A)"),
            ("ground voxels in a column that has some", f"{voxels / max(1, columns):.2f}", "1.0-1.3"),
            ("road slope within 40 m, along / across, p50 p95 max, deg", slopes, "up to about 3 / 1.5"),
        ]
    tilt = s.tilt()
    if tilt:
        lifted = f"{100 * (tilt['sunk_m'] > SUNK_M).mean():.0f}"
        lines += [
            (f"ego {name} p50 p95 max, deg", _percentiles(tilt[name], (50, 95, 100)), real)
            for name, real in (("pitch", "follows the road"), ("roll", "follows the road"))
        ]
        lines.append((f"3 s windows that poses with z = 0 lift or sink by > {SUNK_M} m, %", lifted, "33"))
    return lines


NO_LABELS = (
    "The labels are left out: each scene has a label maker of its own, so no one real figure stands beside them."
)


def report(s: SceneStatistics, title: str) -> str:
    """The calibration table as Markdown."""
    labels = [*_label_lines(s), *_overlap_lines(s)] if s.has_labels else []
    lines = [*labels, *_ground_lines(s), *_agent_lines(s), *_ego_lines(s)]
    note = "" if s.has_labels else f"\n{NO_LABELS}\n"
    head = f"""# {title}

Synthetic scenes beside real nuScenes / Occ3D-nuScenes statistics (two real label frames A / B;
404 annotated keyframes; the ego motion of the validation split). Two frames are a guide, not a distribution.
{note}
"""
    return head + Table(["quantity", "synthetic", "real"], lines).markdown() + "\n"


def _bars(axes: Any, synthetic: Floats, real: Sequence[float], real_name: str, label: str) -> None:
    place = np.arange(len(real))
    axes.bar(place - 0.2, synthetic, 0.4, label="synthetic")
    axes.bar(place + 0.2, real, 0.4, label=real_name)
    axes.set_ylabel(label)
    axes.legend()


def _label_bars(figure: Any, grid: Any, statistics: SceneStatistics) -> None:
    shares, levels = 100 * statistics.mean("class"), 100 * statistics.mean("level")
    axes, real = figure.add_subplot(grid[2, :2]), [float(np.mean(REAL_SHARES[n])) for n in IN_PICTURE]
    _bars(axes, shares[[CLASS_ID[n] for n in IN_PICTURE]], real, "real (2 frames)", "% of the grid")
    axes.set_xticks(np.arange(len(IN_PICTURE)), [n.replace("_", "\n") for n in IN_PICTURE], fontsize=7)
    axes = figure.add_subplot(grid[2, 2:])
    _bars(axes, levels, REAL_LEVELS, "real (frame A)", "occupied, %")
    axes.set_xlabel("z level")


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
