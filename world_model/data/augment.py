"""Mirrored worlds: what a flip along x or y does to labels, poses, motions and commands, all at once.

A flip mirrors the world about a plane through the ego vehicle. Labels are turned over, and every transform T between
frames becomes M T M with M = diag(±1, ±1, 1, 1), which is a rotation again; entries only change their sign, so a flip
is exact and undoes itself. Mirroring along y swaps left and right; mirroring along x lets the vehicle drive backwards.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from world_model.core.errors import ConfigError
from world_model.core.grid import VoxelGrid
from world_model.data.clips import Clips

Array = TypeVar("Array", NDArray[Any], Tensor)


@dataclass(frozen=True)
class Flip:
    """Which axes are mirrored.

    Attributes:
        x: front and back change places.
        y: left and right change places.
    """

    x: bool = False
    y: bool = False

    @property
    def signs(self) -> tuple[float, float, float, float]:
        """Diagonal of M."""
        return (-1.0 if self.x else 1.0, -1.0 if self.y else 1.0, 1.0, 1.0)

    def labels(self, labels: Array) -> Array:
        """Mirror voxel grids (..., X, Y, Z)."""
        axes = tuple(axis for axis, flip in ((-3, self.x), (-2, self.y)) if flip)
        if not axes:
            return labels
        return torch.flip(labels, axes) if isinstance(labels, Tensor) else np.flip(labels, axes)

    def transform(self, transform: Array, source: Flip | None = None) -> Array:
        """Mirror transforms (..., 4, 4) that lead into a world mirrored like this.

        Args:
            transform: the transform between the worlds as they are.
            source: how the world is mirrored that it leads from; None: in the same way.
        """
        left, right = np.array(self.signs), np.array((source or self).signs)
        signs = left[:, None] * right[None, :]
        if isinstance(transform, Tensor):
            return transform * torch.as_tensor(signs, dtype=transform.dtype, device=transform.device)
        return transform * signs.astype(transform.dtype)

    def command(self, command: Array) -> Array:
        """Mirror commands (...): 0 right, 1 left, 2 straight."""
        if not self.y:
            return command
        swapped = (1, 0, 2)
        if isinstance(command, Tensor):
            return torch.tensor(swapped, dtype=command.dtype, device=command.device)[command.long()]
        return np.array(swapped, dtype=command.dtype)[command]

    def motion(self, motion: Array) -> Array:
        """Mirror motions (..., 3): velocity along ego x and y, yaw rate."""
        signs = (self.signs[0], self.signs[1], self.signs[0] * self.signs[1])
        if isinstance(motion, Tensor):
            return motion * torch.tensor(signs, dtype=motion.dtype, device=motion.device)
        return motion * np.array(signs, dtype=motion.dtype)

    def clips(self, clips: Clips) -> Clips:
        """Mirror windows: labels, poses (the global frame is mirrored with them), motions and commands."""
        future = clips.future_occupancy
        return replace(
            clips,
            occupancy=self.labels(clips.occupancy),
            ego_to_global=self.transform(clips.ego_to_global),
            command=self.command(clips.command),
            motion=self.motion(clips.motion),
            future_occupancy=None if future is None else self.labels(future),
        )


def check_symmetric(grid: VoxelGrid) -> None:
    """Flips turn the array over, which mirrors the world about the ego vehicle only where that stands in the middle.

    Raises:
        ConfigError: the grid is not symmetric about the ego vehicle along x and y.
    """
    for axis in range(2):
        if abs(grid.lower_m[axis] + grid.upper_m[axis]) > 1e-6:
            raise ConfigError(
                f"flips on a grid from {grid.lower_m} to {grid.upper_m} m",
                "a grid with the ego vehicle in its middle along x and y",
                "train with --flips none",
            )
