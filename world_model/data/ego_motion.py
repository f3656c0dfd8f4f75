"""Commands and motion features, derived from recorded poses alone: the same for every data set."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

COMMAND_STEPS = 6
"""Keyframes (3 s) from a frame to the position that its command is derived from."""
COMMAND_LATERAL_M = 2.0
"""Lateral displacement from which a command is a turn."""


def commands_from_poses(ego_to_global: NDArray[Any]) -> NDArray[Any]:
    """High-level command of every frame of one scene, after ST-P3 and UniAD.

    Args:
        ego_to_global: (N, 4, 4) poses in time order.

    Returns:
        (N,) int8: 0 right, 1 left, 2 straight, by the lateral position 3 s ahead in the ego frame (near the end of
        the scene: of the last frame).
    """
    count = len(ego_to_global)
    ahead = np.minimum(np.arange(count) + COMMAND_STEPS, count - 1)
    offset = ego_to_global[ahead, :3, 3] - ego_to_global[:, :3, 3]
    lateral = np.einsum("nj,nj->n", ego_to_global[:, :3, 1], offset)
    return np.where(lateral <= -COMMAND_LATERAL_M, 0, np.where(lateral >= COMMAND_LATERAL_M, 1, 2)).astype(np.int8)


def motion_from_poses(ego_to_global: NDArray[Any], timestamp_us: NDArray[Any]) -> NDArray[Any]:
    """Mean motion over the step into every frame of one scene.

    Args:
        ego_to_global: (N, 4, 4) poses in time order.
        timestamp_us: (N,) rising microseconds.

    Returns:
        (N, 3) float32: velocity along the frame's own x and y axes (m/s) and yaw rate (rad/s). The first frame, which
        has no step into it, copies the second; a scene of one frame is at rest.
    """
    motion = np.zeros((len(ego_to_global), 3), np.float32)
    if len(ego_to_global) < 2:
        return motion
    dt_s = np.diff(timestamp_us) * 1e-6
    moved = np.diff(ego_to_global[:, :3, 3], axis=0)
    velocity = np.einsum("nji,nj->ni", ego_to_global[1:, :3, :3], moved)[:, :2] / dt_s[:, None]
    yaw = np.unwrap(np.arctan2(ego_to_global[:, 1, 0], ego_to_global[:, 0, 0]))
    motion[1:] = np.concatenate((velocity, (np.diff(yaw) / dt_s)[:, None]), axis=1)
    motion[0] = motion[1]
    return motion
