"""Between ego motions and what OccWorld reads and writes of them: displacements to the right and forward, in metres.

A displacement is that of one point of the car, `OccWorldConfig.lever_m` ahead of the ego frame's origin.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from world_model.core.geometry import invert_pose, se2_matrix
from world_model.models.occworld.config import COMMANDS, OccWorldConfig

LEAST_FORWARD_M = 0.1
"""Below this the heading stays: there is no arc to read it from."""


def displacement_of(curr_to_next: Tensor, lever_m: float) -> Tensor:
    """(..., 2) metres to the right and forward, in the current frame.

    Args:
        curr_to_next: (..., 4, 4) points of the current ego frame -> the next one.
        lever_m: see above.
    """
    step = invert_pose(curr_to_next)
    forward = step[..., 0, 3] + lever_m * (step[..., 0, 0] - 1)
    left = step[..., 1, 3] + lever_m * step[..., 1, 0]
    return torch.stack((-left, forward), -1)


def motion_of(displacement: Tensor, lever_m: float) -> Tensor:
    """(..., 4, 4) curr_to_next of a displacement (..., 2), whose heading follows an arc of constant curvature."""
    left, forward = -displacement[..., 0], displacement[..., 1]
    # A chord c of an arc that turns by 2 h displaces the point by c (cos h, sin h) + 2 lever sin h (-sin h, cos h).
    half = torch.atan2(left, forward + 2 * lever_m)
    yaw = torch.where(forward > LEAST_FORWARD_M, 2 * half, torch.zeros_like(half))
    x, y = forward - lever_m * (yaw.cos() - 1), left - lever_m * yaw.sin()
    return invert_pose(se2_matrix(x, y, yaw))


def pose_inputs(displacement: Tensor, command: Tensor) -> Tensor:
    """(..., 5) of displacements (..., 2) and commands (...) long: 0 right, 1 left, 2 straight."""
    return torch.cat((displacement, F.one_hot(command, COMMANDS).to(displacement.dtype)), -1)


def inside_cells(curr_to_next: Tensor, config: OccWorldConfig) -> Tensor:
    """(B, h, w) bool: cells of the next frame whose centre lay inside the grid of the current one.

    Args:
        curr_to_next: (B, 4, 4).
        config: of the grid.
    """
    rows, columns = config.latent_shape
    low, cell_m = config.grid.lower_m, config.codec.cell_m
    device = curr_to_next.device
    step = invert_pose(curr_to_next.float())[..., None, None]
    x = low[0] + cell_m * (torch.arange(rows, dtype=torch.float32, device=device)[:, None] + 0.5)
    y = low[1] + cell_m * (torch.arange(columns, dtype=torch.float32, device=device) + 0.5)
    inside = torch.ones(len(step), rows, columns, dtype=torch.bool, device=device)
    for axis, size in ((0, rows), (1, columns)):
        at = (step[:, axis, 0] * x + step[:, axis, 1] * y + step[:, axis, 3] - low[axis]) / cell_m
        inside &= (at >= 0) & (at < size)
    return inside
