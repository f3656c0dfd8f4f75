"""Where a world expects the ego to drive, against where it drove: L2 and collision rate, in the published conventions.

Both conventions measure the LiDAR's origin of nuScenes in the frame of the current moment. "UniAD" (Hu et al., CVPR
2023) takes the value at a time, "ST-P3" (Hu et al., ECCV 2022) the mean over all steps up to it; OccWorld prints both.
Collisions: a raster of 0.5 m, the car's box as it stands at the current moment, 0.5 m ahead of the LiDAR, against the
annotated boxes of vehicles and people at that step; where the true drive collides in this sense nothing counts, and the
step stays in the denominator.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from world_model.core.grid import EGO_LENGTH_M, EGO_WIDTH_M, MOVABLE
from world_model.data.boxes import transform
from world_model.evaluation.forecasting.scene_data import Window

LIDAR_AHEAD_M, BOX_AHEAD_M, CELL_M = 0.943713, 0.5, 0.5
COUNTS = 2
"""Sums of a step: distances in micrometres, and collisions."""


def plan_counts(ego_pose: Tensor, windows: Sequence[Window]) -> NDArray[np.int64]:
    """(K, 2) sums over windows of the distance in micrometres and of collisions, for each step.

    Args:
        ego_pose: (B, K + 1, 4, 4) float64 expected ego poses in the current ego frame, the current one first.
        windows: B windows.
    """
    steps = ego_pose.shape[1] - 1
    total = np.zeros((steps, COUNTS), np.int64)
    for poses, window in zip(ego_pose, windows, strict=True):
        planned, true = _lidar(poses), _lidar(window.poses(0, steps))
        distance = np.linalg.norm(planned - true, axis=1)[1:]
        hit, true_hit = (_collides(path[1:], window) for path in (planned, true))
        total += np.stack((np.round(distance * 1e6).astype(np.int64), hit & ~true_hit), 1)
    return total


def _lidar(poses: Tensor) -> NDArray[Any]:
    """(K + 1, 2) where the LiDAR's origin is."""
    place: NDArray[Any] = (poses[:, :2, 3] + LIDAR_AHEAD_M * poses[:, :2, 0]).numpy()
    return place


def _collides(path: NDArray[Any], window: Window) -> NDArray[np.bool_]:
    """(K,) whether the car's box meets an annotated one, for places (K, 2) of the LiDAR at the steps from the next."""
    index, now = window.scene.index, window.scene.first + window.now
    to_current = window.poses(0, len(path)).numpy()
    found = np.zeros(len(path), np.bool_)
    for k, place in enumerate(path, 1):
        boxes = transform(index.boxes(now + k), to_current[k])
        boxes = boxes.select(np.isin(boxes.class_id, MOVABLE))
        point = _cells(place)[:, None] - boxes.center_m[:, :2]
        cos, sin = np.cos(boxes.yaw_rad), np.sin(boxes.yaw_rad)
        along, across = (cos * point[..., 0] + sin * point[..., 1], cos * point[..., 1] - sin * point[..., 0])
        half = boxes.size_m[:, :2] / 2
        found[k - 1] = bool(((np.abs(along) <= half[:, 0]) & (np.abs(across) <= half[:, 1])).any())
    return found


def _cells(place: NDArray[Any]) -> NDArray[Any]:
    """(M, 2) centres of the raster's cells that lie in the car's box."""
    centre = place + np.array((BOX_AHEAD_M, 0.0))
    half = np.array((EGO_LENGTH_M, EGO_WIDTH_M)) / 2
    axes = [
        np.arange(np.ceil((c - h) / CELL_M - 0.5), np.floor((c + h) / CELL_M - 0.5) + 1) * CELL_M + CELL_M / 2
        for c, h in zip(centre, half, strict=True)
    ]
    cells: NDArray[Any] = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2)
    return cells
