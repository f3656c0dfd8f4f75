"""What the others do, read off two occupancies: the present one and the one a step earlier, moved by the ego's motion.

Whatever differs between them has moved by itself. In a world that stands still all of it is zero up to the rounding of
voxels. Nothing is learned, and no tracks are needed, so that the same numbers can be read in every world.

Legend: B environments, R rays, N samples.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ii_world_env.ego.corridor import LOOK_M, NOTHING_M, corridor, free_way
from ii_world_env.ego.footprint import FootprintConfig, cells_at, in_body
from ii_world_env.observations.features import RAYS, first, ray_distances, ray_points, sight
from ii_world_env.state.state import State
from world_model.core.geometry import into, relative, transform
from world_model.core.grid import STEP_S, VoxelGrid
from world_model.core.vehicle import MAX_SPEED_MPS

CHANGE_BOUND_M = MAX_SPEED_MPS * STEP_S
TRAFFIC = (*(f"change_{360 // RAYS * ray}_deg_m" for ray in range(RAYS)), "gap_m", "leader_mps")
"""How much farther each ray reaches than a step ago by the motion of others alone (nearer is negative); the free way
along the route ahead of the bumper; the speed along it of what ends it (20 where nothing does, 0 where nothing did a
step ago)."""
TRAFFIC_BOUNDS = (*[(-CHANGE_BOUND_M, CHANGE_BOUND_M)] * RAYS, (0.0, LOOK_M), (-MAX_SPEED_MPS, MAX_SPEED_MPS))


def traffic(state: State, solid: Tensor, free: Tensor, grid: VoxelGrid, config: FootprintConfig) -> Tensor:
    """`TRAFFIC` of B environments: (B, 26) float32, within `TRAFFIC_BOUNDS`.

    Args:
        solid: (B, X, Y) of `solid_columns` of the present occupancy.
        free: (B, R) of `free_distances` of it.
    """
    if state.solid_before is None or state.pose_before is None:
        pose, before = torch.full_like(state.pose, float("nan")), solid
    else:
        pose, before = state.pose_before, state.solid_before
    known = ~pose[:, :1].isnan()
    pose = torch.where(known, pose, state.pose)
    change = ray_changes(free, before, relative(pose, state.pose), grid)
    way = corridor(state.route, state.progress_m, grid.voxel_m)
    # What stood in the ego's own place at reset is label noise for the engine, too.
    believed = ~in_body(way, config.spawn_margin_m)
    gap, earlier = (
        way_ahead(columns, at, way, believed, grid) for columns, at in ((solid, state.pose), (before, pose))
    )
    both = (gap < NOTHING_M) & (earlier < NOTHING_M) & known[:, 0]
    leader = ((gap - earlier) / STEP_S).clamp(-MAX_SPEED_MPS, MAX_SPEED_MPS) * both
    leader = torch.where(gap < NOTHING_M, leader, MAX_SPEED_MPS)
    return torch.cat((change * known, gap[:, None].clamp(max=LOOK_M), leader[:, None]), 1)


def ray_changes(free: Tensor, before: Tensor, motion: Tensor, grid: VoxelGrid) -> Tensor:
    """(B, R) metres by which rays reach farther now than through the columns of a step ago, as far as both are known.

    Args:
        free: (B, R) of `free_distances` now.
        before: (B, X, Y) of `solid_columns` a step ago, in the ego frame of then.
        motion: (B, 3) the present pose in that frame.
    """
    distance = ray_distances(grid, before.device)
    points = ray_points(distance)
    at = transform(motion, points.view(1, -1, 2))
    flat, inside = cells_at(at, grid)
    hit = (before.flatten(1).gather(1, flat) > 0) & ~(in_body(points, 0.0).view(1, -1) | in_body(at, 0.0)) & inside
    shape = len(motion), *points.shape[:2]
    then, edge = first(hit.view(shape), distance), first(~inside.view(shape), distance)
    common = torch.minimum(sight(grid, before.device).edge_m, edge)
    return (torch.minimum(free, common) - torch.minimum(then, common)).clamp(-CHANGE_BOUND_M, CHANGE_BOUND_M)


def way_ahead(solid: Tensor, pose: Tensor, way: Tensor, believed: Tensor, grid: VoxelGrid) -> Tensor:
    """(B,) `free_way` through columns (B, X, Y) that were seen from a pose.

    Args:
        pose: (B, 3) start frame. way: (B, L, W, 2) of `corridor`. believed: (B, L, W) bool, where obstacles count.
    """
    flat, inside = cells_at(into(pose, way.flatten(1, 2)), grid)
    found = (solid.flatten(1).gather(1, flat) * inside).view(way.shape[:3])
    return free_way(found * believed, grid.voxel_m)
