"""Road users of which no voxels were observed: drawn as a plausible solid of their class and size, on the ground.

Legend: B grids, K slots, N columns.
"""

from __future__ import annotations

import torch
from torch import Tensor

from world_model.core.geometry import invert_pose
from world_model.core.grid import CLASS_ID, FREE, VoxelGrid
from world_model.core.sparse import nonzero_indices
from world_model.models.geometric.agents.bodies import Drawn, columns_in
from world_model.models.geometric.agents.tracks import SLOTS, Tracks
from world_model.models.geometric.evidence import last_of
from world_model.models.geometric.riding import CELL, RoadPlane

BONNET, BOOT, LOW = 0.45, -0.85, 0.6
"""A car is only so high, of its height, ahead of and behind these parts of its half length."""


def place_solids(
    solid: Tensor, then: Tracks, now: Tracks, road: RoadPlane, target_to_source: Tensor, grid: VoxelGrid
) -> Drawn:
    """Draw solids in the target frame.

    Args:
        solid: (B, K) bool, which of the objects.
        then: where they were at the reset, source frame.
        now: where they are now, source frame.
        road: the ground, source frame.
        target_to_source: (B, 4, 4) target ego frame -> source ego frame, metres.
        grid: the voxel grid.
    """
    matrix = target_to_source.float()
    back = invert_pose(matrix)
    seen = now.seen_from(back)
    which = nonzero_indices(solid)
    at = columns_in(seen, which, grid, 0.0)
    column, last = last_of(at.column)
    k, place = which[at.row[last]], at.place[last]
    b = k // SLOTS

    def of(name: str, tracks: Tracks = seen) -> Tensor:
        value: Tensor = getattr(tracks, name)
        return value.reshape(-1)[k]

    along = (place[:, 0] - of("x")) * of("yaw").cos() + (place[:, 1] - of("y")) * of("yaw").sin()
    part = along / (of("length") / 2)
    is_low = (of("class_id") == CLASS_ID["car"]) & ((part > BONNET) | (part < BOOT))
    levels = (of("height") * torch.where(is_low, LOW, 1.0) / grid.voxel_m + 0.2).round().clamp(min=1)
    ground = _ground_index(place, b, matrix, back, road, grid)[:, None]
    z = torch.arange(grid.shape[2], device=place.device)
    fills = (z >= ground) & (z < ground + levels[:, None])
    body = torch.where(fills, of("class_id")[:, None], FREE).to(torch.uint8)
    moved = torch.stack((of("x", now) - of("x", then), of("y", now) - of("y", then)), 1)
    shift = place.new_zeros(len(solid) * grid.shape[0] * grid.shape[1], 2)
    shift[column] = (back[b, :2, :2] @ moved[..., None])[..., 0]
    return Drawn(column=column, body=body, owner=k, displacement_m=shift.view(len(solid), *grid.shape[:2], 2))


def _ground_index(place: Tensor, b: Tensor, matrix: Tensor, back: Tensor, road: RoadPlane, grid: VoxelGrid) -> Tensor:
    """(N,) height index of the ground voxel at places (N, 2) of the target frames b (N,)."""
    heights = road.heights()
    source = (matrix[b, :2, :2] @ place[..., None])[..., 0] + matrix[b, :2, 3]
    u, v = (
        ((source[:, axis] - grid.lower_m[axis]) / (CELL * grid.voxel_m))
        .floor()
        .long()
        .clamp(0, heights.shape[axis + 1] - 1)
        for axis in (0, 1)
    )
    up = heights[b, u, v]
    height = back[b, 2, 0] * source[:, 0] + back[b, 2, 1] * source[:, 1] + back[b, 2, 2] * up + back[b, 2, 3]
    return ((height - grid.lower_m[2]) / grid.voxel_m).floor().long()
