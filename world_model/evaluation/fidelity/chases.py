"""Obstacle persistence: drive at a vehicle that stands ahead, and count how much of it a world still has.

The ground truth says where the vehicle is and which voxels of it are seen; a voxel counts as still there if the world
has an obstacle within one voxel of it, since a right answer may be half a voxel off.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from world_model.core.grid import (
    EGO_LENGTH_M,
    EGO_REAR_OVERHANG_M,
    EGO_WIDTH_M,
    MOVABLE,
    OBSTACLE,
    OCC3D,
    STEP_S,
    VoxelGrid,
)
from world_model.data.boxes import voxels_inside
from world_model.data.index import Boxes, SceneIndex
from world_model.evaluation.fidelity.actions import DriveStart, Floats, pursuit
from world_model.simulator import SimState, Simulator

VEHICLES = (3, 4, 5, 9, 10)
FRONT_M = EGO_LENGTH_M - EGO_REAR_OVERHANG_M
CHASE_STEPS = 6
CHASE_S = CHASE_STEPS * STEP_S
STANDING_MPS = 0.3
GAP_M = (4.0, 18.0)
AHEAD_RAD = math.radians(20)
MARGIN_M = 0.2
LEAST_VOXELS = 8
"""A vehicle of which less is visible does not count."""
MOST_ACCEL_MPS2 = 4.0


@dataclass(frozen=True, kw_only=True)
class Chase:
    """One vehicle to drive at.

    Attributes:
        frame: current frame at the start.
        center_m: (x, y) of the vehicle, ego frame of the start.
        gap_m: free way to it.
        instance: of the vehicle, in the index.
    """

    frame: int
    center_m: tuple[float, float]
    gap_m: float
    instance: int

    def motions(self, start: DriveStart) -> Floats:
        """(K, 3) motions that reach the vehicle after about three seconds."""
        accel = 2 * (self.gap_m - start.speed_mps * CHASE_S) / CHASE_S**2
        return pursuit(start, self.center_m, float(np.clip(accel, -MOST_ACCEL_MPS2, MOST_ACCEL_MPS2)))


def find_chases(index: SceneIndex, scene: int, past: int, most: int) -> list[Chase]:
    """Vehicles that stand ahead of the ego somewhere in a scene: each once, those first whose gap is the middle one.

    Args:
        index: the data set, with boxes.
        scene: which of its scenes.
        past: frames that a start needs before it.
        most: how many to return at most.
    """
    best: dict[int, Chase] = {}
    for frame in list(index.frames(scene))[past:]:
        for chase in _ahead(index.boxes(frame), frame):
            known = best.get(chase.instance)
            if known is None or _cost(chase) < _cost(known):
                best[chase.instance] = chase
    return sorted(best.values(), key=lambda chase: (_cost(chase), chase.frame))[:most]


def _cost(chase: Chase) -> float:
    return abs(chase.gap_m - sum(GAP_M) / 2)


def _ahead(boxes: Boxes, frame: int) -> list[Chase]:
    center = boxes.center_m.astype(np.float64)
    speed = np.linalg.norm(boxes.velocity_mps, axis=1)
    fits = np.isin(boxes.class_id, VEHICLES) & (np.nan_to_num(speed, nan=np.inf) < STANDING_MPS)
    angle = np.arctan2(center[:, 1], center[:, 0])
    length, width = boxes.size_m[:, 0], boxes.size_m[:, 1]
    extent = np.abs(length * np.cos(boxes.yaw_rad - angle)) + np.abs(width * np.sin(boxes.yaw_rad - angle))
    gap = np.hypot(center[:, 0], center[:, 1]) - extent / 2 - FRONT_M
    fits &= (np.abs(angle) < AHEAD_RAD) & (gap >= GAP_M[0]) & (gap <= GAP_M[1])
    return [
        Chase(
            frame=frame,
            center_m=(float(center[n, 0]), float(center[n, 1])),
            gap_m=float(gap[n]),
            instance=int(boxes.instance[n]) if boxes.instance[n] >= 0 else -1 - frame,
        )
        for n in np.flatnonzero(fits)
    ]


def visible_voxels(
    chase: Chase, states: list[SimState], labels: NDArray[Any], grid: VoxelGrid = OCC3D
) -> list[NDArray[Any] | None]:
    """Voxels of the vehicle in the ground truth at every step.

    Args:
        chase: which vehicle.
        states: K + 1 states of the simulator, the start first.
        labels: (K, X, Y, Z) the simulator's labels after each step.
        grid: of the labels.

    Returns:
        For each step (M, 3) voxel indices; None from when the ego has reached the vehicle or it has driven off, and
        where too little of it is visible.
    """
    simulator = Simulator()
    first = simulator.boxes(states[0])
    distance_m = np.hypot(*(first["center"][:, :2] - chase.center_m).T)
    if not len(distance_m) or distance_m.min() > 0.5:
        return [None] * len(labels)
    instance, ended, found = first["instance"][distance_m.argmin()], False, list[NDArray[Any] | None]()
    for state, drawn in zip(states[1:], labels, strict=True):
        rows = simulator.boxes(state)
        row = rows[rows["instance"] == instance]
        ended = ended or not len(row) or _ended(row[0])
        found.append(None if ended else _of_vehicle(row, drawn, grid))
    return found


def _ended(row: np.void) -> bool:
    """Whether the vehicle drives, or the ego touches it."""
    if float(np.hypot(*row["velocity"])) > STANDING_MPS:
        return True
    length, width, _ = row["size"]
    u, v = np.meshgrid(np.linspace(-0.5, 0.5, 13), np.linspace(-0.5, 0.5, 7))
    c, s = np.cos(row["yaw"]), np.sin(row["yaw"])
    x = row["center"][0] + c * u * length - s * v * width
    y = row["center"][1] + s * u * length + c * v * width
    return bool(((x > -EGO_REAR_OVERHANG_M) & (x < FRONT_M) & (np.abs(y) < EGO_WIDTH_M / 2)).any())


def _of_vehicle(row: NDArray[Any], drawn: NDArray[Any], grid: VoxelGrid) -> NDArray[Any] | None:
    box = Boxes(
        center_m=row["center"],
        size_m=row["size"],
        yaw_rad=row["yaw"],
        velocity_mps=row["velocity"],
        class_id=row["label"].astype(np.uint8),
        instance=row["instance"],
    )
    inside = voxels_inside(box, 0, grid, MARGIN_M)
    visible = inside[np.isin(drawn[tuple(inside.T)], MOVABLE)]
    return visible if len(visible) >= LEAST_VOXELS else None


def still_there(visible: list[NDArray[Any] | None], labels: NDArray[Any]) -> NDArray[np.int64]:
    """(K, 3) voxels of the vehicle in the ground truth, of these with an obstacle within one voxel, and exactly there.

    Args:
        visible: of `visible_voxels`.
        labels: (K, X, Y, Z) of a world.
    """
    counts = np.zeros((len(visible), 3), np.int64)
    for k, voxels in enumerate(visible):
        if voxels is None:
            continue
        solid = np.isin(labels[k], OBSTACLE)
        near = F.max_pool3d(torch.from_numpy(solid)[None, None].float(), 3, 1, 1)[0, 0].numpy() > 0
        place = tuple(voxels.T)
        counts[k] = len(voxels), near[place].sum(), solid[place].sum()
    return counts
