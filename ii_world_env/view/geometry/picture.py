"""What one picture of the page shows, whatever it comes from: a drive, or files."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ii_world_env.view.geometry.overlays import Car
from world_model.core.grid import OCC3D, VoxelGrid

NOTHING = np.zeros((0, 4, 3), np.float32)


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One world at one moment, in its ego frame.

    Attributes:
        title: shown above it. labels: (X, Y, Z) uint8. grid: of the labels.
        route, path: (N, 4, 3) quads in metres. cars: other road users.
        motion: (S, 3) poses of the step that led here, in the ego frame before it; (0, 3) if none did.
        ended: why the episode has ended, or None.
    """

    title: str
    labels: NDArray[Any]
    grid: VoxelGrid = OCC3D
    route: NDArray[Any] = field(default_factory=lambda: NOTHING)
    path: NDArray[Any] = field(default_factory=lambda: NOTHING)
    cars: tuple[Car, ...] = ()
    motion: NDArray[Any] = field(default_factory=lambda: np.zeros((0, 3), np.float32))
    ended: str | None = None


class Source(Protocol):
    """What a page can show."""

    @property
    def place(self) -> tuple[int, int]:
        """Which moment is in view, and how many there are before and after it on this way, itself included."""
        ...

    def pictures(self) -> list[Picture]:
        """Side by side, now."""
        ...

    def facts(self) -> dict[str, NDArray[Any]]:
        """Curves over ``time_s``."""
        ...

    def text(self) -> dict[str, str]:
        """Lines below the pictures: name -> value."""
        ...

    def back(self) -> bool:
        """To the moment before."""
        ...

    def forth(self) -> bool:
        """To the moment after."""
        ...

    def seek(self, place: int) -> None:
        """To the so-manieth moment on this way."""
        ...
