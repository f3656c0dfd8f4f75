"""Statistics of synthetic scenes beside those of real nuScenes and Occ3D-nuScenes frames."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from world_model.grid import CLASS_ID, CLASS_NAMES, FREE, NUM_CLASSES, OCC3D
from world_model.simulator.labels import Labels

Floats = NDArray[np.floating]
AGENTS = (
    "car",
    "truck",
    "bus",
    "trailer",
    "construction_vehicle",
    "motorcycle",
    "bicycle",
    "pedestrian",
    "traffic_cone",
    "barrier",
)
WARP_EVERY = 3
"""The overlap of neighbouring keyframes is measured at every third pair."""
RINGS_M = (0, 10, 20, 30, 40, 100)


def _ring_index() -> NDArray[np.int64]:
    axis = OCC3D.lower_m[0] + OCC3D.voxel_m * (np.arange(OCC3D.shape[0]) + 0.5)
    return np.digitize(np.hypot(axis[:, None], axis[None]), RINGS_M) - 1


RING = _ring_index()


def warp(labels: NDArray[np.uint8], from_pose: Floats, to_pose: Floats) -> NDArray[np.uint8]:
    """Nearest-neighbour planar warp of labels (X, Y, Z) from one ego pose (4, 4) to another; free outside."""
    relative = np.linalg.inv(from_pose) @ to_pose
    low, v, (nx, ny, _) = OCC3D.lower_m, OCC3D.voxel_m, OCC3D.shape
    x, y = low[0] + v * (np.arange(nx)[:, None] + 0.5), low[1] + v * (np.arange(ny)[None] + 0.5)
    i = np.floor((relative[0, 0] * x + relative[0, 1] * y + relative[0, 3] - low[0]) / v).astype(np.int64)
    j = np.floor((relative[1, 0] * x + relative[1, 1] * y + relative[1, 3] - low[1]) / v).astype(np.int64)
    inside = (i >= 0) & (j >= 0) & (i < nx) & (j < ny)
    moved = labels[np.clip(i, 0, nx - 1), np.clip(j, 0, ny - 1)]
    moved[~inside] = FREE
    return moved


def overlap(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> Floats:
    """(2, NUM_CLASSES) intersection and union of each class; the last column counts occupied voxels of any class."""
    pair = np.bincount(a.reshape(-1).astype(np.int64) * NUM_CLASSES + b.reshape(-1), minlength=NUM_CLASSES**2)
    table = pair.reshape(NUM_CLASSES, NUM_CLASSES)
    same = np.diag(table).astype(float)
    union = table.sum(0) + table.sum(1) - same
    same[FREE], union[FREE] = table[:FREE, :FREE].sum(), table.sum() - table[FREE, FREE]
    return np.stack([same, union])


class SceneStatistics:
    """Sums over frames, mergeable over scenes in any order."""

    def __init__(self) -> None:
        self.sums: dict[str, Floats] = {}
        self.lists: dict[str, list[Any]] = {"boxes": [], "per_class": [], "speeds": [], "ego": []}
        self._previous: tuple[NDArray[np.uint8], Floats] | None = None
        self._ego: list[tuple[float, float, float, float]] = []
        self._frames = 0

    def _add(self, name: str, value: Any) -> None:
        value = np.asarray(value, float)
        self.sums[name] = self.sums[name] + value if name in self.sums else value

    def add(self, labels: Labels, boxes: NDArray[np.void], pose: Floats, time_us: int) -> None:
        """Count one keyframe: labels and boxes in the ego frame, pose (4, 4), timestamp in microseconds."""
        semantics = labels.semantics
        occupied = semantics != FREE
        self._add("frames", 1)
        self._add("class", np.bincount(semantics.reshape(-1), minlength=NUM_CLASSES) / semantics.size)
        self._add("level", occupied.mean((0, 1)))
        drive = (semantics == CLASS_ID["driveable_surface"]).any(2)
        self._add("columns", [occupied.any(2).mean(), drive.mean()])
        cells = np.bincount(RING.reshape(-1), minlength=5)
        self._add("drive_ring", np.bincount(RING.reshape(-1), drive.reshape(-1), 5) / cells)
        self._add("camera_ring", np.bincount(RING.reshape(-1), labels.mask_camera.mean(2).reshape(-1), 5) / cells)
        inside = [labels.mask_lidar[occupied].mean(), labels.mask_camera[occupied].mean()]
        self._add("masks", [labels.mask_lidar.mean(), labels.mask_camera.mean(), *inside])
        self._boxes(boxes)
        self._ego.append((time_us * 1e-6, pose[0, 3], pose[1, 3], float(np.arctan2(pose[1, 0], pose[0, 0]))))
        if self._previous is not None and self._frames % WARP_EVERY == 1:
            before, from_pose = self._previous
            pairs = {"warp": overlap(warp(before, from_pose, pose), semantics), "copy": overlap(before, semantics)}
            compared = 3.0 < np.hypot(*(pose[:2, 3] - from_pose[:2, 3])) < 5.5
            for name, table in pairs.items():
                self._add(f"all_{name}", table)
                self._add(name, table * compared)
        self._previous = (semantics, pose)
        self._frames += 1

    def _boxes(self, boxes: NDArray[np.void]) -> None:
        square = boxes[(np.abs(boxes["center"][:, :2]) < 40).all(1)]
        speed = np.hypot(*square["velocity"].T)
        ids = [CLASS_ID[a] for a in AGENTS]
        self.lists["boxes"].append(len(square))
        self.lists["per_class"].append([int((square["label"] == c).sum()) for c in ids])
        self._add("moving", [(square["label"] == c)[speed > 0.5].sum() for c in ids])
        self._add("size", [square["size"][square["label"] == c].sum(0) for c in ids])
        for c, v in zip(square["label"], speed, strict=True):
            if v > 0.5:
                self.lists["speeds"].append([int(c), round(float(v), 2)])

    def result(self) -> dict[str, Any]:
        """JSON-ready numbers of what was added."""
        return {
            "sums": {k: v.tolist() for k, v in self.sums.items()},
            "lists": {**self.lists, "ego": [np.round(self._ego, 4).tolist()]},
        }

    def merge(self, other: Mapping[str, Any]) -> None:
        """Add another scene's ``result()``."""
        for k, v in other["sums"].items():
            self._add(k, v)
        for k, v in other["lists"].items():
            self.lists[k] += v

    def mean(self, name: str) -> Floats:
        """Mean over frames of a summed quantity."""
        return self.sums[name] / self.sums["frames"]

    def iou(self, name: str) -> Floats:
        """(NUM_CLASSES,) overlap of neighbouring keyframes; the last entry is binary occupancy.

        Args:
            name: "warp" or "copy" for keyframes 3-5.5 m apart, "all_warp" or "all_copy" for all.
        """
        same, union = self.sums[name]
        return same / np.maximum(union, 1)

    def ego(self) -> dict[str, Floats]:
        """Ego motion of all scenes: forward metres, speed, accelerations, yaw steps and 3 s offsets."""
        out: dict[str, list[Any]] = {
            k: []
            for k in ("forward", "speed", "accel", "lateral", "yaw_deg", "forward_3s", "left_3s", "stops", "never")
        }
        for track in self.lists["ego"]:
            t, x, y, yaw = np.array(track).T
            dt, dx, dy = np.diff(t), np.diff(x), np.diff(y)
            forward = np.cos(yaw[:-1]) * dx + np.sin(yaw[:-1]) * dy
            speed, turn = forward / dt, (np.diff(yaw) + np.pi) % (2 * np.pi) - np.pi
            out["forward"] += list(forward * 0.5 / dt)
            out["speed"] += list(speed)
            out["accel"] += list(np.diff(speed) / dt[1:])
            out["lateral"] += list(speed * turn / dt)
            out["yaw_deg"] += list(np.abs(np.rad2deg(turn)))
            c, s, dx, dy = np.cos(yaw[:-6]), np.sin(yaw[:-6]), x[6:] - x[:-6], y[6:] - y[:-6]
            out["forward_3s"] += list(c * dx + s * dy)
            out["left_3s"] += list(c * dy - s * dx)
            still = speed < 0.2
            out["stops"].append(float(still.any()))
            out["never"].append(float(still.all()))
        return {k: np.array(v) for k, v in out.items()}


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
