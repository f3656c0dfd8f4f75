"""SE(2): planar poses and motions (..., 3) of x, y in metres and yaw in rad, the one copy of them.

The first part works on torch tensors. The second part, `poses_from_motions` and below, works on numpy arrays of one
drive: the motion of a step is the pose of the next frame in the frame before the step.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from world_model.core.geometry import invert_pose, rotation_matrix, se2_matrix, yaw_from_matrix


def transform(pose: Tensor, points: Tensor) -> Tensor:
    """Points (..., N, 2) of the frame at ``pose`` (..., 3), seen from the frame that the pose is given in."""
    c, s = torch.cos(pose[..., 2, None]), torch.sin(pose[..., 2, None])
    x, y = points.unbind(-1)
    return torch.stack((c * x - s * y + pose[..., 0, None], s * x + c * y + pose[..., 1, None]), -1)


def into(pose: Tensor, points: Tensor) -> Tensor:
    """The inverse of `transform`: points (..., N, 2) seen from the frame at ``pose`` (..., 3)."""
    c, s = torch.cos(pose[..., 2, None]), torch.sin(pose[..., 2, None])
    x, y = (points - pose[..., None, :2]).unbind(-1)
    return torch.stack((c * x + s * y, c * y - s * x), -1)


def compose(first: Tensor, second: Tensor) -> Tensor:
    """Pose of ``second``, which is given in the frame at ``first``; both (..., 3)."""
    place = transform(first, second[..., None, :2])[..., 0, :]
    return torch.cat((place, first[..., 2:] + second[..., 2:]), -1)


def relative(base: Tensor, pose: Tensor) -> Tensor:
    """``pose`` seen from the frame at ``base``; both (..., 3) in one frame."""
    place = into(base, pose[..., None, :2])[..., 0, :]
    return torch.cat((place, pose[..., 2:] - base[..., 2:]), -1)


def inverse(pose: Tensor) -> Tensor:
    """The frame that ``pose`` (..., 3) is given in, seen from the pose."""
    return relative(pose, torch.zeros_like(pose))


def planar_pose(matrix: Tensor) -> Tensor:
    """Planar pose (..., 3) of rigid transforms (..., 4, 4); height, pitch and roll are left out."""
    return torch.stack((matrix[..., 0, 3], matrix[..., 1, 3], yaw_from_matrix(matrix)), -1)


def level_poses(ego_to_global: Tensor) -> Tensor:
    """Poses (B, N, 4, 4) relative to the first one, without height, pitch and roll.

    Worlds and the environment move the ego in a plane; the recorded slope would lift or sink the ground under it.
    """
    return se2_matrix(*planar_pose(invert_pose(ego_to_global[:, :1]) @ ego_to_global).unbind(-1))


def ground_poses(translation_m: NDArray[Any], rotation: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Poses projected on the ground plane z = 0: x, y, and the yaw of the forward axis; no pitch, no roll.

    Args:
        translation_m: (N, 3) positions in the global frame.
        rotation: (N, 4) unit quaternions (w, x, y, z) ego -> global.

    Returns:
        (N, 3) and (N, 4), float64. What lies in the plane already stays the same to the bit.
    """
    place, quaternion = translation_m.astype(np.float64), rotation.astype(np.float64)
    place[:, 2] = 0.0
    tilted = (quaternion[:, 1:3] != 0).any(1)
    forward = rotation_matrix(quaternion[tilted])[:, :, 0]
    half_yaw = np.arctan2(forward[:, 1], forward[:, 0]) / 2
    zero = np.zeros_like(half_yaw)
    quaternion[tilted] = np.stack((np.cos(half_yaw), zero, zero, np.sin(half_yaw)), 1)
    return place, quaternion


def poses_from_motions(motions: NDArray[Any]) -> NDArray[Any]:
    """Poses that motions lead to.

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
    moved, rotated = np.diff(poses[:, :2], axis=0), np.diff(poses[:, 2])
    c, s = np.cos(poses[:-1, 2]), np.sin(poses[:-1, 2])
    dx = c * moved[:, 0] + s * moved[:, 1]
    dy = -s * moved[:, 0] + c * moved[:, 1]
    return np.stack((dx, dy, (rotated + np.pi) % (2 * np.pi) - np.pi), 1)


def planar_motions(ego_to_global: NDArray[Any]) -> NDArray[Any]:
    """Motions (H, 3) of recorded poses (H + 1, 4, 4), without height, pitch and roll."""
    return planar_steps(np.linalg.inv(ego_to_global[:-1]) @ ego_to_global[1:])


def planar_steps(next_in_curr: NDArray[Any]) -> NDArray[Any]:
    """Motions (H, 3) of transforms (H, 4, 4) next ego frame -> current ego frame, without height, pitch and roll."""
    yaw = np.arctan2(next_in_curr[:, 1, 0], next_in_curr[:, 0, 0])
    return np.stack((next_in_curr[:, 0, 3], next_in_curr[:, 1, 3], yaw), 1)
