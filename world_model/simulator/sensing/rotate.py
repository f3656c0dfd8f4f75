"""Which cell of another grid lies under each column of the ego grid: planar rotation and shift by nearest neighbour."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from world_model.core.grid import OCC3D

NX, NY, _ = OCC3D.shape
FRACTION_BITS = 16
"""Cell coordinates are fixed-point integers: one addition and one shift a column, equal on every machine."""
FAR_CELLS = 16_000.0
"""Distances to the other grid are clipped to this, so that 32 bits hold the sum; nothing overlaps that far away."""
Cells = NDArray[np.int32]


def rotated_cells(x: float, y: float, yaw: float, lower: tuple[float, ...]) -> tuple[Cells, Cells]:
    """Cells of another grid under the centres of all ego columns.

    Args:
        x, y, yaw: pose of the ego in the other grid's frame, metres and rad.
        lower: the other grid's lower corner, metres; its cells have the same size.

    Returns:
        i, j: (X, Y) int32, any sign.
    """
    one = 1 << FRACTION_BITS
    scale, far = one / OCC3D.voxel_m, FAR_CELLS * one
    c, s = math.cos(yaw) * scale, math.sin(yaw) * scale
    u = OCC3D.lower_m[0] + OCC3D.voxel_m * (np.arange(NX)[:, None] + 0.5)
    v = OCC3D.lower_m[1] + OCC3D.voxel_m * (np.arange(NY)[None] + 0.5)
    origin_x, origin_y = (min(max((p - low) * scale, -far), far) for p, low in zip((x, y), lower))
    i = np.rint(c * u + origin_x).astype(np.int32) - np.rint(s * v).astype(np.int32)
    j = np.rint(s * u + origin_y).astype(np.int32) + np.rint(c * v).astype(np.int32)
    i >>= FRACTION_BITS
    j >>= FRACTION_BITS
    return i, j


def rotated_columns(x: float, y: float, yaw: float) -> NDArray[np.intp]:
    """(X, Y) flat column ``i * NY + j`` of another ego's grid, in which the ego has this pose; NX * NY outside."""
    i, j = rotated_cells(x, y, yaw, OCC3D.lower_m[:2])
    # Seen as unsigned, negative numbers are large: one comparison a side finds what lies outside.
    outside = (i.view(np.uint32) >= NX) | (j.view(np.uint32) >= NY)
    i *= NY
    i += j
    i[outside] = NX * NY
    return i.astype(np.intp)
