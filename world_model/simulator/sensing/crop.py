"""The complete scene in the ego grid, before visibility: the town's voxels fetched by one gather, agents stamped on.

Heights are those over the ground of each column, as in the flat town; the ground's own height stands beside them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from world_model.core.grid import FREE, OCC3D
from world_model.simulator.sensing.cells import NX, NY, NZ, Cells, footprints, rotated_cells
from world_model.simulator.sensing.ground import ground_heights
from world_model.simulator.state import Bools, Float32s, Floats, Ints, SimState
from world_model.simulator.town.painting import CELL_M, GROUND_LEVEL
from world_model.simulator.town.town import Town

NEAR_M, TOUCH_M = 66.0, 46.0
"""Agents whose centre is further away than this along any axis cannot touch the grid (global, ego axes)."""
GRID_RADIUS_M = 57.0
"""No column's centre is further from the ego."""


@dataclass(frozen=True, kw_only=True)
class Crop:
    """What lies around the ego, visible or not: what hides the view, and where to fetch the labels."""

    occluder: NDArray[np.uint8]  # (X, Y) opaque heights in levels of the flat town: what hides the view
    ground_m: Float32s | None  # (X, Y) height of the ground in the ego frame; None where it is flat
    cell_i: Cells  # (X, Y) town cell of each column, also beyond the town's border
    cell_j: Cells
    source: Ints  # (X, Y) its flat number in the town's arrays
    outside: Bools | None  # (X, Y) beyond the border; None if no column is
    ids: Ints  # (n,) agents near the grid, low ones first
    local_xy: Floats  # (n, 2) their centres in the ego frame, metres
    local_yaw: Floats  # (n,) their headings in the ego frame, rad
    column: Ints  # (m,) columns that agents stand on
    box: Ints  # (m,) rows of ``ids`` in these columns; of several in one column the last counts
    owner: NDArray[np.int16]  # (X*Y,) row of ``ids`` in each column, or -1


def near_agents(state: SimState) -> tuple[Ints, Floats, Floats]:
    """Agents whose box may touch the grid, low ones first: index, centre (n, 2) and yaw in the ego frame."""
    e, m = state.ego, state.motion
    d = m.xy - np.array([e.x, e.y])
    near = np.flatnonzero((np.abs(d) < NEAR_M).all(1))
    c, s = math.cos(e.yaw), math.sin(e.yaw)
    local = d[near] @ np.array([[c, -s], [s, c]])
    inside = np.flatnonzero((np.abs(local) < TOUCH_M).all(1))
    inside = inside[np.argsort(state.agents.size_m[near[inside], 2], kind="stable")]
    return near[inside], local[inside], m.yaw[near[inside]] - e.yaw


def crop(town: Town, state: SimState) -> Crop:
    """Fetch the heights of the town around the ego and put the agents on them."""
    e, n = state.ego, town.occluder.shape[0]
    i, j = rotated_cells(e.x, e.y, e.yaw, (0.0, 0.0))
    inner, outside = n * CELL_M - GRID_RADIUS_M, None
    if GRID_RADIUS_M < e.x < inner and GRID_RADIUS_M < e.y < inner:
        source = i * n + j
    else:
        outside = (i < 0) | (j < 0) | (i >= n) | (j >= n)
        source = np.clip(i, 0, n - 1) * n + np.clip(j, 0, n - 1)
    source = source.astype(np.intp)
    ground = None if town.terrain is None else ground_heights(town.terrain, e, source)
    occluder = town.occluder.reshape(-1).take(source)
    if outside is not None:
        occluder[outside] = 0
    ids, local, yaw = near_agents(state)
    column, box = footprints(local, yaw, state.agents.size_m[ids])
    owner = np.full(NX * NY, -1, np.int16)
    owner[column] = box
    heights = occluder.reshape(-1)
    heights[column] = np.maximum(heights[column], top_levels(state.agents.size_m[ids, 2])[box])
    return Crop(
        occluder=occluder, ground_m=ground, cell_i=i, cell_j=j, source=source, outside=outside, ids=ids,
        local_xy=local, local_yaw=yaw, column=column, box=box, owner=owner,
    )  # fmt: skip


def top_levels(height_m: Floats) -> Ints:
    """Level above the highest that a box of this height, standing on the ground, fills."""
    levels: Ints = np.rint(height_m / OCC3D.voxel_m + 0.2).astype(np.int64)
    return GROUND_LEVEL + np.maximum(1, levels)


def complete_labels(town: Town, state: SimState, scene: Crop) -> NDArray[np.uint8]:
    """(X*Y, 16) labels of everything, visible or not: the town's columns with solid agents stamped onto them."""
    # A column of 16 bytes is fetched as one complex number, numpy's widest element.
    labels = town.columns.reshape(-1).view(np.complex128).take(scene.source).view(np.uint8).reshape(NX * NY, NZ)
    if scene.outside is not None:
        labels[scene.outside.reshape(-1)] = FREE
    top, label = top_levels(state.agents.size_m[scene.ids, 2]), state.agents.label[scene.ids].astype(np.uint8)
    level = np.arange(NZ)
    filled = (level >= GROUND_LEVEL) & (level < top[scene.box][:, None])
    labels[scene.column] = np.where(filled, label[scene.box][:, None], labels[scene.column])
    return labels
