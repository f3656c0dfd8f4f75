"""The ego vehicle's body against the occupancy: collisions, time to collision, drivable ground under the corners.

Poses are (x, y, yaw) of the rear axle in the frame of the labels. Heights count from the local ground: labels are those
of `State.level_labels`. Legend: B environments, S poses, N points, K corners.

How doubtful labels are dealt with
    Label grids flicker and have gaps. So a contact needs several obstacle voxels whose centres lie inside the body;
    a corner is off the road only where there is known non-drivable ground and no drivable ground within a tolerance,
    while unknown ground is no violation; and whatever overlaps the place where the ego stood at reset is ignored for
    the whole episode, because a vehicle that really stood there could not have touched anything.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from world_model.core.geometry import into, transform
from world_model.core.grid import (
    DRIVEABLE,
    EGO_LENGTH_M,
    EGO_REAR_OVERHANG_M,
    EGO_WIDTH_M,
    FREE,
    GROUND,
    OBSTACLE,
    VoxelGrid,
)
from world_model.core.sparse import member, members_between

FRONT_M = EGO_LENGTH_M - EGO_REAR_OVERHANG_M
CENTER_M = (FRONT_M - EGO_REAR_OVERHANG_M) / 2
"""Middle of the body ahead of the rear axle."""


@dataclass(frozen=True, kw_only=True)
class FootprintConfig:
    """What counts as touching something.

    Args:
        band_m: heights (low, high) in metres above the ground between which a voxel centre can be hit.
        min_voxels: obstacle voxels inside the body from which on it is a contact.
        rear_zone_m: contacts only within so many metres of the rear bumper are not the ego's fault.
        struck_excused: nor are those of movers that run into the ego from behind, see `ii_world_env.ego.fault`.
        spawn_margin_m: the body at reset, grown by this, is where labels are not believed.
        ground_top_m: ground labels this far above the mean ground around them are not the ego's ground.
        ground_reach_m: radius around a corner within which drivable ground excuses it.
    """

    band_m: tuple[float, float] = (0.3, 1.9)
    min_voxels: int = 3
    rear_zone_m: float = 1.0
    struck_excused: bool = True
    spawn_margin_m: float = 0.4
    ground_top_m: float = 1.4
    ground_reach_m: float = 0.8


def columns_at(labels: Tensor, points: Tensor, grid: VoxelGrid, fill: int = FREE) -> Tensor:
    """Columns (B, N, Z) of labels (B, X, Y, Z) above points (B, N, 2), metres; ``fill`` outside the grid."""
    flat, inside = cells_at(points, grid)
    row = torch.arange(len(labels), device=labels.device)[:, None]
    found = labels.reshape(len(labels), grid.shape[0] * grid.shape[1], -1)[row, flat]
    return torch.where(inside[..., None], found, torch.full_like(found[:1, :1], fill))


def cells_at(points: Tensor, grid: VoxelGrid) -> tuple[Tensor, Tensor]:
    """Positions x * Y + y (...) int64 of the columns below points (..., 2), clamped, and whether they are inside."""
    size_x, size_y = grid.shape[:2]
    low = torch.tensor(grid.lower_m[:2], dtype=points.dtype, device=points.device)
    i, j = ((points - low) / grid.voxel_m).floor().long().unbind(-1)
    inside = (i >= 0) & (i < size_x) & (j >= 0) & (j < size_y)
    return i.clamp(0, size_x - 1) * size_y + j.clamp(0, size_y - 1), inside


def contacts(labels: Tensor, poses: Tensor, home: Tensor, grid: VoxelGrid, config: FootprintConfig) -> Tensor:
    """Obstacle voxels inside the body, without its rear zone and without the place of the reset.

    Args:
        labels: (B, X, Y, Z) class ids.
        poses: (B, S, 3) in the frame of the labels.
        home: (B, 3) the start frame, seen from the frame of the labels.

    Returns:
        (B, S) int64 numbers of voxels whose centres lie inside.
    """
    cells = _cells_around(poses, grid)
    batch, steps, count = cells.shape[:3]
    body = into(poses, cells)
    inside = in_body(body, 0.0) & (body[..., 0] > config.rear_zone_m - EGO_REAR_OVERHANG_M)
    flat = cells.reshape(batch, steps * count, 2)
    believed = ~in_body(into(home, flat), config.spawn_margin_m).view(batch, steps, count)
    low, high = band(config.band_m, grid)
    solid = member(columns_at(labels[..., low:high], flat, grid), OBSTACLE).sum(-1).view(batch, steps, count)
    return (solid * (inside & believed)).sum(-1)


def off_road(
    labels: Tensor, ground: Tensor, poses: Tensor, home: Tensor, grid: VoxelGrid, config: FootprintConfig
) -> Tensor:
    """Whether any corner of the body stands on ground that is known not to be drivable.

    Args:
        labels: (B, X, Y, Z) class ids.
        ground: (B, X, Y) int8 votes of `ground_votes` in the start frame.
        poses: (B, S, 3) in the frame of the labels.
        home: (B, 3) the start frame, seen from the frame of the labels.

    Returns:
        (B, S) bool.
    """
    batch, steps = poses.shape[:2]
    corners = transform(poses, _corners(poses))
    around = _disc(config.ground_reach_m, grid.voxel_m, poses)
    points = (corners[:, :, :, None] + around).view(batch, -1, 2)
    kinds = ground_at(labels, ground, points, home, grid, config)
    drivable, other = (kind.view(batch, steps, 4, len(around)).any(-1) for kind in kinds)
    at_home = in_body(into(home, corners.view(batch, -1, 2)), config.spawn_margin_m).view(batch, steps, 4)
    return (other & ~drivable & ~at_home).any(-1)


def ground_at(
    labels: Tensor, ground: Tensor, points: Tensor, home: Tensor, grid: VoxelGrid, config: FootprintConfig
) -> tuple[Tensor, Tensor]:
    """What is known about the ground at points (B, N, 2); other arguments as in `off_road`.

    Returns:
        (B, N) bool, there is drivable ground; (B, N) bool, there is other ground. Both, or neither, may hold.
    """
    top = band((-math.inf, config.ground_top_m), grid)[1]
    column = columns_at(labels[..., :top], points, grid)
    votes = columns_at(ground[..., None], into(home, points), grid, fill=0)[..., 0]
    drivable = member(column, (DRIVEABLE,)).any(-1) | (votes > 0)
    return drivable, member(column, GROUND[1:]).any(-1) | (votes < 0)


def solid_columns(labels: Tensor, grid: VoxelGrid, config: FootprintConfig) -> Tensor:
    """Obstacle voxels as high as the body in every column: labels (B, X, Y, Z) -> (B, X, Y) uint8."""
    return members_between(labels, OBSTACLE, *band(config.band_m, grid))


def ground_votes(labels: Tensor, grid: VoxelGrid, config: FootprintConfig) -> Tensor:
    """Ground of every column: (B, X, Y, Z) labels -> (B, X, Y) int8, 1 drivable, -1 other ground, 0 unknown."""
    low = labels[..., : band((-math.inf, config.ground_top_m), grid)[1]]
    drivable, other = member(low, (DRIVEABLE,)).any(-1), member(low, GROUND[1:]).any(-1)
    return drivable.to(torch.int8) - (other & ~drivable).to(torch.int8)


def band(heights_m: tuple[float, float], grid: VoxelGrid) -> tuple[int, int]:
    """Range of z indices whose voxel centres lie between two heights in metres."""
    inside = [
        k for k in range(grid.shape[2]) if heights_m[0] <= grid.lower_m[2] + (k + 0.5) * grid.voxel_m <= heights_m[1]
    ]
    return (inside[0], inside[-1] + 1) if inside else (0, 0)


def in_body(points: Tensor, margin_m: float) -> Tensor:
    """Whether points (..., 2) of the ego frame lie in the body grown by a margin."""
    x, y = points.unbind(-1)
    return ((x - CENTER_M).abs() <= EGO_LENGTH_M / 2 + margin_m) & (y.abs() <= EGO_WIDTH_M / 2 + margin_m)


def _cells_around(poses: Tensor, grid: VoxelGrid) -> Tensor:
    """Centres (B, S, N, 2) of all cells that a body at the poses can reach into."""
    low = torch.tensor(grid.lower_m[:2], dtype=poses.dtype, device=poses.device)
    middle = transform(poses, poses.new_tensor([[CENTER_M, 0.0]]).expand(*poses.shape[:2], 1, 2))
    reach = math.ceil(math.hypot(EGO_LENGTH_M, EGO_WIDTH_M) / 2 / grid.voxel_m)
    offset = torch.arange(-reach, reach + 1, device=poses.device)
    window = torch.stack(torch.meshgrid(offset, offset, indexing="ij"), -1).view(-1, 2)
    cell = ((middle - low) / grid.voxel_m).floor() + window
    return low + (cell + 0.5) * grid.voxel_m


def _corners(poses: Tensor) -> Tensor:
    half, rear = EGO_WIDTH_M / 2, -EGO_REAR_OVERHANG_M
    corners = poses.new_tensor([[FRONT_M, half], [FRONT_M, -half], [rear, half], [rear, -half]])
    return corners.expand(*poses.shape[:2], 4, 2)


def _disc(radius_m: float, voxel_m: float, like: Tensor) -> Tensor:
    """Offsets (N, 2) of whole voxels within a radius."""
    reach = int(radius_m / voxel_m + 1e-6)
    steps = range(-reach, reach + 1)
    inside = [(i * voxel_m, j * voxel_m) for i in steps for j in steps if math.hypot(i, j) * voxel_m <= radius_m + 1e-6]
    return like.new_tensor(inside)
