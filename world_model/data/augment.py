"""Mirrored worlds: what a flip along x or y does to labels and transforms.

A flip mirrors the world about a plane through the ego vehicle. The label array is reversed, and every transform T
between frames becomes M T M with M = diag(±1, ±1, 1, 1), which is a rotation again. Entries only change their sign, so
a flip is exact and undoes itself. Mirroring along y swaps left and right; mirroring along x makes the vehicle drive
backwards.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from world_model.core.errors import ConfigError
from world_model.core.grid import VoxelGrid


@dataclass(frozen=True)
class Flip:
    """Which axes are mirrored.

    Attributes:
        x: swap front and back.
        y: swap left and right.
    """

    x: bool = False
    y: bool = False

    @property
    def signs(self) -> NDArray[Any]:
        """(4,) diagonal of M."""
        return np.array((-1.0 if self.x else 1.0, -1.0 if self.y else 1.0, 1.0, 1.0))

    def labels(self, labels: NDArray[Any]) -> NDArray[Any]:
        """Mirrored voxel grids (..., X, Y, Z); a view."""
        return np.flip(labels, [axis for axis, flip in ((-3, self.x), (-2, self.y)) if flip])

    def transform(self, transform: NDArray[Any], source: Flip | None = None) -> NDArray[Any]:
        """Mirrored transforms (..., 4, 4) into a world mirrored like this.

        Args:
            transform: the transform between the worlds that are not mirrored.
            source: how the world that it leads from is mirrored; None: in the same way.
        """
        signs = self.signs[:, None] * (source or self).signs
        mirrored: NDArray[Any] = transform * signs.astype(transform.dtype)
        return mirrored


def check_symmetric(grid: VoxelGrid) -> None:
    """Flips reverse the array, which mirrors the world about the ego vehicle only where it stands in the middle.

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
