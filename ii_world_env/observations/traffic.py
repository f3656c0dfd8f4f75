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
from ii_world_env.observations.features import RAYS, REACH_M, ray_distances, ray_points
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


def traffic(state: State, solid: Tensor, grid: VoxelGrid, config: FootprintConfig) -> Tensor:
    """`TRAFFIC` of B environments: (B, 26) float32, within `TRAFFIC_BOUNDS`.

    Args:
        solid: (B, X, Y) of `solid_columns` of the present occupancy.
    """
    if state.solid_before is None or state.pose_before is None:
        pose, before = torch.full_like(state.pose, float("nan")), solid
    else:
        pose, before = state.pose_before, state.solid_before
    known = ~pose[:, :1].isnan()
    pose = torch.where(known, pose, state.pose)
    change = ray_changes(solid, before, relative(pose, state.pose), grid)
    gap = way_ahead(state, solid, state.pose, grid, config)
    earlier = way_ahead(state, before, pose, grid, config)
    both = (gap < NOTHING_M) & (earlier < NOTHING_M) & known[:, 0]
    leader = ((gap - earlier) / STEP_S).clamp(-MAX_SPEED_MPS, MAX_SPEED_MPS) * both
    leader = torch.where(gap < NOTHING_M, leader, MAX_SPEED_MPS)
    return torch.cat((change * known, gap[:, None].clamp(max=LOOK_M), leader[:, None]), 1)


def ray_changes(solid: Tensor, before: Tensor, motion: Tensor, grid: VoxelGrid) -> Tensor:
    """(B, R) metres by which rays reach farther now than through the columns of a step ago, as far as both are known.

    Args:
        solid, before: (B, X, Y) of `solid_columns`, each in the ego frame of its time.
        motion: (B, 3) the present pose in the earlier ego frame.
    """
    distance = ray_distances(grid, solid.device)
    points = ray_points(distance)
    earlier = transform(motion, points.view(1, -1, 2)).view(len(motion), *points.shape)
    reaches = []
    for columns, at in ((solid, points[None]), (before, earlier)):
        flat, inside = cells_at(at, grid)
        hit = columns.flatten(1).gather(1, flat.expand(len(columns), -1, -1).flatten(1)).view(earlier.shape[:3]) > 0
        hit = hit & ~in_body(points, 0.0) & ~in_body(at, 0.0) & inside
        reaches.append((_nearest(hit, distance), _nearest(~inside, distance)))
    (now, edge), (then, edge_then) = reaches
    common = torch.minimum(edge, edge_then)
    return (torch.minimum(now, common) - torch.minimum(then, common)).clamp(-CHANGE_BOUND_M, CHANGE_BOUND_M)


def way_ahead(state: State, solid: Tensor, pose: Tensor, grid: VoxelGrid, config: FootprintConfig) -> Tensor:
    """(B,) `free_way` ahead of the present place, through columns (B, X, Y) seen from a pose (B, 3), start frame."""
    way = corridor(state.route, state.progress_m, grid.voxel_m)
    flat, inside = cells_at(into(pose, way.flatten(1, 2)), grid)
    found = solid.flatten(1).gather(1, flat) * inside
    # What stood in the ego's own place at reset is label noise for the engine, too.
    found = found * ~in_body(way.flatten(1, 2), config.spawn_margin_m)
    return free_way(found.view(way.shape[:3]), grid.voxel_m)


def _nearest(hit: Tensor, distance: Tensor) -> Tensor:
    """Distance (B, R) of the first of (B, R, N) samples that hit; `REACH_M` where none does."""
    return distance[hit.byte().argmax(-1)].masked_fill(~hit.any(-1), REACH_M)
