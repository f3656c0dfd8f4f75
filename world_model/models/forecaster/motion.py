"""Ego motion as the forecaster sees it: a short memory of steps, and the encoder that reads it.

A motion slot describes one step with nine numbers: dx, dy (metres, in the ego frame at the step's start), the relative
rotation as a quaternion (w, x, y, z), and vx, vy (m/s), yaw rate (rad/s) over the step.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from world_model.core.errors import DataError
from world_model.core.geometry import invert_pose, pose_matrix, quat_from_yaw, yaw_from_matrix
from world_model.core.grid import STEP_S

SLOT = 9


class PoseEncoder(nn.Module):
    """Motion memory (B, H, 9) -> plan query (B, 1, C)."""

    def __init__(self, width: int, pose_width: int, history: int) -> None:
        super().__init__()
        self.pose_time_embedding = nn.Parameter(torch.zeros(1, history, pose_width))
        self.plan_input = nn.Sequential(nn.Linear(SLOT, pose_width), nn.ReLU(), nn.Linear(pose_width, pose_width))
        self.plan_encoder = nn.Linear(history * pose_width, width)

    def forward(self, motions: Tensor) -> Tensor:
        steps = self.plan_input(motions) + self.pose_time_embedding
        out: Tensor = self.plan_encoder(steps.flatten(1))[:, None]
        return out


def standing(batch: int, slots: int, device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
    """(B, slots, 9) motion slots of unobserved steps: no motion."""
    slot = torch.zeros(batch, slots, SLOT, device=device, dtype=dtype)
    slot[..., 2] = 1
    return slot


def slot_of(step: Tensor, dt_s: float = STEP_S) -> Tensor:
    """Motion slot (..., 9) of a step given as the next ego frame's pose in the current ego frame (..., 4, 4)."""
    shift, yaw = step[..., :2, 3], yaw_from_matrix(step)
    return torch.cat((shift, quat_from_yaw(yaw), shift / dt_s, yaw[..., None] / dt_s), -1)


def observed_slots(poses: Tensor, slots: int) -> Tensor:
    """Motion memory (B, slots, 9) from observed poses (B, P, 4, 4), ego -> any common frame, oldest to newest."""
    batch, count = poses.shape[:2]
    steps = slot_of(invert_pose(poses[:, :-1]) @ poses[:, 1:])[:, -slots:]
    rest = standing(batch, slots - min(count - 1, slots), poses.device, poses.dtype)
    return torch.cat((rest, steps), 1)


def chosen_motion(motions: Tensor, command: Tensor) -> Tensor:
    """(B, 6) the row of each sample's command out of the ego head's (B, 3, 6).

    Raises:
        RuntimeError: a command outside 0..2 (on a GPU: a device-side assertion).
    """
    # gather, unlike an index, takes no negative number for a place from the end.
    return motions.gather(1, command.view(-1, 1, 1).expand(-1, 1, motions.shape[-1]))[:, 0]


def commands_from_one_hot(rows: Tensor) -> Tensor:
    """Command numbers (...) long from one-hot rows (..., 3): right, left, straight.

    Raises:
        DataError: a row is not one-hot.
    """
    if rows.shape[-1] != 3 or not bool((((rows == 0) | (rows == 1)).all(-1) & (rows.sum(-1) == 1)).all()):
        raise DataError(
            f"commands of shape {tuple(rows.shape)} that are not all one-hot",
            "rows (1, 0, 0) right, (0, 1, 0) left or (0, 0, 1) straight",
            "derive them from the poses with `world_model.data.ego_motion.commands_from_poses`",
        )
    return rows.argmax(-1)


def step_pose(motion: Tensor) -> Tensor:
    """Next ego frame in the current one (B, 4, 4) from the ego head's six numbers (B, 6): dx, dy, quaternion."""
    flat = torch.cat((motion[:, :2], torch.zeros_like(motion[:, :1])), -1)
    return pose_matrix(flat, F.normalize(motion[:, 2:], dim=-1))
