"""Checks ego poses of other formats and converts them to translations and unit quaternions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from world_model.core.errors import DataError
from world_model.core.geometry import rotation_matrix

Poses = Literal["auto", "raw", "planar"]
LEVEL_M, LEVEL_RAD = 1e-3, 1e-5
"""Heights that differ by less are equal; a vehicle that is tilted by less is level."""
REMEDY = "fetch the file again; poses must be rigid transforms ego -> global in metres"


def checked_poses(
    translation: Sequence[object] | NDArray[Any],
    rotation: Sequence[object] | NDArray[Any],
    where: str,
    names: Sequence[str],
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Translations and unit quaternions out of a file.

    Args:
        translation: N times 3 numbers, metres.
        rotation: N times 4 numbers (w, x, y, z).
        where: file and key, for messages.
        names: (N) what each pose belongs to, for messages.

    Returns:
        (N, 3) float64 and (N, 4) float64, normalised.

    Raises:
        DataError: a pose has another length, is not finite, or its quaternion is no unit quaternion.
    """
    count = len(names)
    try:
        position = np.array(translation, np.float64).reshape(count, 3)
        quaternion = np.array(rotation, np.float64).reshape(count, 4)
    except (ValueError, TypeError) as error:
        expected = "3 numbers of translation and 4 of rotation"
        raise DataError(f"{where}: poses of uneven length ({error})", expected, REMEDY) from error
    norm = np.linalg.norm(quaternion, axis=1, keepdims=True)
    bad = ~(np.isfinite(position).all(1) & np.isfinite(quaternion).all(1) & (np.abs(norm[:, 0] - 1) < 1e-2))
    if bad.any():
        i = int(np.flatnonzero(bad)[0])
        values = f"{position[i].tolist()} {quaternion[i].tolist()}"
        found = f"{where}: {int(bad.sum())} poses are broken, e.g. {values} of {names[i]}"
        raise DataError(found, "finite translations and unit quaternions", REMEDY)
    return position, quaternion / norm


def poses_of_matrices(
    matrices: Sequence[object], where: str, names: Sequence[str]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Translations and unit quaternions of 4 x 4 poses.

    Args:
        matrices: N poses ego -> global.
        where: file and key, for messages.
        names: (N) what each pose belongs to, for messages.

    Returns:
        (N, 3) and (N, 4) float64.

    Raises:
        DataError: a pose is not a finite rigid transform (a mirrored one is not).
    """
    try:
        pose = np.array([np.asarray(matrix, np.float64) for matrix in matrices], np.float64).reshape(len(names), 4, 4)
    except (ValueError, TypeError) as error:
        raise DataError(f"{where}: poses that are not 4 x 4 numbers ({error})", "4 x 4 matrices", REMEDY) from error
    rotation = pose[:, :3, :3]
    with np.errstate(invalid="ignore", over="ignore"):
        deviation = np.abs(rotation @ rotation.transpose(0, 2, 1) - np.eye(3)).max((1, 2))
        bad = ~(np.isfinite(pose).all((1, 2)) & (deviation < 1e-2) & (np.linalg.det(np.nan_to_num(rotation)) > 0))
    bad |= (np.abs(pose[:, 3] - (0, 0, 0, 1)) > 1e-6).any(1)
    if bad.any():
        i = int(np.flatnonzero(bad)[0])
        found = f"{where}: {int(bad.sum())} poses are broken, e.g. {pose[i].tolist()} of {names[i]}"
        raise DataError(found, "rigid transforms: a right-handed rotation, a finite translation, 0 0 0 1", REMEDY)
    return pose[:, :3, 3].copy(), _quaternions(rotation)


def choose_poses(wanted: Poses, translation_m: NDArray[Any], rotation: NDArray[Any]) -> str:
    """What poses an index gets.

    "auto" is "planar" for poses that do not climb although the vehicle is tilted, as those of nuScenes: all heights are
    0, but pitch and roll follow the road, so that transforms between frames lift or sink the world.

    Args:
        wanted: "auto", "raw" or "planar".
        translation_m: (N, 3) positions of the whole data set.
        rotation: (N, 4) unit quaternions (w, x, y, z) ego -> global.

    Returns:
        "raw" or "planar".
    """
    if wanted != "auto":
        return wanted
    up = rotation_matrix(rotation)[:, :2, 2]
    tilted = np.linalg.norm(up, axis=1).max(initial=0.0) > LEVEL_RAD
    return "planar" if tilted and np.ptp(translation_m[:, 2]) < LEVEL_M else "raw"


def _quaternions(rotation: NDArray[Any]) -> NDArray[Any]:
    """(N, 4) unit quaternions with w >= 0 of (N, 3, 3) rotations, from the largest of their four components."""
    m = rotation.transpose(1, 2, 0)
    # Four times the products of each pair of components, as a symmetric 4 x 4 matrix per rotation.
    products = np.array(
        [
            [1 + m[0, 0] + m[1, 1] + m[2, 2], m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1]],
            [m[2, 1] - m[1, 2], 1 + m[0, 0] - m[1, 1] - m[2, 2], m[1, 0] + m[0, 1], m[0, 2] + m[2, 0]],
            [m[0, 2] - m[2, 0], m[1, 0] + m[0, 1], 1 - m[0, 0] + m[1, 1] - m[2, 2], m[2, 1] + m[1, 2]],
            [m[1, 0] - m[0, 1], m[0, 2] + m[2, 0], m[2, 1] + m[1, 2], 1 - m[0, 0] - m[1, 1] + m[2, 2]],
        ]
    )
    largest = np.argmax(products[range(4), range(4)], axis=0)
    quaternion = products[largest, :, np.arange(len(rotation))]
    quaternion *= np.where(quaternion[:, :1] < 0, -1.0, 1.0)
    unit: NDArray[Any] = quaternion / np.linalg.norm(quaternion, axis=1, keepdims=True)
    return unit
