"""What any world model must beat: forecasts that need no learning.

All take the current occupancy only; the warps also know the true future ego poses (regime gt-ego), and the last one the
annotated boxes of the current frame with their velocities (an oracle: no detector is that good).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from world_model.core.geometry import invert_pose, warp_voxels
from world_model.core.grid import FREE, MOVABLE, OCC3D, VoxelGrid
from world_model.data.boxes import advance, mask_of, moving, transform, voxels_inside
from world_model.data.index import Boxes

OBJECT_MARGIN_M = 0.3
"""Objects are cut out and pasted with this margin: their labels spill over the annotated box by up to a voxel."""
MOVER = 32
"""Bit beside the class (0..17) that marks the voxels of a mover."""


def copy_paste(labels: Tensor) -> Tensor:
    """The world as it is now, in the frame as it is now: the current labels (B, X, Y, Z) unchanged."""
    return labels


def ego_warp(labels: Tensor, current_pose: Tensor, future_pose: Tensor, grid: VoxelGrid = OCC3D) -> Tensor:
    """A world at rest, seen from where the ego will be: one warp from the current to the future frame.

    Args:
        labels: (B, X, Y, Z) current labels.
        current_pose: (B, 4, 4) float64 ego -> global now.
        future_pose: (B, 4, 4) float64 ego -> global at the horizon.
        grid: the voxel grid of the labels.

    Returns:
        (B, X, Y, Z); what comes into view is free.
    """
    return warp_voxels(labels, (invert_pose(current_pose) @ future_pose).float(), grid)


def ego_warp_with_boxes(
    labels: Tensor,
    current_pose: Tensor,
    future_pose: Tensor,
    boxes: list[Boxes],
    seconds: list[float],
    grid: VoxelGrid = OCC3D,
) -> Tensor:
    """The ego warp, with every moving object carried along at constant velocity.

    The voxels of movable classes inside the current boxes of movers are taken out before the warp and stamped at
    their extrapolated place after it; each is sampled once, straight from the current labels.

    Args:
        labels, current_pose, future_pose, grid: as `ego_warp`; on the CPU.
        boxes: B sets of annotated boxes in the current ego frames.
        seconds: B times to the horizon.
    """
    return ego_warps(mark_movers(labels, boxes, grid), labels, current_pose, future_pose, boxes, seconds, grid)[1]


def mark_movers(labels: Tensor, boxes: list[Boxes], grid: VoxelGrid = OCC3D) -> Tensor:
    """Labels (B, X, Y, Z) with `MOVER` added to the movable voxels inside the boxes of movers; the ground below them
    is not marked."""
    inside = np.stack([mask_of(moving(b), grid, OBJECT_MARGIN_M) for b in boxes])
    movable = torch.isin(labels, torch.tensor(MOVABLE, dtype=labels.dtype))
    return labels + MOVER * (torch.from_numpy(inside) & movable).to(labels.dtype)


def ego_warps(
    marked: Tensor,
    labels: Tensor,
    current_pose: Tensor,
    future_pose: Tensor,
    boxes: list[Boxes],
    seconds: list[float],
    grid: VoxelGrid = OCC3D,
) -> tuple[Tensor, Tensor]:
    """`ego_warp` and `ego_warp_with_boxes` by one warp: ``marked`` of `mark_movers` carries both through it."""
    future_to_current = invert_pose(current_pose) @ future_pose
    warped = warp_voxels(marked, future_to_current.float(), grid)
    plain = warped & (MOVER - 1)
    carried = warped.masked_fill(warped >= MOVER, FREE)
    for b, (own, dt_s) in enumerate(zip(boxes, seconds, strict=True)):
        _stamp(carried[b].numpy(), labels[b].numpy(), moving(own), dt_s, future_to_current[b].numpy(), grid)
    return plain, carried


def _stamp(
    target: NDArray[Any],
    source: NDArray[Any],
    movers: Boxes,
    dt_s: float,
    target_to_source: NDArray[Any],
    grid: VoxelGrid,
) -> None:
    """Write the movers' voxels into ``target`` (X, Y, Z), where they will be ``dt_s`` later."""
    placed = transform(advance(movers, dt_s), np.linalg.inv(target_to_source))
    low = np.array(grid.lower_m)
    for number in range(len(movers.class_id)):
        voxel = voxels_inside(placed, number, grid, OBJECT_MARGIN_M)
        point = (voxel + 0.5) * grid.voxel_m + low
        origin = point @ target_to_source[:3, :3].T + target_to_source[:3, 3]
        origin[:, :2] -= movers.velocity_mps[number] * dt_s
        index = np.floor((origin - low) / grid.voxel_m).astype(np.int64)
        inside = ((index >= 0) & (index < grid.shape)).all(1)
        label = source[tuple(index[inside].T)]
        movable = np.isin(label, MOVABLE)
        target[tuple(voxel[inside][movable].T)] = label[movable]
