"""From the flat town to its terrain: how high each column of a crop stands in the ego frame, and voxels lifted there.

The ego frame pitches and rolls with the road. Columns stay upright and are moved along z: on a slope of 6 degrees this
is at most a quarter of a metre away from a rotation, 40 m from the ego.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from world_model.core.grid import GROUND, OCC3D
from world_model.simulator.sensing.cells import NZ
from world_model.simulator.state import Bools, Ego, Float32s, Floats, Ints
from world_model.simulator.town.terrain import Terrain

BORDER_M = 0.03
"""Ground so close to the border between two voxels fills both."""
X_M, Y_M = ((OCC3D.lower_m[a] + OCC3D.voxel_m * (np.arange(OCC3D.shape[a]) + 0.5)).astype(np.float32) for a in (0, 1))
"""Middles of the columns, ego frame."""


def ground_heights(terrain: Terrain, ego: Ego, source: Ints) -> Float32s:
    """(X, Y) metres of the ground over the plane under the ego.

    Args:
        source: (X, Y) flat cell of the town under each column.
    """
    z, along, left = (np.float32(v) for v in terrain.under(ego))
    heights = terrain.height_m.reshape(-1).take(source)
    heights -= (z + along * X_M)[:, None] + left * Y_M
    return heights


def lifted(voxel: Ints, label: NDArray[np.uint8], ground_m: Float32s) -> tuple[Ints, Ints]:
    """Voxels of the flat town, lifted with the ground by whole voxels; what leaves the grid is cut.

    Args:
        voxel: (n,) flat numbers. label: (n,) their classes. ground_m: (X, Y), of ``ground_heights``.

    Returns:
        voxel: (m,) flat numbers; of equal ones the last counts. row: (m,) which of the n each was.
    """
    column, level = voxel >> 4, voxel & 15
    height = ground_m.reshape(-1).take(column) * np.float32(1 / OCC3D.voxel_m)
    lift = np.rint(height)
    part = height - lift
    lift = lift.astype(np.int64)
    both = np.flatnonzero(_is_ground(label) & (np.abs(part) > 0.5 - BORDER_M / OCC3D.voxel_m))
    # What reaches the top of the flat grid goes on above it.
    cut = np.flatnonzero((level == NZ - 1) & (lift < 0))
    down = np.minimum(-lift[cut], NZ)
    above = np.repeat(cut, down)
    row = np.concatenate([both, above, np.arange(len(voxel))])
    step = np.arange(len(above)) - np.repeat(np.cumsum(down) - down, down)
    level = np.concatenate([(level + lift)[both] + np.sign(part[both]).astype(np.int64), NZ - 1 - step, level + lift])
    inside = np.flatnonzero((level >= 0) & (level < NZ))
    return (column[row[inside]] << 4) + level[inside], row[inside]


def _is_ground(label: NDArray[np.uint8]) -> Bools:
    return (label >= GROUND[0]) & (label <= GROUND[-1])


def agent_heights(terrain: Terrain, ego: Ego, xy: Floats, local_xy: Floats) -> Floats:
    """(n,) metres of the ground under agents over the plane under the ego.

    Args:
        xy, local_xy: (n, 2) where they are, globally and in the ego frame.
    """
    z, along, left = terrain.under(ego)
    heights: Floats = terrain.at(xy[:, 0], xy[:, 1]) - z - local_xy @ np.array([along, left])
    return heights
