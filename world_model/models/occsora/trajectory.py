"""A drive as OccSora is told it: two numbers per keyframe. What they are, the release does not say."""

from __future__ import annotations

import torch
from torch import Tensor

from world_model.core.geometry import invert_pose
from world_model.models.occsora.config import SoraTransformerConfig
from world_model.models.occworld.motion import displacement_of

LIDAR_X_M = 0.94
"""The LiDAR of nuScenes stands so far ahead of the ego frame's origin, x to the right and y forward."""


def lidar_steps(ego_to_global: Tensor) -> Tensor:
    """Where the LiDAR is at the next keyframe, in the LiDAR frame of each: x right, y forward, metres.

    Args:
        ego_to_global: (B, F, 4, 4).

    Returns:
        (B, F, 2) float32; zero for the last keyframe.
    """
    flat = displacement_of(invert_pose(ego_to_global[:, 1:]) @ ego_to_global[:, :-1], LIDAR_X_M).float()
    return torch.cat((flat, torch.zeros_like(flat[:, :1])), 1)


def encode_trajectory(config: SoraTransformerConfig, ego_to_global: Tensor, command: Tensor) -> Tensor:
    """The trajectory vector of a drive.

    Args:
        config: says which of four ways: the flags right and left of the commands; displacements of the LiDAR in metres
            (`lidar_steps`); positions in the first ego frame in metres; the same scaled to [0, 1] along each axis.
        ego_to_global: (B, F, 4, 4) poses of the keyframes.
        command: (B, F) int64, 0 right, 1 left, 2 straight.

    Returns:
        (B, 2 F) float32, frame by frame.
    """
    if config.trajectory == "command_flags":
        numbers = torch.stack((command == 0, command == 1), -1).float()
    elif config.trajectory == "step_metres":
        numbers = lidar_steps(ego_to_global)
    else:
        numbers = (invert_pose(ego_to_global[:, :1]) @ ego_to_global)[..., :2, 3].float()
        if config.trajectory == "path_unit":
            low, high = numbers.amin(1, keepdim=True), numbers.amax(1, keepdim=True)
            numbers = (numbers - low) / (high - low).clamp(min=1e-6)
    return (numbers / config.trajectory_scale).flatten(1)
