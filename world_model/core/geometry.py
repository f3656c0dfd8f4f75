"""Quaternions, poses and motions in space and in the plane, and warps of bird's-eye maps and voxel grids.

Conventions
    Quaternions are (w, x, y, z), Hamilton product, and rotate column vectors.
    A pose is a 4x4 matrix ego -> global. ``target_to_source`` maps points of the target frame to the source frame, so a
    warp is one gather. A planar pose or motion is (..., 3): x and y in metres, yaw in rad. The motion of a step is the
    pose of the next frame in the frame before the step.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from world_model.core.grid import FREE, OCC3D, VoxelGrid
from world_model.core.sparse import nonzero_indices, within


def quat_multiply(a: Tensor, b: Tensor) -> Tensor:
    """Hamilton product a ⊗ b. Both (..., 4) in (w, x, y, z)."""
    aw, ax, ay, az = a.unbind(-1)
    bw, bx, by, bz = b.unbind(-1)
    return torch.stack(
        (
            aw * bw - ax * bx - ay * by - az * bz,
            aw * bx + ax * bw + ay * bz - az * by,
            aw * by - ax * bz + ay * bw + az * bx,
            aw * bz + ax * by - ay * bx + az * bw,
        ),
        dim=-1,
    )


def quat_conjugate(q: Tensor) -> Tensor:
    """Inverse of a unit quaternion (..., 4)."""
    return torch.cat((q[..., :1], -q[..., 1:]), dim=-1)


def quat_to_matrix(q: Tensor) -> Tensor:
    """Rotation matrix (..., 3, 3) of a quaternion (..., 4); the quaternion is normalised first."""
    w, x, y, z = F.normalize(q, dim=-1).unbind(-1)
    rows = (
        torch.stack((1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)), -1),
        torch.stack((2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)), -1),
        torch.stack((2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)), -1),
    )
    return torch.stack(rows, -2)


def rotation_matrix(quaternion: NDArray[Any]) -> NDArray[Any]:
    """Rotation matrices (..., 3, 3) of unit quaternions (..., 4), in numpy and as they are: nothing is normalised."""
    w, x, y, z = np.moveaxis(quaternion, -1, 0)
    rows = (
        np.stack((1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)), -1),
        np.stack((2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)), -1),
        np.stack((2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)), -1),
    )
    return np.stack(rows, -2)


def quat_from_yaw(yaw_rad: Tensor) -> Tensor:
    """Quaternion (..., 4) of a rotation about z by ``yaw_rad`` (...)."""
    half = yaw_rad / 2
    zero = torch.zeros_like(half)
    return torch.stack((half.cos(), zero, zero, half.sin()), -1)


def yaw_from_matrix(pose: Tensor) -> Tensor:
    """Heading in rad (...) of a pose or rotation matrix (..., 3|4, 3|4)."""
    return torch.atan2(pose[..., 1, 0], pose[..., 0, 0])


def pose_matrix(translation: Tensor, rotation: Tensor) -> Tensor:
    """Pose (..., 4, 4) from a translation (..., 3) in metres and a quaternion (..., 4)."""
    pose = torch.zeros(*translation.shape[:-1], 4, 4, dtype=translation.dtype, device=translation.device)
    pose[..., :3, :3] = quat_to_matrix(rotation)
    pose[..., :3, 3] = translation
    pose[..., 3, 3] = 1
    return pose


def se2_matrix(dx_m: Tensor, dy_m: Tensor, dyaw_rad: Tensor) -> Tensor:
    """Pose (..., 4, 4) of a planar motion; all arguments (...)."""
    translation = torch.stack((dx_m, dy_m, torch.zeros_like(dx_m)), -1)
    return pose_matrix(translation, quat_from_yaw(dyaw_rad))


def invert_pose(pose: Tensor) -> Tensor:
    """Inverse of rigid transforms (..., 4, 4), without a general matrix inversion."""
    rotation = pose[..., :3, :3].transpose(-1, -2)
    inverse = torch.zeros_like(pose)
    inverse[..., :3, :3] = rotation
    inverse[..., :3, 3] = -(rotation @ pose[..., :3, 3:])[..., 0]
    inverse[..., 3, 3] = 1
    return inverse


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


def warp_bev(
    maps: Tensor,
    target_to_source: Tensor,
    lower_m: tuple[float, float],
    cell_m: float,
    z_m: float,
    *,
    offset: float = 0.5,
) -> Tensor:
    """Bilinear warp of bird's-eye maps into another frame, zero outside.

    Args:
        maps: (B, C, X, Y) in the source frame.
        target_to_source: (B, 4, 4) rigid (or affine) transforms, metres.
        lower_m: lower corner (x0, y0) of the map in metres.
        cell_m: edge of a cell in metres.
        z_m: height of the plane that is warped, so that tilt shifts x and y.
        offset: where in its cell a sample stands, in cells: 0.5 is the centre (right), 0 the corner (the original).

    Returns:
        (B, C, X, Y) in the target frame.
    """
    size_x, size_y = maps.shape[-2:]
    dtype, device = target_to_source.dtype, maps.device
    x = lower_m[0] + cell_m * (torch.arange(size_x, dtype=dtype, device=device) + offset)
    y = lower_m[1] + cell_m * (torch.arange(size_y, dtype=dtype, device=device) + offset)
    rotation, shift = target_to_source[:, :2, :2], target_to_source[:, :2, 2] * z_m + target_to_source[:, :2, 3]
    points = torch.stack(torch.meshgrid(x, y, indexing="ij"), -1)
    source = torch.einsum("bij,xyj->bxyi", rotation, points) + shift[:, None, None]
    cell_x = (source[..., 0] - lower_m[0]) / cell_m - offset
    cell_y = (source[..., 1] - lower_m[1]) / cell_m - offset
    # grid_sample wants the fast axis (Y) first, scaled so that -1 and 1 are the first and last cell.
    normal = torch.stack((2 * cell_y / (size_y - 1) - 1, 2 * cell_x / (size_x - 1) - 1), -1)
    # In half precision the sampling points themselves would be off by a tenth of a cell near the edges.
    wide = torch.promote_types(maps.dtype, torch.float32)
    moved = F.grid_sample(maps.to(wide), normal.to(wide), mode="bilinear", padding_mode="zeros", align_corners=True)
    return moved.to(maps.dtype)


TIE = 1e-3
"""Voxels. Centres that fall between two voxels all round the same way. Otherwise a shift by half a voxel would thin the
labels out by rounding errors, and thin walls would vanish."""


def warp_voxels(labels: Tensor, target_to_source: Tensor, grid: VoxelGrid = OCC3D, fill: int = FREE) -> Tensor:
    """Nearest-neighbour warp of voxel labels into another frame.

    Args:
        labels: (B, X, Y, Z) integer labels in the source frame.
        target_to_source: (B, 4, 4), metres.
        grid: the voxel grid of both frames.
        fill: label of voxels that come from outside the source grid.

    Returns:
        (B, X, Y, Z) labels in the target frame, same dtype.
    """
    batch, (size_x, size_y, size_z) = labels.shape[0], labels.shape[1:]
    device = labels.device
    matrix = target_to_source.to(torch.float32)
    lower = torch.tensor(grid.lower_m, dtype=torch.float32, device=device)
    axes = [
        lower[i] + grid.voxel_m * (torch.arange(n, dtype=torch.float32, device=device) + 0.5)
        for i, n in enumerate((size_x, size_y, size_z))
    ]
    if (matrix[:, (0, 1, 2, 2, 2), (2, 2, 0, 1, 3)].abs() < 1e-6).all():
        # Whole columns move together: one index per column instead of one per voxel.
        column = matrix[..., None, None]
        cells = []
        for n in (0, 1):
            at = column[:, n, 0] * axes[0][:, None] + column[:, n, 1] * axes[1]
            at.add_(column[:, n, 3]).sub_(lower[n]).div_(grid.voxel_m).add_(TIE)
            cells.append(at.floor_().to(torch.int32))
        inside = within(cells[0], size_x) & within(cells[1], size_y)
        row = torch.arange(batch, dtype=torch.int32, device=device)[:, None, None] * (size_x * size_y)
        flat = cells[0].clamp_(0, size_x - 1).mul_(size_y).add_(cells[1].clamp_(0, size_y - 1)).add_(row)
        return take_columns(labels, flat, inside, fill)
    points = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).view(-1, 3)
    source = points @ matrix[:, :3, :3].transpose(1, 2) + matrix[:, None, :3, 3]
    index = ((source - lower) / grid.voxel_m + TIE).floor().long()
    size = torch.tensor((size_x, size_y, size_z), device=device)
    inside = ((index >= 0) & (index < size)).all(-1)
    index = torch.minimum(index.clamp(min=0), size - 1)
    flat = (index[..., 0] * size_y + index[..., 1]) * size_z + index[..., 2]
    moved = labels.reshape(batch, -1).gather(1, flat)
    return torch.where(inside, moved, torch.full_like(moved[:1, :1], fill)).view(labels.shape)


def take_columns(labels: Tensor, index: Tensor, inside: Tensor, fill: int = FREE) -> Tensor:
    """Whole columns of label grids.

    Args:
        labels: (B, X, Y, Z) integer labels.
        index: (...) int32 or int64 positions (b * X + x) * Y + y of columns in all grids.
        inside: (...) bool, False where a column is filled instead.
        fill: label of such columns, 0..127.

    Returns:
        (..., Z), same dtype.
    """
    size_z = labels.shape[-1]
    columns, at = packed(labels.reshape(-1, size_z)), index.reshape(-1)
    if columns.device.type == "cpu" and columns.shape[1] == 1 and len(at):
        moved = torch.from_numpy(columns.numpy()[:, 0].take(at.numpy()))  # half the time of index_select
    else:
        moved = columns.index_select(0, at)
    moved = moved.view(labels.dtype).view(-1, size_z)
    words = packed(moved, most=8)
    word = fill if words.dtype == labels.dtype else int.from_bytes(bytes([fill] * 8), "little")
    words.index_fill_(0, nonzero_indices(~inside), word)
    return moved.view(*index.shape, size_z)


def packed(columns: Tensor, most: int = 16) -> Tensor:
    """Columns (..., Z) of bytes as numbers of up to ``most`` bytes: 16 (complex128), 8 (int64), or as they are.

    The numbers mean nothing; what travels together is moved at once. Contiguous columns share memory with the result.
    """
    for size, kind in ((16, torch.complex128), (8, torch.int64)):
        if columns.element_size() == 1 and size <= most and columns.shape[-1] % size == 0:
            return columns.contiguous().view(kind)
    return columns.contiguous()
