"""Planar poses (..., 3) of x, y in metres and yaw in rad: what the ego moves in."""

from __future__ import annotations

import torch
from torch import Tensor


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
