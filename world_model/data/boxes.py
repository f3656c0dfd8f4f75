"""Which voxels lie inside oriented boxes, and where objects of constant velocity will be."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from world_model.core.grid import VoxelGrid
from world_model.data.index import Boxes

MOVING_MPS = 0.5
"""Speed above which an object counts as moving."""


def moving_boxes(boxes: Boxes) -> Boxes:
    """Only the boxes whose known velocity exceeds `MOVING_MPS`."""
    speed = np.linalg.norm(boxes.velocity_mps, axis=1)
    return boxes.select(np.nan_to_num(speed, nan=0.0) > MOVING_MPS)


def advance(boxes: Boxes, seconds: float) -> Boxes:
    """Boxes moved along their velocity, heading kept."""
    center = boxes.center_m.astype(np.float64)
    center[:, :2] += boxes.velocity_mps.astype(np.float64) * seconds
    return replace(boxes, center_m=center)


def transform(boxes: Boxes, source_to_target: NDArray[Any]) -> Boxes:
    """Boxes in another frame (its z axis taken as parallel), by a (4, 4) rigid transform."""
    rotation = source_to_target[:3, :3]
    return replace(
        boxes,
        center_m=boxes.center_m.astype(np.float64) @ rotation.T + source_to_target[:3, 3],
        yaw_rad=boxes.yaw_rad + np.arctan2(rotation[1, 0], rotation[0, 0]),
        velocity_mps=boxes.velocity_mps @ rotation[:2, :2].T,
    )


def voxels_inside(boxes: Boxes, number: int, grid: VoxelGrid, margin_m: float = 0.0) -> NDArray[Any]:
    """Voxels whose centres lie inside one box.

    Args:
        boxes: boxes in the grid's frame.
        number: which of them.
        grid: the voxel grid.
        margin_m: by how much every face of the box is moved outwards, metres.

    Returns:
        (M, 3) int64 voxel indices inside the grid.
    """
    center = np.asarray(boxes.center_m[number], np.float64)
    half = np.asarray(boxes.size_m[number], np.float64) / 2 + margin_m
    extent = np.array([np.hypot(half[0], half[1])] * 2 + [half[2]])
    low, voxel = np.array(grid.lower_m), grid.voxel_m
    first = np.maximum(np.ceil((center - extent - low) / voxel - 0.5), 0).astype(np.int64)
    last = np.minimum(np.floor((center + extent - low) / voxel - 0.5) + 1, grid.shape).astype(np.int64)
    if (last <= first).any():
        return np.zeros((0, 3), np.int64)
    axes = [np.arange(a, b) for a, b in zip(first, last, strict=True)]
    x, y = (low[i] + (axes[i] + 0.5) * voxel - center[i] for i in (0, 1))
    cos, sin = np.cos(float(boxes.yaw_rad[number])), np.sin(float(boxes.yaw_rad[number]))
    along = cos * x[:, None] + sin * y[None]
    across = -sin * x[:, None] + cos * y[None]
    columns = np.argwhere((np.abs(along) <= half[0]) & (np.abs(across) <= half[1])) + first[:2]
    z = axes[2][np.abs(low[2] + (axes[2] + 0.5) * voxel - center[2]) <= half[2]]
    return np.concatenate((np.repeat(columns, len(z), axis=0), np.tile(z, len(columns))[:, None]), axis=1)


def mask_of(boxes: Boxes, grid: VoxelGrid, margin_m: float = 0.0) -> NDArray[Any]:
    """(X, Y, Z) bool: True inside any of the boxes."""
    mask = np.zeros(grid.shape, bool)
    for number in range(len(boxes.class_id)):
        mask[tuple(voxels_inside(boxes, number, grid, margin_m).T)] = True
    return mask
