"""Which cells: under boxes, and of another grid under the columns of the ego grid (nearest neighbour)."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from world_model.core.grid import OCC3D
from world_model.simulator.state import Floats, Ints

NX, NY, NZ = OCC3D.shape
MARGIN_M = 0.15
"""Labelled objects are a little wider than their boxes, as LiDAR labels are."""
LEVEL_SINE = 1e-9
"""Sines and cosines smaller than this count as this, so that no edge of a box is exactly parallel to the grid."""
FRACTION_BITS = 16
"""Cell coordinates are fixed-point integers: one addition and one shift a column, equal on every machine."""
FAR_CELLS = 16_000.0
"""Distances to the other grid are clipped to this, so that 32 bits hold the sum; nothing overlaps that far away."""
Cells = NDArray[np.int32]


def footprints(xy: Floats, yaw: Floats, size_m: Floats) -> tuple[Ints, Ints]:
    """Cells whose centres lie in boxes grown by ``MARGIN_M``, and always the cell at a box's own centre.

    A row of cells along y crosses a box in one interval, so only rows are tried, not cells.

    Args:
        xy: (n, 2) centres, ego frame, metres. yaw: (n,) rad. size_m: (n, 3) length, width, height.

    Returns:
        cell: (m,) flat columns ``i * NY + j``. owner: (m,) the box of each cell, ascending.
    """
    v = OCC3D.voxel_m
    x, y = (xy - np.array(OCC3D.lower_m[:2])).T / v
    half_l, half_w = (size_m[:, :2].T / 2 + MARGIN_M) / v
    c, s = _tilted(np.cos(yaw)), _tilted(np.sin(yaw))
    half_x = np.abs(c) * half_l + np.abs(s) * half_w
    first = np.minimum(np.maximum(x - half_x, 0), NX).astype(np.int64)
    box, i = _expand(first, np.minimum(np.maximum(x + half_x + 1, first), NX).astype(np.int64))
    u = i + 0.5 - x[box]
    c, s, half_l, half_w = c[box], s[box], half_l[box], half_w[box]
    middle_l, middle_w, spread_l, spread_w = -c * u / s, s * u / c, half_l / np.abs(s), half_w / np.abs(c)
    low = np.maximum(middle_l - spread_l, middle_w - spread_w)
    high = np.minimum(middle_l + spread_l, middle_w + spread_w)
    y_row = y[box] - 0.5
    start = np.ceil(np.maximum(y_row + low, 0)).astype(np.int64)
    stop = np.floor(np.minimum(y_row + high, NY - 1)).astype(np.int64) + 1
    own_i, own_j = np.floor(x).astype(np.int64), np.floor(y).astype(np.int64)
    stop = np.maximum(stop, start)
    mine = np.flatnonzero((i == own_i[box]) & (own_j[box] >= 0) & (own_j[box] < NY))
    centre = own_j[box[mine]]
    empty = stop[mine] == start[mine]
    start[mine] = np.where(empty, centre, np.minimum(start[mine], centre))
    stop[mine] = np.where(empty, centre + 1, np.maximum(stop[mine], centre + 1))
    row, j = _expand(start, stop)
    return i[row] * NY + j, box[row]


def _tilted(part: Floats) -> Floats:
    return np.where(np.abs(part) < LEVEL_SINE, LEVEL_SINE, part)


def _expand(start: Ints, stop: Ints) -> tuple[Ints, Ints]:
    """All integers of many ranges, one after another, and which range each belongs to."""
    count = stop - start
    owner = np.repeat(np.arange(len(count)), count)
    return owner, np.arange(len(owner)) + np.repeat(start - np.cumsum(count) + count, count)


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
