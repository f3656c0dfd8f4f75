"""What any world model must beat: forecasts that need no learning.

All take the current occupancy only; the warps also know the true future ego poses (regime gt-ego), and the last one the
annotated boxes of the current frame with their velocities (an oracle: no detector is that good).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from world_model.core.geometry import warp_voxels
from world_model.core.grid import FREE, MOVABLE, OCC3D, VoxelGrid
from world_model.data.boxes import advance, mask_of, moving_boxes, transform, voxels_inside
from world_model.data.index import Boxes

OBJECT_MARGIN_M = 0.3
"""Objects are cut out and pasted with this margin: their labels spill over the annotated box by up to a voxel."""
MOVER = 32
"""Bit beside the class (0..17) that marks the voxels of a mover."""


def baselines(
    labels: Tensor, boxes: Boxes, future_poses: Tensor, seconds: Sequence[float], grid: VoxelGrid = OCC3D
) -> Tensor:
    """Forecast one window.

    Args:
        labels: (X, Y, Z) uint8 current labels, on the CPU.
        boxes: annotated boxes in the current ego frame.
        future_poses: (H, 4, 4) float64 ego poses at the horizons, in the current ego frame.
        seconds: (H) times to the horizons.
        grid: the voxel grid of the labels.

    Returns:
        (3, H, X, Y, Z) labels.
        Copy-paste: the world as it is now, in the frame as it is now.
        Ego warp: a world at rest, seen from where the ego will be; what comes into view is free.
        Ego warp + CV boxes: the same, with every moving object carried along at constant velocity. The voxels of
        movable classes inside the boxes of movers (not the ground below) are taken out before the warp and stamped at
        their extrapolated place after it; each is sampled once, straight from the current labels.
    """
    movers = moving_boxes(boxes)
    movable = torch.isin(labels, torch.tensor(MOVABLE, dtype=labels.dtype, device=labels.device))
    inside = torch.from_numpy(mask_of(movers, grid, OBJECT_MARGIN_M)) & movable
    marked = labels + MOVER * inside.to(labels.dtype)  # so that one warp serves both rows
    horizons = []
    for pose, dt_s in zip(future_poses, seconds, strict=True):
        warped = warp_voxels(marked[None], pose[None].float(), grid)[0]
        carried = warped.masked_fill(warped >= MOVER, FREE)
        _stamp(carried.numpy(), labels.numpy(), movers, dt_s, pose.numpy(), grid)
        horizons.append(torch.stack((labels, warped & (MOVER - 1), carried)))
    return torch.stack(horizons, 1)


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
