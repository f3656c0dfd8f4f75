"""Low-dimensional features read off the occupancy: how far it is free, how wide the road is, what is nearest.

With the ego's motion and the route they are 55 numbers (actions of two numbers), so that small networks, tree searches
and off-policy agents with large replay buffers can use them. Everything is geometry in metres of the ego frame; nothing
is learned.

Legend: B environments, R rays, N points.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from ii_world_env.ego.footprint import CENTER_M, FootprintConfig, cells_at, ground_at, in_body
from ii_world_env.ego.route import points_at, project
from ii_world_env.state.state import State
from world_model.core.geometry import inverse
from world_model.core.grid import EGO_WIDTH_M, VoxelGrid

RAYS = 24
"""Rays from the middle of the body, every 15 degrees, the first straight ahead, then to the left."""
REACH_M = 40.0
ROAD_REACH_M = 10.0
STATIONS_M = (0.0, 8.0)
"""Where the width of the road is measured, ahead of the middle of the body."""
ROAD_STEP_M = 0.2
LATERAL_BOUND_M = 20.0

FEATURES = (
    *(f"free_{360 // RAYS * ray}_deg_m" for ray in range(RAYS)),
    *(f"road_{side}_{station:.0f}_m" for station in STATIONS_M for side in ("left", "right")),
    "nearest_m",
    "nearest_x_m",
    "nearest_y_m",
    "lateral_m",
    "heading_rad",
)
"""Free distance along each ray; metres of drivable ground beside the body, beside it and 8 m ahead; distance and place
of the nearest obstacle from the middle of the body; offset from the route (left positive) and heading against it."""
FEATURE_BOUNDS = (
    *[(0.0, REACH_M)] * RAYS,
    *[(0.0, ROAD_REACH_M)] * (2 * len(STATIONS_M)),
    (0.0, REACH_M),
    (-REACH_M, REACH_M),
    (-REACH_M, REACH_M),
    (-LATERAL_BOUND_M, LATERAL_BOUND_M),
    (-math.pi, math.pi),
)


@dataclass(frozen=True, kw_only=True)
class Sight:
    """What of the features does not change: which columns lie along the rays, and how far each column is.

    Attributes:
        ray: (R, N) int64 columns x * Y + y along each ray, each once, without those inside the body.
        ray_m: (R, N) where a ray enters them, metres from the middle of the body; `REACH_M` for what only fills up.
        edge_m: (R,) where each ray leaves the grid; `REACH_M` where it does not.
        rank: (X * Y) int32 number of each column from the nearest on; more than all where it is out of reach.
        place: (M + 1, 3) distance, x, y of the column of each rank; the last is out of reach.
    """

    ray: Tensor
    ray_m: Tensor
    edge_m: Tensor
    rank: Tensor
    place: Tensor


@lru_cache(maxsize=8)
def sight(grid: VoxelGrid, device: torch.device) -> Sight:
    """The tables of a grid."""
    distance = ray_distances(grid, device)
    points = ray_points(distance)
    flat, inside = cells_at(points, grid)
    # Only the first sample in a column can be the first hit.
    new = inside & ~in_body(points, 0.0)
    new[:, 1:] &= (flat[:, 1:] != flat[:, :-1]) | ~new[:, :-1]
    order = (~new).int().argsort(dim=1, stable=True)[:, : int(new.sum(1).max())]
    ray_m = torch.where(new, distance, REACH_M).gather(1, order)
    axes = [
        torch.tensor(grid.lower_m[axis], dtype=torch.float32, device=device)
        + grid.voxel_m * (torch.arange(grid.shape[axis], dtype=torch.float32, device=device) + 0.5)
        for axis in range(2)
    ]
    cells = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).view(-1, 2)
    away = cells - cells.new_tensor((CENTER_M, 0.0))
    far = torch.where(in_body(cells, 0.0), math.inf, away.norm(dim=-1))
    nearest = far.argsort(stable=True)[: int((far <= REACH_M).sum())]
    rank = torch.full_like(far, len(nearest), dtype=torch.int32)
    rank[nearest] = torch.arange(len(nearest), dtype=torch.int32, device=device)
    none = away.new_tensor([[REACH_M, REACH_M, 0.0]])
    return Sight(
        ray=flat.gather(1, order),
        ray_m=ray_m,
        edge_m=first(~inside, distance),
        rank=rank,
        place=torch.cat((torch.cat((far[nearest, None], away[nearest]), 1), none)),
    )


def ray_distances(grid: VoxelGrid, device: torch.device) -> Tensor:
    """Distances (N,) at which rays are sampled: every half voxel up to the reach, metres."""
    step = grid.voxel_m / 2
    return step * torch.arange(1, int(REACH_M / step) + 1, dtype=torch.float32, device=device)


def ray_points(distance: Tensor) -> Tensor:
    """Points (R, N, 2) of the rays at distances (N,) from the middle of the body, ego frame."""
    angle = torch.arange(RAYS, dtype=torch.float32, device=distance.device) * (2 * math.pi / RAYS)
    rays = torch.stack((angle.cos(), angle.sin()), -1)[:, None] * distance[:, None]
    return rays + rays.new_tensor((CENTER_M, 0.0))


def features(state: State, solid: Tensor, grid: VoxelGrid, config: FootprintConfig) -> Tensor:
    """`FEATURES` of B environments: (B, 33) float32, within `FEATURE_BOUNDS`.

    Args:
        solid: (B, X, Y) of `solid_columns` of the state's occupancy.
    """
    parts = (
        free_distances(solid, grid),
        road_margins(state.level_labels, state.ground, inverse(state.pose), grid, config),
        nearest_obstacle(solid, grid),
        beside_route(state),
    )
    return torch.cat(parts, 1)


def free_distances(solid: Tensor, grid: VoxelGrid) -> Tensor:
    """How far each ray reaches before an obstacle: (B, R) metres from the middle of the body, at most 40.

    Rays are sampled every half voxel; what lies inside the body itself is not seen.

    Args:
        solid: (B, X, Y) of `solid_columns`.
    """
    table = sight(grid, solid.device)
    hit = solid.flatten(1).index_select(1, table.ray.view(-1)).view(-1, *table.ray.shape) > 0
    return torch.where(hit, table.ray_m, REACH_M).amin(-1)


def road_margins(labels: Tensor, ground: Tensor, home: Tensor, grid: VoxelGrid, config: FootprintConfig) -> Tensor:
    """Metres of road beside the body: (B, 4), left and right beside its middle, left and right 8 m ahead.

    Measured from the side of the body to the first known ground that is not drivable; unknown ground is road.
    """
    distance = ROAD_STEP_M * torch.arange(
        1, int(ROAD_REACH_M / ROAD_STEP_M) + 1, dtype=torch.float32, device=labels.device
    )
    places = [
        torch.stack((torch.full_like(distance, CENTER_M + station), side * (EGO_WIDTH_M / 2 + distance)), -1)
        for station in STATIONS_M
        for side in (1, -1)
    ]
    points = torch.cat(places)[None].expand(len(labels), -1, 2)
    drivable, other = ground_at(labels, ground, points, home, grid, config)
    return first((other & ~drivable).view(len(labels), len(places), -1), distance, ROAD_REACH_M)


def nearest_obstacle(solid: Tensor, grid: VoxelGrid) -> Tensor:
    """Distance, x, y (B, 3) of the nearest obstacle column from the middle of the body; (40, 40, 0) without any.

    Args:
        solid: (B, X, Y) of `solid_columns`.
    """
    table = sight(grid, solid.device)
    # Free columns get all bits set, and so the highest rank; `torch.where` takes four times as long.
    rank = (solid.flatten(1) == 0).int().neg_().bitwise_or_(table.rank).bitwise_and_(2**31 - 1).amin(1)
    return table.place[rank.clamp_(max=len(table.place) - 1)]


def beside_route(state: State) -> Tensor:
    """Offset from the route in metres (left positive) and heading against it in rad, (B, 2)."""
    along, lateral = project(state.route, state.pose[:, :2], state.progress_m)
    near, far = points_at(state.route, torch.stack((along, along + 1.0), 1)).unbind(1)
    direction = far - near
    turn = state.pose[:, 2] - torch.atan2(direction[:, 1], direction[:, 0])
    heading = torch.atan2(turn.sin(), turn.cos())
    return torch.stack((lateral.clamp(-LATERAL_BOUND_M, LATERAL_BOUND_M), heading), 1)


def first(hit: Tensor, distance: Tensor, reach: float = REACH_M) -> Tensor:
    """Distance (..., R) of the first hit along each of (..., R, N) samples; ``reach`` where there is none."""
    return distance[hit.byte().argmax(-1)].masked_fill(~hit.any(-1), reach)
