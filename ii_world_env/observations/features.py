"""Low-dimensional features read off the occupancy: how far it is free, how wide the road is, what is nearest.

They stay within some forty numbers, so that small networks, tree searches and off-policy agents with large replay
buffers can use them. Everything is geometry in metres of the ego frame; nothing is learned.

Legend: B environments, R rays, N points.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ii_world_env.ego.footprint import CENTER_M, FootprintConfig, ground_at, in_body, obstacles_at
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


def features(state: State, grid: VoxelGrid, config: FootprintConfig) -> Tensor:
    """`FEATURES` of B environments: (B, 33) float32, within `FEATURE_BOUNDS`."""
    home = inverse(state.pose)
    parts = (
        free_distances(state.labels, grid, config),
        road_margins(state.labels, state.ground, home, grid, config),
        nearest_obstacle(state.labels, grid, config),
        beside_route(state),
    )
    return torch.cat(parts, 1)


def free_distances(labels: Tensor, grid: VoxelGrid, config: FootprintConfig) -> Tensor:
    """How far each ray reaches before an obstacle: (B, R) metres from the middle of the body, at most 40.

    Rays are sampled every half voxel; what lies inside the body itself is not seen.
    """
    step = grid.voxel_m / 2
    distance = step * torch.arange(1, int(REACH_M / step) + 1, dtype=torch.float32, device=labels.device)
    angle = torch.arange(RAYS, dtype=torch.float32, device=labels.device) * (2 * math.pi / RAYS)
    rays = torch.stack((angle.cos(), angle.sin()), -1)[:, None] * distance[:, None]
    points = (rays + rays.new_tensor((CENTER_M, 0.0))).view(1, -1, 2).expand(len(labels), -1, 2)
    hit = obstacles_at(labels, points, grid, config) & ~in_body(points, 0.0)
    return _first(hit.view(len(labels), RAYS, -1), distance, REACH_M)


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
    return _first((other & ~drivable).view(len(labels), len(places), -1), distance, ROAD_REACH_M)


def nearest_obstacle(labels: Tensor, grid: VoxelGrid, config: FootprintConfig) -> Tensor:
    """Distance, x, y (B, 3) of the nearest obstacle column from the middle of the body; (40, 40, 0) without any."""
    low = torch.tensor(grid.lower_m[:2], dtype=torch.float32, device=labels.device)
    reach = [
        low[axis] + grid.voxel_m * (torch.arange(grid.shape[axis], dtype=torch.float32, device=labels.device) + 0.5)
        for axis in range(2)
    ]
    cells = torch.stack(torch.meshgrid(*reach, indexing="ij"), -1).view(1, -1, 2)
    away = cells - cells.new_tensor((CENTER_M, 0.0))
    there = obstacles_at(labels, cells.expand(len(labels), -1, 2), grid, config) & ~in_body(cells, 0.0)
    distance = torch.where(there, away.norm(dim=-1), math.inf)
    least, cell = distance.min(1)
    none = least > REACH_M
    place = torch.where(none[:, None], away.new_tensor((REACH_M, 0.0)), away[0, cell])
    return torch.cat((least.clamp(max=REACH_M)[:, None], place), 1)


def beside_route(state: State) -> Tensor:
    """Offset from the route in metres (left positive) and heading against it in rad, (B, 2)."""
    along, lateral = project(state.route, state.pose[:, :2], state.progress_m)
    near, far = points_at(state.route, torch.stack((along, along + 1.0), 1)).unbind(1)
    direction = far - near
    turn = state.pose[:, 2] - torch.atan2(direction[:, 1], direction[:, 0])
    heading = torch.atan2(turn.sin(), turn.cos())
    return torch.stack((lateral.clamp(-LATERAL_BOUND_M, LATERAL_BOUND_M), heading), 1)


def _first(hit: Tensor, distance: Tensor, reach: float) -> Tensor:
    """Distance (B, R) of the first hit along each of (B, R, N) samples; ``reach`` where there is none."""
    first = distance[hit.byte().argmax(-1)]
    return torch.where(hit.any(-1), first, torch.full_like(first, reach))
