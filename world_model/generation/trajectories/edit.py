"""Change a drive: faster or slower, to one side, to a stop, mirrored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from world_model.core.errors import OptionError
from world_model.core.geometry import motions_from_poses, poses_from_motions
from world_model.core.grid import STEP_S

SHIFT_LENGTH_M = 20.0
"""Way on which a lateral shift is completed, about the length of a lane change in town."""


@dataclass(frozen=True, kw_only=True)
class Edit:
    """What to change about a drive. The defaults change nothing."""

    speed: float = 1.0
    """Factor on the speed; the way stays the same. 0 stands still, at most 4."""
    shift_m: float = 0.0
    """Metres to drive farther left (negative: right), reached smoothly within 20 m; at most 20."""
    stop_s: float | None = None
    """Seconds until the vehicle stands; it slows down evenly until then."""
    mirror: bool = False
    """Left becomes right: the vehicle drives the mirrored way (the world around it stays as it is)."""

    def __post_init__(self) -> None:
        for name, value, low, high in (("speed", self.speed, 0, 4), ("shift_m", self.shift_m, -20, 20)):
            if not low <= value <= high:
                raise OptionError(f"edit {name}={value}", f"a number in {low}..{high}", "choose a smaller change")
        if self.stop_s is not None and not 0 < self.stop_s < np.inf:
            raise OptionError(f"edit stop_s={self.stop_s}", "seconds above 0", "for a standing vehicle use speed=0")

    @property
    def changes(self) -> bool:
        """Whether there is anything to do."""
        return self != Edit()

    @property
    def name(self) -> str:
        """Short description for folders and titles, such as ``speed1.5_shift-2``."""
        parts = [f"speed{self.speed:g}"] if self.speed != 1 else []
        parts += [f"shift{self.shift_m:g}"] if self.shift_m else []
        parts += [f"stop{self.stop_s:g}"] if self.stop_s is not None else []
        return "_".join([*parts, *(["mirrored"] if self.mirror else [])])


def edited(motions: NDArray[Any], edit: Edit, steps: int) -> NDArray[Any]:
    """An edited drive of any length; beyond the end of the given one it goes straight on at its last speed.

    Args:
        motions: (N, 3) dx m, dy m, dyaw rad, N >= 1.
        edit: what to change.
        steps: H, number of steps wanted.

    Returns:
        (H, 3) motions.
    """
    poses = poses_from_motions(motions)
    if edit.mirror:
        poses = poses * (1, -1, -1)
    pace_m = np.hypot(motions[:, 0], motions[:, 1])
    kept_m = np.concatenate((pace_m, np.full(max(0, steps - len(pace_m)), pace_m[-1])))[:steps] * edit.speed
    if edit.stop_s is not None:
        middle_s = (np.arange(steps) + 0.5) * STEP_S
        kept_m = kept_m * np.clip(1 - middle_s / edit.stop_s, 0, None)
    along_m = np.concatenate(((0.0,), np.cumsum(kept_m)))
    return motions_from_poses(_shifted(_follow(poses, along_m), along_m, edit.shift_m))


def _follow(poses: NDArray[Any], along_m: NDArray[Any]) -> NDArray[Any]:
    """Poses (K, 3) at the given distances (K,) along a way of poses (N, 3): cubic between them, straight beyond."""
    length = np.hypot(*np.diff(poses[:, :2], axis=0).T)
    # Where the vehicle stood, the last pose counts: its heading is the one it drives on with.
    kept = np.append(length > 1e-6, True)
    way, reach_m = poses[kept], np.concatenate(((0.0,), np.cumsum(length)))[kept]
    far_m = max(along_m[-1] - reach_m[-1], 0.0) + 1.0
    ahead = (*(way[-1, :2] + far_m * _heading(way[-1, 2])), way[-1, 2])
    way, reach_m = np.concatenate((way, [ahead])), np.append(reach_m, reach_m[-1] + far_m)
    part = (np.searchsorted(reach_m, along_m, side="right") - 1).clip(0, len(reach_m) - 2)
    size = np.diff(reach_m)[part]
    t = ((along_m - reach_m[part]) / size)[:, None]
    begin, end = way[part], way[part + 1]
    # Reversing vehicles move against their heading.
    sign = np.sign(np.einsum("ki,ki->k", end[:, :2] - begin[:, :2], _heading(begin[:, 2])))
    tangent = (sign * size)[:, None]
    place = (
        (1 + 2 * t) * (1 - t) ** 2 * begin[:, :2]
        + t * (1 - t) ** 2 * tangent * _heading(begin[:, 2])
        + t**2 * (3 - 2 * t) * end[:, :2]
        - t**2 * (1 - t) * tangent * _heading(end[:, 2])
    )
    return np.concatenate((place, begin[:, 2:] + t * (end[:, 2:] - begin[:, 2:])), 1)


def _shifted(poses: NDArray[Any], along_m: NDArray[Any], shift_m: float) -> NDArray[Any]:
    """Poses moved to the left by a smooth ramp along the way, with the heading that driving it takes."""
    if not shift_m:
        return poses
    t = (along_m / SHIFT_LENGTH_M).clip(0, 1)
    offset, slope = shift_m * t * t * (3 - 2 * t), shift_m * 6 * t * (1 - t) / SHIFT_LENGTH_M
    normal = _heading(poses[:, 2] + np.pi / 2)
    return np.concatenate((poses[:, :2] + offset[:, None] * normal, (poses[:, 2] + np.arctan(slope))[:, None]), 1)


def _heading(yaw_rad: NDArray[Any] | float) -> NDArray[Any]:
    return np.stack((np.cos(yaw_rad), np.sin(yaw_rad)), -1)
