"""What an agent sees, as batched tensors.

Legend: B environments, W x H cells of the compact bird's-eye map, N route points.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from ii_world_env.actions import MAX_SPEED_MPS
from ii_world_env.footprint import band
from ii_world_env.planar import into
from ii_world_env.route import points_at
from world_model.grid import FREE, NUM_CLASSES, VoxelGrid

if TYPE_CHECKING:
    from ii_world_env.engine import State

PRIORITY = (FREE, 11, 12, 14, 13, 0, 16, 15, 9, 10, 5, 3, 4, 1, 6, 2, 8, 7)
"""Which class a cell shows when it holds several, the last wins: ground, structures, vehicles, the small."""
CLEARANCE_M = 3.0
"""Voxels above this height do not concern a car and would hide what is under them (tree crowns, bridges)."""
POOL = 2
"""Voxels per cell of the bird's-eye map along x and y."""
ROUTE_POINTS = 8
ROUTE_SPACING_M = 4.0
ROUTE_BOUND_M = 80.0
EGO_FIELDS = ("speed_mps", "yaw_rate_rps", "accel_mps2", "route_left_m")
EGO_BOUNDS = (MAX_SPEED_MPS, 2.0, 20.0, 200.0)
"""Bounds of `EGO_FIELDS`; values are clipped to them."""

_RANK = torch.tensor([PRIORITY.index(c) for c in range(NUM_CLASSES)], dtype=torch.uint8)


def bev(labels: Tensor, grid: VoxelGrid) -> Tensor:
    """Compact map of classes from above.

    Args:
        labels: (B, X, Y, Z) class ids.

    Returns:
        (B, X/2, Y/2) uint8 class ids, axis 1 forward and axis 2 left; 17 (free) where nothing is known.
    """
    top = band((-1e9, CLEARANCE_M), grid)[1]
    rank = _RANK.to(labels.device)[labels[..., :top].int()].amax(-1)
    # Ranks up to 17 are exact in float; max pooling has no integer kernel.
    pooled = F.max_pool2d(rank[:, None].float(), POOL)[:, 0]
    return torch.tensor(PRIORITY, dtype=torch.uint8, device=labels.device)[pooled.int()]


def ego(state: State) -> Tensor:
    """The ego's own motion: (B, 4 + A) float32, `EGO_FIELDS` and then the last action."""
    left = (state.route.goal_m - state.progress_m).clamp(min=0)
    values = torch.stack((state.speed_mps, state.yaw_rate_rps, state.accel_mps2, left), -1)
    bound = values.new_tensor(EGO_BOUNDS)
    return torch.cat((torch.minimum(torch.maximum(values, -bound), bound), state.last_action), -1)


def route(state: State) -> Tensor:
    """The route ahead: (B, 2 N) float32, x and y in metres of points 4, 8, ... 32 m ahead, in the ego frame."""
    ahead = torch.arange(1, ROUTE_POINTS + 1, device=state.pose.device) * ROUTE_SPACING_M
    points = points_at(state.route, state.progress_m[:, None] + ahead)
    return into(state.pose, points).flatten(1).clamp(-ROUTE_BOUND_M, ROUTE_BOUND_M)
