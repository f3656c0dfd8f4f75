"""The calibration report: statistics of synthetic scenes beside those of real nuScenes and Occ3D-nuScenes frames."""

from __future__ import annotations

import numpy as np

from world_model.core.grid import CLASS_ID, CLASS_NAMES, FREE
from world_model.simulator.dataset.statistics import AGENTS, Floats, SceneStatistics, overlap, warp


def percentiles(values: Floats | list[float], which: tuple[float, ...], digits: int = 2) -> str:
    """Percentiles as one table cell."""
    return " ".join(f"{v:.{digits}f}" for v in np.percentile(values, which)) if len(values) else "-"


REAL_CLASSES = {
    "barrier": ".043/0",
    "bicycle": ".003/.008",
    "bus": "-",
    "car": ".227/.071",
    "construction_vehicle": ".021/.108",
    "motorcycle": ".014/.005",
    "pedestrian": ".047/0",
    "traffic_cone": ".002/0",
    "driveable_surface": "1.25/1.29",
    "other_flat": ".04/.09",
    "sidewalk": ".11/.18",
    "terrain": ".25/.73",
    "manmade": "1.65/1.33",
    "vegetation": "1.13/1.04",
}
REAL_AGENTS = {
    "car": "13.0 / 37, 26 %",
    "truck": "1.1 / 4, 23 %",
    "bus": ".48 / 2, 51 %",
    "trailer": ".12 / 1, 0 %",
    "construction_vehicle": ".30 / 2, 4 %",
    "motorcycle": ".96 / 6, 27 %",
    "bicycle": ".50 / 3, 27 %",
    "pedestrian": "10.2 / 36, 69 %",
    "traffic_cone": "3.0 / 28, 0 %",
    "barrier": "4.4 / 30, 0 %",
}


def comparison(s: SceneStatistics) -> list[tuple[str, str, str]]:
    """Rows (quantity, synthetic, real) of the calibration report."""
    shares, masks = 100 * s.mean("class"), s.mean("masks")
    rows = [
        ("occupied voxels, %", f"{100 - shares[FREE]:.2f}", "4.80 / 4.86"),
        (
            "columns with anything / driveable, %",
            " / ".join(f"{100 * v:.1f}" for v in s.mean("columns")),
            "40.2-44.4 / 19.8-20.3",
        ),
        (
            "driveable coverage 0-10, 10-20, 20-30, 30-40 m",
            " ".join(f"{v:.2f}" for v in s.mean("drive_ring")[:4]),
            ".83 .37 .19 .15 / .57 .27 .25 .19",
        ),
        ("mask_lidar / mask_camera mean", f"{masks[0]:.3f} / {masks[1]:.3f}", ".168-.188 / .157-.171"),
        (
            "mask_camera 0-10, .., 30-40, >40 m",
            " ".join(f"{v:.2f}" for v in s.mean("camera_ring")),
            ".44 .39 .21 .11 .02",
        ),
        ("occupied inside mask_lidar / mask_camera", f"{masks[2]:.3f} / {masks[3]:.3f}", ".966-.973 / .605-.744"),
        (
            "occupied share per z level, %",
            " ".join(f"{100 * v:.1f}" for v in s.mean("level")),
            "0 1.1 27.0 6.6 5.8 4.9 3.9 3.6 3.1 2.9 3.1 3.2 3.2 3.3 2.5 2.7",
        ),
    ]
    rows += [
        (f"share of {CLASS_NAMES[c]}, %", f"{shares[c]:.3f}", REAL_CLASSES.get(CLASS_NAMES[c], "0"))
        for c in range(1, FREE)
    ]
    return rows + _overlap_rows(s) + _agent_rows(s) + _ego_rows(s)


