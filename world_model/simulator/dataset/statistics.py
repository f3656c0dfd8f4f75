"""Statistics of scenes: shares, coverage, masks, agents, ego motion, and how much neighbouring keyframes overlap."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from world_model.core.grid import CLASS_ID, FREE, GROUND, NUM_CLASSES, OCC3D
from world_model.simulator.polylines import into, wrap
from world_model.simulator.sensing.cells import rotated_columns
from world_model.simulator.sensing.labels import Labels
from world_model.simulator.state import Floats

AGENTS = (
    *("car", "truck", "bus", "trailer", "construction_vehicle", "motorcycle", "bicycle"),
    *("pedestrian", "traffic_cone", "barrier"),
)
AGENT_IDS = [CLASS_ID[name] for name in AGENTS]
WARP_EVERY = 3
"""The overlap of neighbouring keyframes is measured at every third pair."""
SLOPE_RANGE_M, SLOPE_VOXELS = 40.0, 200
"""Distance within which a plane is fitted to the road, and how many voxels that takes."""
ROAD = CLASS_ID["driveable_surface"]
RINGS_M = (0, 10, 20, 30, 40, 100)
AXIS_M = OCC3D.lower_m[0] + OCC3D.voxel_m * (np.arange(OCC3D.shape[0]) + 0.5)
RING = (np.digitize(np.hypot(AXIS_M[:, None], AXIS_M), RINGS_M) - 1).reshape(-1)
"""(X*Y,) ring of each column."""
RING_COLUMNS = np.bincount(RING, minlength=5)
ONES = np.uint64(0x0101010101010101)


def levels_in(mask: NDArray[np.uint8]) -> Floats:
    """(X*Y,) sums of a mask (X, Y, 16) of zeros and ones over each column."""
    # Eight bytes at once: the product's highest byte is the sum of all bytes.
    halves = (np.ascontiguousarray(mask).reshape(-1).view(np.uint64) * ONES) >> np.uint64(56)
    sums: Floats = halves.reshape(-1, 2).astype(np.float32).sum(1)
    return sums


def warp(labels: NDArray[np.uint8], from_pose: Floats, to_pose: Floats) -> NDArray[np.uint8]:
    """Nearest-neighbour planar warp of labels (X, Y, 16) from one ego pose (4, 4) to another; free outside."""
    relative = np.linalg.inv(from_pose) @ to_pose
    yaw = float(np.arctan2(relative[1, 0], relative[0, 0]))
    source = rotated_columns(float(relative[0, 3]), float(relative[1, 3]), yaw)
    # A column of 16 bytes is fetched as one complex number, numpy's widest element.
    columns = np.append(labels.reshape(-1), np.full(labels.shape[2], FREE, np.uint8)).view(np.complex128)
    return columns.take(source).view(np.uint8).reshape(labels.shape)


def overlap(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> Floats:
    """(2, NUM_CLASSES) intersection and union of each class; the last column counts occupied voxels of any class."""
    a, b = a.reshape(-1), b.reshape(-1)
    volumes = (a, b, np.where(a == b, a, np.uint8(FREE)))
    in_a, in_b, same = (np.bincount(v[v != FREE], minlength=NUM_CLASSES) for v in volumes)
    union = in_a + in_b - same
    same[FREE] = np.count_nonzero((a != FREE) & (b != FREE))
    union[FREE] = in_a.sum() + in_b.sum() - same[FREE]
    return np.array([same, union], float)


class SceneStatistics:
    """Sums over frames, mergeable over scenes in any order."""

    def __init__(self) -> None:
        self.sums: dict[str, Floats] = {}
        names = ("boxes", "per_class", "speeds", "ego", "tilt", "slopes")
        self.lists: dict[str, list[Any]] = {name: [] for name in names}
        self._previous: tuple[NDArray[np.uint8], Floats] | None = None
        self._ego: list[tuple[float, float, float, float]] = []
        self._tilt: list[tuple[float, float]] = []

    def _add(self, values: Mapping[str, Any]) -> None:
        for name, value in values.items():
            value = np.asarray(value, float)
            self.sums[name] = self.sums[name] + value if name in self.sums else value

    def add(
        self, labels: Labels, boxes: NDArray[np.void], pose: Floats, time_us: int, with_labels: bool = True,
        with_ground: bool = False,
    ) -> None:  # fmt: skip
        """Count one keyframe: labels and boxes in the ego frame, pose (4, 4), timestamp in microseconds.

        Without labels only boxes and the ego's motion count: labels of many makers have no one real figure beside
        them. With ground, also its heights and slopes, and how the ego is tilted.
        """
        self._add({"frames": 1})
        if with_labels:
            self._labels(labels)
        self._boxes(boxes)
        self._ego.append((time_us * 1e-6, pose[0, 3], pose[1, 3], float(np.arctan2(pose[1, 0], pose[0, 0]))))
        if with_labels:
            self._overlaps(labels.semantics, pose)
        if with_ground:
            self._tilt.append((pose[0, 2], pose[1, 2]))
        if with_ground and with_labels:
            self._ground(labels.semantics)

    def _labels(self, labels: Labels) -> None:
        semantics, nz = labels.semantics, labels.semantics.shape[2]
        voxel = np.flatnonzero(semantics != FREE)
        label, column = semantics.reshape(-1).take(voxel), voxel // nz
        counts = np.bincount(label, minlength=NUM_CLASSES)
        counts[FREE] = semantics.size - len(voxel)
        drive, anything = np.zeros(len(RING), bool), np.zeros(len(RING), bool)
        drive[column[label == CLASS_ID["driveable_surface"]]], anything[column] = True, True
        lidar, camera = (levels_in(mask) / nz for mask in (labels.mask_lidar, labels.mask_camera))
        inside = [m.reshape(-1).take(voxel).sum() / max(1, len(voxel)) for m in (labels.mask_lidar, labels.mask_camera)]
        self._add(
            {
                "class": counts / semantics.size,
                "level": np.bincount(voxel % nz, minlength=nz) / len(RING),
                "columns": [anything.mean(), drive.mean()],
                "drive_ring": np.bincount(RING, drive, 5) / RING_COLUMNS,
                "camera_ring": np.bincount(RING, camera, 5) / RING_COLUMNS,
                "masks": [lidar.mean(), camera.mean(), *inside],
            }
        )

    def _overlaps(self, semantics: NDArray[np.uint8], pose: Floats) -> None:
        if self._previous is not None and len(self._ego) % WARP_EVERY == 2:
            before, from_pose = self._previous
            compared = 3.0 < np.hypot(*(pose[:2, 3] - from_pose[:2, 3])) < 5.5
            for name, labels_before in (("warp", warp(before, from_pose, pose)), ("copy", before)):
                table = overlap(labels_before, semantics)
                self._add({f"all_{name}": table, name: table * compared})
        self._previous = (semantics, pose)

    def _ground(self, semantics: NDArray[np.uint8]) -> None:
        """Heights of the ground, and the slopes of the plane that fits the road best."""
        x, y, z = np.nonzero(semantics == ROAD)
        sidewalk = np.nonzero(semantics == CLASS_ID["sidewalk"])[2]
        ground = (semantics >= GROUND[0]) & (semantics <= GROUND[-1])
        levels = [np.bincount(level, minlength=semantics.shape[2]) for level in (z, sidewalk)]
        self._add({"ground_level": levels, "ground_columns": [ground.sum(), ground.any(2).sum()]})
        near = np.hypot(AXIS_M[x], AXIS_M[y]) < SLOPE_RANGE_M
        if near.sum() >= SLOPE_VOXELS:
            plane = np.stack([AXIS_M[x[near]], AXIS_M[y[near]], np.ones(near.sum())], -1)
            fitted = np.linalg.solve(plane.T @ plane, plane.T @ (z[near] * OCC3D.voxel_m))
            self.lists["slopes"].append(np.round(np.rad2deg(np.arctan(fitted[:2])), 3).tolist())

    def _boxes(self, boxes: NDArray[np.void]) -> None:
        square = boxes[(np.abs(boxes["center"][:, :2]) < 40).all(1)]
        label, speed = square["label"], np.hypot(*square["velocity"].T)
        moves = speed > 0.5
        weights = (None, moves, *square["size"].T)
        total, moving, *size = (np.bincount(label, w, NUM_CLASSES)[AGENT_IDS] for w in weights)
        self._add({"moving": moving, "size": np.stack(size, -1)})
        self.lists["boxes"].append(len(square))
        self.lists["per_class"].append(total.tolist())
        driven = zip(label[moves].tolist(), speed[moves].tolist(), strict=True)
        self.lists["speeds"] += [[c, round(v, 2)] for c, v in driven]

    def result(self) -> dict[str, Any]:
        """JSON-ready numbers of what was added."""
        return {
            "sums": {k: v.tolist() for k, v in self.sums.items()},
            "lists": {
                **{name: rows for name, rows in self.lists.items() if rows or name not in ("tilt", "slopes")},
                "ego": [np.round(self._ego, 4).tolist()],
                **({"tilt": [np.round(self._tilt, 5).tolist()]} if self._tilt else {}),
            },
        }

    def merge(self, other: Mapping[str, Any]) -> None:
        """Add another scene's ``result()``."""
        self._add(other["sums"])
        for k, v in other["lists"].items():
            self.lists[k] += v

    @property
    def has_labels(self) -> bool:
        """Whether labels were counted."""
        return "class" in self.sums

    def mean(self, name: str) -> Floats:
        """Mean over frames of a summed quantity."""
        return self.sums[name] / self.sums["frames"]

    def iou(self, name: str) -> Floats:
        """(NUM_CLASSES,) overlap of neighbouring keyframes; the last entry is binary occupancy.

        Args:
            name: "warp" or "copy" for keyframes 3-5.5 m apart, "all_warp" or "all_copy" for all.
        """
        same, union = self.sums[name]
        iou: Floats = same / np.maximum(union, 1)
        return iou

    def ego(self) -> dict[str, Floats]:
        """Ego motion of all scenes: forward metres, speed, accelerations, yaw steps and 3 s offsets."""
        tracks = [_ego_motion(*np.array(track).T) for track in self.lists["ego"]]
        return {name: np.concatenate([t[name] for t in tracks]) for name in tracks[0]}

    def tilt(self) -> dict[str, Floats]:
        """Ego pitch and roll in degrees, and how far poses without z lift or sink the world in 3 s, metres.

        All absolute; empty on flat ground.
        """
        found = []
        for track, up in zip(self.lists["ego"], self.lists["tilt"], strict=False):
            (_, x, y, yaw), (up_x, up_y) = np.array(track).T, np.array(up).T
            ahead, left = into(up_x, up_y, np.cos(yaw), np.sin(yaw))
            sunk = up_x[:-6] * (x[6:] - x[:-6]) + up_y[:-6] * (y[6:] - y[:-6])
            found.append({"pitch": np.rad2deg(np.arcsin(ahead)), "roll": np.rad2deg(np.arcsin(left)), "sunk_m": sunk})
        return {name: np.abs(np.concatenate([f[name] for f in found])) for name in (found[0] if found else ())}


def _ego_motion(t: Floats, x: Floats, y: Floats, yaw: Floats) -> dict[str, Floats]:
    """Motion of one scene: one value a step, a window of 3 s, or a scene."""
    dt, c, s = np.diff(t), np.cos(yaw), np.sin(yaw)
    forward, _ = into(np.diff(x), np.diff(y), c[:-1], s[:-1])
    forward_3s, left_3s = into(x[6:] - x[:-6], y[6:] - y[:-6], c[:-6], s[:-6])
    speed, turn = forward / dt, wrap(np.diff(yaw))
    still = speed < 0.2
    return {
        "forward": forward * 0.5 / dt,
        "speed": speed,
        "accel": np.diff(speed) / dt[1:],
        "lateral": speed * turn / dt,
        "yaw_deg": np.abs(np.rad2deg(turn)),
        "forward_3s": forward_3s,
        "left_3s": left_3s,
        "stops": np.array([still.any()], float),
        "never": np.array([still.all()], float),
    }
