"""Sizes of the geometry-first forecaster, and its presets."""

from __future__ import annotations

from dataclasses import dataclass

from world_model.core.errors import ConfigError
from world_model.core.grid import OCC3D, VoxelGrid
from world_model.models.tokenizer.config import TINY_GRID


@dataclass(frozen=True, kw_only=True)
class GeometricConfig:
    """Sizes of the geometry-first forecaster.

    Args:
        grid: voxel grid of the labels.
        patch: edge in voxels of the bird's-eye cells that the networks work on.
        observed: frames read at the start, the current one included.
        width: channels of the finest level of both networks; the coarser levels have two and three times as many.
        class_embed: width of a class embedding in the read-out.
        moving_mps: objects slower than this count as standing.
        ground_relative: the networks see heights above the local ground; False in checkpoints of earlier versions.
    """

    grid: VoxelGrid = OCC3D
    patch: int = 2
    observed: int = 5
    width: int = 32
    class_embed: int = 16
    moving_mps: float = 0.5
    ground_relative: bool = True

    def __post_init__(self) -> None:
        factor = 4 * self.patch
        if any(n % factor for n in self.grid.shape[:2]):
            raise ConfigError(
                f"grid {self.grid.shape} with patch {self.patch}",
                f"X and Y divisible by {factor}: two halvings of the bird's-eye map",
                "change the grid or the patch",
            )
        if self.width % 32 and self.width > 10:
            raise ConfigError(f"width {self.width}", "8, or a multiple of 32 (the groups of the norms)", "change it")
        if self.observed < 2:
            raise ConfigError(f"observed={self.observed}", "at least 2 frames, velocities need them", "give observed=5")

    @property
    def cells(self) -> tuple[int, int]:
        """Size of the bird's-eye map of the networks."""
        return (self.grid.shape[0] // self.patch, self.grid.shape[1] // self.patch)

    @property
    def slots(self) -> int:
        """Voxels of one cell: patch * patch * Z."""
        return self.patch**2 * self.grid.shape[2]


def base() -> GeometricConfig:
    """For a GPU: three times as wide."""
    return GeometricConfig(width=96, class_embed=32)


def nano() -> GeometricConfig:
    """The bundled one, for two CPU cores."""
    return GeometricConfig()


def tiny(grid: VoxelGrid = TINY_GRID) -> GeometricConfig:
    """A few thousand parameters, for tests."""
    return GeometricConfig(grid=grid, width=8, class_embed=4)


def trial() -> GeometricConfig:
    """`tiny` on the grid of real data: tries the whole chain of commands in seconds."""
    return tiny(OCC3D)


PRESETS = {"base": base, "nano": nano, "tiny": trial}