def _overlap_rows(s: SceneStatistics) -> list[tuple[str, str, str]]:
    warped, copied = s.iou("warp"), s.iou("copy")
    real = {"car": ".15-.37", "driveable_surface": ".43-.55", "manmade": ".52-.72", "vegetation": "-"}
    rows = [
        ("ego-warp IoU of keyframes 3-5.5 m apart", f"{warped[FREE]:.3f}", ".48-.61"),
        ("copy-last IoU of keyframes 3-5.5 m apart", f"{copied[FREE]:.3f}", ".22-.26"),
        (
            "ego-warp IoU / copy-last IoU, all neighbours",
            f"{s.iou('all_warp')[FREE]:.3f} / {s.iou('all_copy')[FREE]:.3f}",
            "-",
        ),
    ]
    return rows + [(f"ego-warp IoU, {n}", f"{warped[CLASS_ID[n]]:.3f}", r) for n, r in real.items()]


def _agent_rows(s: SceneStatistics) -> list[tuple[str, str, str]]:
    counts = np.array(s.lists["per_class"]).reshape(-1, len(AGENTS))
    rows = [
        (
            "boxes a frame: mean, p5 p50 p95",
            f"{np.mean(s.lists['boxes']):.1f}, {percentiles(s.lists['boxes'], (5, 50, 95), 0)}",
            "34, 9 29 95",
        )
    ]
    for k, name in enumerate(AGENTS):
        moving = 100 * s.sums["moving"][k] / max(1, counts[:, k].sum())
        rows.append(
            (
                f"{name}: mean / p95 a frame, moving",
                f"{counts[:, k].mean():.2f} / {np.percentile(counts[:, k], 95):.0f}, {moving:.0f} %",
                REAL_AGENTS[name],
            )
        )
    real = {
        "car": "10.0 16.5",
        "truck": "6.7 12.1",
        "bus": "8.7 10.7",
        "motorcycle": "6.4 13.3",
        "bicycle": "4.8 5.9",
        "pedestrian": "1.5 1.8",
    }
    speeds = np.array(s.lists["speeds"]).reshape(-1, 2)
    for name, value in real.items():
        own = speeds[speeds[:, 0] == CLASS_ID[name], 1]
        rows.append((f"{name}: moving speed p90 p99, m/s", percentiles(own, (90, 99), 1), value))
    return rows


def _ego_rows(s: SceneStatistics) -> list[tuple[str, str, str]]:
    e = s.ego()
    left, right = 100 * (e["left_3s"] >= 2).mean(), 100 * (e["left_3s"] <= -2).mean()
    return [
        (
            "ego forward a step p5 25 50 75 95 99, m",
            percentiles(e["forward"], (5, 25, 50, 75, 95, 99)),
            "0 1.16 2.80 4.01 5.40 6.13",
        ),
        ("ego yaw step p50 75 90 95 99, deg", percentiles(e["yaw_deg"], (50, 75, 90, 95, 99)), ".21 .89 3.1 6.3 11.4"),
        (
            "longitudinal acceleration p1 p5 p95 p99, m/s²",
            percentiles(e["accel"], (1, 5, 95, 99)),
            "-3.4 -1.96 2.05 3.8",
        ),
        ("lateral acceleration p1 p99, m/s²", percentiles(e["lateral"], (1, 99)), "-1.6 1.4"),
        (
            "stationary steps; scenes with a stop; never moving, %",
            f"{100 * (e['speed'] < 0.2).mean():.1f}; {100 * e['stops'].mean():.0f}; {100 * e['never'].mean():.0f}",
            "15.3; 39; 6",
        ),
        ("forward in 3 s p50 p95, m", percentiles(e["forward_3s"], (50, 95), 1), "16.6 31.9"),
        (
            "command left / right / straight, %",
            f"{left:.1f} / {right:.1f} / {100 - left - right:.1f}",
            "5.1 / 7.0 / 87.9",
        ),
    ]


def report(s: SceneStatistics, title: str) -> str:
    """The calibration table as Markdown."""
    lines = [
        f"# {title}",
        "",
        "Synthetic scenes beside real nuScenes / Occ3D-nuScenes statistics (two real label frames A / B;",
        "404 annotated keyframes; the ego motion of the validation split). Two frames are a guide, not a distribution.",
        "",
        "| quantity | synthetic | real |",
        "|---|---|---|",
    ]
    lines += [f"| {a} | {b} | {c} |" for a, b, c in comparison(s)]
    return "\n".join(lines) + "\n"


__all__ = ["SceneStatistics", "comparison", "overlap", "report", "warp"]
