"""The way along the route that the body will sweep, and how far it is free: what a follower keeps its distance in.

Legend: B environments, L rows across the way, W points of a row.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ii_world_env.ego.footprint import FRONT_M
from ii_world_env.ego.route import Route, points_at
from world_model.core.grid import EGO_WIDTH_M

LOOK_M = 34.0
SIDE_M = 0.2
MIN_VOXELS = 3
NOTHING_M = 100.0
"""Gap where the whole way is free."""


def corridor(
    route: Route, progress_m: Tensor, voxel_m: float, look_m: float = LOOK_M, side_m: float = SIDE_M
) -> Tensor:
    """Points (B, L, W, 2) of the way ahead of the front bumper, start frame, one row for each voxel's length.

    Args:
        progress_m: (B,) arc length of the rear axle.
        look_m: length of the way.
        side_m: free width wanted on each side of the body.
    """
    ahead = _ahead(look_m, voxel_m, progress_m)
    at = progress_m[:, None] + FRONT_M + ahead
    middle, following = points_at(route, at), points_at(route, at + 0.5)
    along = F.normalize(following - middle, dim=-1)
    left = torch.stack((-along[..., 1], along[..., 0]), -1)
    half = EGO_WIDTH_M / 2 + side_m
    aside = torch.linspace(-half, half, int(2 * half / voxel_m) + 2, dtype=torch.float32, device=left.device)
    return middle[:, :, None] + left[:, :, None] * aside[:, None]


def free_way(solid: Tensor, voxel_m: float, look_m: float = LOOK_M, min_voxels: int = MIN_VOXELS) -> Tensor:
    """(B,) metres from the front bumper to what blocks the way; `NOTHING_M` if nothing does.

    Args:
        solid: (B, L, W) numbers of obstacle voxels above the points of `corridor`.
        min_voxels: so many within a metre of the way block it.
    """
    ahead, reach = _ahead(look_m, voxel_m, solid), max(1, round(1.0 / voxel_m))
    total = solid.sum(-1).cumsum(1)
    blocked = total - F.pad(total, (reach, 0))[:, :-reach] >= min_voxels
    return torch.where(blocked, ahead - 1.0, torch.full_like(ahead, NOTHING_M)).amin(1).clamp(min=0.0)


def _ahead(look_m: float, voxel_m: float, like: Tensor) -> Tensor:
    return torch.arange(0.0, look_m, voxel_m, dtype=torch.float32, device=like.device)
