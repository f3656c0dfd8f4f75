"""The slow, readable twin of `gather_evidence`: one column at a time, in double precision."""

from __future__ import annotations

import math

import numpy as np
from torch import Tensor

from world_model.core.geometry import TIE, invert_pose
from world_model.core.grid import FREE, VoxelGrid
from world_model.models.geometric.evidence import FORECAST, OBSERVED, Observation

BESIDE = ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1), (-1, -1), (-1, 1), (1, -1), (1, 1))


def middle(grid: VoxelGrid, i: int, j: int) -> np.ndarray:
    """Ground point (x, y, 0, 1) of a column, metres."""
    x, y = (grid.lower_m[axis] + (n + 0.5) * grid.voxel_m for axis, n in enumerate((i, j)))
    return np.array([x, y, 0.0, 1.0])


def column_of(grid: VoxelGrid, point: np.ndarray) -> tuple[int, int] | None:
    """The column that holds a point, None outside the grid."""
    i, j = (math.floor((point[axis] - grid.lower_m[axis]) / grid.voxel_m + TIE) for axis in (0, 1))
    return (i, j) if 0 <= i < grid.shape[0] and 0 <= j < grid.shape[1] else None


def taken(labels: np.ndarray, grid: VoxelGrid, point: np.ndarray) -> tuple[np.ndarray, bool]:
    """The labels of the column at a point, and whether there is one."""
    column = column_of(grid, point)
    return (np.full(labels.shape[-1], FREE), False) if column is None else (labels[column], True)


def arriving(shift: np.ndarray, source_to_target: np.ndarray, grid: VoxelGrid) -> dict[tuple[int, int], np.ndarray]:
    """Displacement of what arrives in each target column; the last of several, then neighbours in a fixed order."""
    hit: dict[tuple[int, int], np.ndarray] = {}
    for i, j in np.argwhere(np.any(shift != 0, -1)):
        there = column_of(grid, source_to_target @ (middle(grid, i, j) + np.array([*shift[i, j], 0, 0])))
        if there is not None:
            hit[there] = shift[i, j]
    wide: dict[tuple[int, int], np.ndarray] = {}
    for p, q in BESIDE:
        for (i, j), moved in hit.items():
            inside = 0 <= i + p < grid.shape[0] and 0 <= j + q < grid.shape[1]
            if inside and (i + p, j + q) not in wide:
                wide[i + p, j + q] = moved
    return wide


def slow_evidence(
    seen: Observation,
    target_to_source: Tensor,
    shift_m: Tensor,
    before: Tensor,
    target_to_before: Tensor,
    grid: VoxelGrid,
) -> tuple[np.ndarray, ...]:
    """Labels, memory (X, Y, Z), visibility (X, Y) and displacement (X, Y, 2) of the first grid of a batch."""
    matrix, back = target_to_source[0].double().numpy(), target_to_before[0].double().numpy()
    still, movers, memory, past = (part[0].numpy() for part in (seen.still, seen.movers, seen.memory, before))
    labels, remembered = np.empty(grid.shape, np.uint8), np.empty(grid.shape, np.uint8)
    visibility, displacement = np.zeros(grid.shape[:2], np.uint8), np.zeros((*grid.shape[:2], 2))
    arrived = arriving(shift_m[0].double().numpy(), invert_pose(target_to_source)[0].double().numpy(), grid)
    for i in range(grid.shape[0]):
        for j in range(grid.shape[1]):
            source = matrix @ middle(grid, i, j)
            labels[i, j], observed = taken(still, grid, source)
            remembered[i, j], _ = taken(memory, grid, source)
            visibility[i, j] = OBSERVED * observed
            if not observed:
                labels[i, j], in_view = taken(past, grid, back @ middle(grid, i, j))
                visibility[i, j] = FORECAST * in_view
            if (i, j) in arrived:
                moved, _ = taken(movers, grid, source - np.array([*arrived[i, j], 0, 0]))
                labels[i, j] = np.where(moved != FREE, moved, labels[i, j])
                displacement[i, j] = (arrived[i, j] @ matrix[:2, :2]) * (moved != FREE).any()
    return labels, remembered, visibility, displacement
