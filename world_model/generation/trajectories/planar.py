"""Between steps and places: motions of each step, and poses seen from the first one."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def poses_from_motions(motions: NDArray[Any]) -> NDArray[Any]:
    """Where steps lead.

    Args:
        motions: (H, 3) dx m, dy m, dyaw rad in the ego frame before each step.

    Returns:
        (H + 1, 3) x m, y m, yaw rad in the frame of the start, which comes first as zeros; the yaw is not wrapped.
    """
    yaw = np.concatenate(((0.0,), np.cumsum(motions[:, 2])))
    c, s = np.cos(yaw[:-1]), np.sin(yaw[:-1])
    x = c * motions[:, 0] - s * motions[:, 1]
    y = s * motions[:, 0] + c * motions[:, 1]
    place = np.concatenate((np.zeros((1, 2)), np.cumsum(np.stack((x, y), 1), axis=0)))
    return np.concatenate((place, yaw[:, None]), 1)


def motions_from_poses(poses: NDArray[Any]) -> NDArray[Any]:
    """The inverse of `poses_from_motions`, for poses (H + 1, 3) in any planar frame."""
    moved, turned = np.diff(poses[:, :2], axis=0), np.diff(poses[:, 2])
    c, s = np.cos(poses[:-1, 2]), np.sin(poses[:-1, 2])
    dx = c * moved[:, 0] + s * moved[:, 1]
    dy = -s * moved[:, 0] + c * moved[:, 1]
    return np.stack((dx, dy, (turned + np.pi) % (2 * np.pi) - np.pi), 1)


def planar_motions(ego_to_global: NDArray[Any]) -> NDArray[Any]:
    """Motions (H, 3) of a recorded drive (H + 1, 4, 4), without height, pitch and roll."""
    return planar_steps(np.linalg.inv(ego_to_global[:-1]) @ ego_to_global[1:])


def planar_steps(next_in_curr: NDArray[Any]) -> NDArray[Any]:
    """Motions (H, 3) of transforms (H, 4, 4) next ego frame -> current ego frame, without height, pitch and roll."""
    yaw = np.arctan2(next_in_curr[:, 1, 0], next_in_curr[:, 0, 0])
    return np.stack((next_in_curr[:, 0, 3], next_in_curr[:, 1, 3], yaw), 1)
