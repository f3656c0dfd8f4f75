"""Areas and distances on the square map of a town: polygons filled row by row, distances by two passes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from world_model.simulator.state import Bools, Float32s, Floats
from world_model.simulator.town.painting import CELL_M, CELLS, FAR_M


def fill(polygons: list[Floats], *, odd: bool = False) -> Bools:
    """(CELLS, CELLS) the cells whose centres lie in polygons.

    Args:
        polygons: (n, 2) corners each, metres of the map; the last one joins the first.
        odd: count a cell as inside if it is in an odd number of polygons: rings in rings are holes. Else the union.
    """
    turns = np.zeros((CELLS, CELLS + 1), np.int32)
    for polygon in polygons:
        a = polygon / CELL_M - 0.5
        b = np.roll(a, -1, 0)
        # All polygons turn the same way round, so that overlaps never cancel.
        sign = 1 if odd or (a[:, 0] * b[:, 1] - b[:, 0] * a[:, 1]).sum() > 0 else -1
        low, high = np.minimum(a[:, 0], b[:, 0]), np.maximum(a[:, 0], b[:, 0])
        first = np.ceil(low).clip(0, CELLS).astype(np.int64)
        count = np.ceil(high).clip(0, CELLS).astype(np.int64) - first
        edge = np.repeat(np.arange(len(a)), count)
        if not len(edge):
            continue
        row = np.arange(len(edge)) + np.repeat(first - np.cumsum(count) + count, count)
        part = (row - a[edge, 0]) / (b[edge, 0] - a[edge, 0])
        column = np.ceil(a[edge, 1] + part * (b[edge, 1] - a[edge, 1])).clip(0, CELLS).astype(np.int64)
        np.add.at(turns, (row, column), np.where(b[edge, 0] > a[edge, 0], sign, -sign))
    depth = np.cumsum(turns, 1)[:, :CELLS]
    inside: Bools = depth % 2 == 1 if odd else depth != 0
    return inside


def mark(points_m: Floats) -> Bools:
    """(CELLS, CELLS) the cells under points (n, 2)."""
    marked = np.zeros((CELLS, CELLS), bool)
    i, j = np.floor(points_m / CELL_M).astype(np.int64).T
    inside = (i >= 0) & (j >= 0) & (i < CELLS) & (j < CELLS)
    marked[i[inside], j[inside]] = True
    return marked


def distance(there: Bools, limit_m: float) -> Float32s:
    """(CELLS, CELLS) metres to the nearest cell that is ``there``; ``FAR_M`` beyond the limit.

    The distance transform of Felzenszwalb and Huttenlocher (Theory of Computing 8, 2012) as two passes; the second one
    tries every offset up to the limit.
    """
    if not there.any():
        return np.full((CELLS, CELLS), FAR_M, np.float32)
    index = np.arange(CELLS, dtype=np.float32)
    reach = int(np.ceil(limit_m / CELL_M))
    before = np.maximum.accumulate(np.where(there, index, np.float32(-1e6)), 1)
    after = np.minimum.accumulate(np.where(there, index, np.float32(1e6))[:, ::-1], 1)[:, ::-1]
    along = np.minimum(np.minimum(index - before, after - index), np.float32(reach + 1)) ** 2
    best = along.copy()
    for k in range(1, reach + 1):
        np.minimum(best[k:], along[:-k] + np.float32(k * k), out=best[k:])
        np.minimum(best[:-k], along[k:] + np.float32(k * k), out=best[:-k])
    metres: Float32s = np.sqrt(best) * np.float32(CELL_M)
    metres[metres > limit_m] = FAR_M
    return metres


def spread(seed: Bools, through: Bools, steps: int) -> Bools:
    """The cells reached from others within so many steps to direct neighbours, only through allowed cells."""
    reached = seed.copy()
    for _ in range(steps):
        grown = reached.copy()
        grown[1:] |= reached[:-1]
        grown[:-1] |= reached[1:]
        grown[:, 1:] |= reached[:, :-1]
        grown[:, :-1] |= reached[:, 1:]
        reached |= grown & through
    return reached


def smooth_gradient(field: NDArray[Any], i: NDArray[np.int64], j: NDArray[np.int64], step: int = 3) -> Floats:
    """(n,) direction in rad in which a field rises fastest at cells."""
    up, down = (np.clip(i + k, 0, CELLS - 1) for k in (step, -step))
    left, right = (np.clip(j + k, 0, CELLS - 1) for k in (step, -step))
    angle: Floats = np.arctan2(field[i, left] - field[i, right], field[up, j] - field[down, j])
    return angle
