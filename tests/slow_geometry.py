"""Slow, readable twins of the batched geometry: one pose, one voxel, one corner at a time."""

from __future__ import annotations

import math

import numpy as np

from ii_world_env.ego.footprint import FootprintConfig
from world_model.core.grid import EGO_LENGTH_M, EGO_REAR_OVERHANG_M, EGO_WIDTH_M, FREE, OBSTACLE, VoxelGrid

Pose = tuple[float, float, float]
CONFIG = FootprintConfig()
FRONT_M, REAR_M, HALF_M = EGO_LENGTH_M - EGO_REAR_OVERHANG_M, -EGO_REAR_OVERHANG_M, EGO_WIDTH_M / 2


def seen_from(pose: Pose, x: float, y: float) -> tuple[float, float]:
    """A point in the frame at a pose."""
    dx, dy, (c, s) = x - pose[0], y - pose[1], (math.cos(pose[2]), math.sin(pose[2]))
    return c * dx + s * dy, c * dy - s * dx


def placed(pose: Pose, x: float, y: float) -> tuple[float, float]:
    """A point of the frame at a pose, in the frame that the pose is given in."""
    c, s = math.cos(pose[2]), math.sin(pose[2])
    return pose[0] + c * x - s * y, pose[1] + s * x + c * y


def in_body(x: float, y: float, margin: float = 0.0, rear: float = REAR_M) -> bool:
    return rear - margin <= x <= FRONT_M + margin and abs(y) <= HALF_M + margin


def height(grid: VoxelGrid, k: int) -> float:
    return grid.lower_m[2] + grid.voxel_m * (k + 0.5)


def contacts(labels: np.ndarray, pose: Pose, grid: VoxelGrid, home: Pose | None = None) -> int:
    """Obstacle voxels whose centre lies in the body, but not in its rear zone and not where the ego stood at reset."""
    count = 0
    for i, j, k in np.argwhere(np.isin(labels, OBSTACLE)):
        x, y = (grid.lower_m[a] + grid.voxel_m * (n + 0.5) for a, n in enumerate((i, j)))
        u, v = seen_from(pose, x, y)
        hit = in_body(u, v) and u > REAR_M + CONFIG.rear_zone_m
        hit &= CONFIG.band_m[0] <= height(grid, k) <= CONFIG.band_m[1]
        hit &= home is None or not in_body(*seen_from(home, x, y), CONFIG.spawn_margin_m)
        count += hit
    return count


def column(labels: np.ndarray, x: float, y: float, grid: VoxelGrid) -> np.ndarray:
    """Labels above a point, nothing outside the grid."""
    i, j = (math.floor((v - low) / grid.voxel_m) for v, low in zip((x, y), grid.lower_m))
    inside = 0 <= i < labels.shape[0] and 0 <= j < labels.shape[1]
    return labels[i, j] if inside else np.full(labels.shape[2], FREE, labels.dtype)


def ground(labels: np.ndarray, votes: np.ndarray, x: float, y: float, grid: VoxelGrid, home: Pose) -> tuple[bool, bool]:
    """Whether there is drivable ground at a point, and whether there is other ground."""
    low = [c for k, c in enumerate(column(labels, x, y, grid)) if height(grid, k) <= CONFIG.ground_top_m]
    i, j = (math.floor((v - at) / grid.voxel_m) for v, at in zip(seen_from(home, x, y), grid.lower_m))
    inside = 0 <= i < votes.shape[0] and 0 <= j < votes.shape[1]
    vote = int(votes[i, j]) if inside else 0
    return 11 in low or vote > 0, any(c in low for c in (12, 13, 14)) or vote < 0


def off_road(labels: np.ndarray, votes: np.ndarray, pose: Pose, grid: VoxelGrid, home: Pose) -> bool:
    """Whether a corner stands on known other ground with no drivable ground within reach."""
    reach, v = CONFIG.ground_reach_m, grid.voxel_m
    around = [(a * v, b * v) for a in range(-9, 10) for b in range(-9, 10) if math.hypot(a * v, b * v) <= reach + 1e-6]
    for corner in ((FRONT_M, HALF_M), (FRONT_M, -HALF_M), (REAR_M, HALF_M), (REAR_M, -HALF_M)):
        x, y = placed(pose, *corner)
        if in_body(*seen_from(home, x, y), CONFIG.spawn_margin_m):
            continue
        kinds = [ground(labels, votes, x + dx, y + dy, grid, home) for dx, dy in around]
        if any(other for _, other in kinds) and not any(drivable for drivable, _ in kinds):
            return True
    return False
