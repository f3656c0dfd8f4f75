"""From a state to Occ3D-like labels: drop from the complete scene what a LiDAR would not have seen, and add the masks.

Only about a tenth of the voxels is occupied, so everything after the crop works on lists of occupied voxels; free space
is a range of levels in each column, written as one of a few ready-made columns. All is decided over the ground of each
column, as in the flat town, and lifted with the ground at the end.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from world_model.core.grid import CLASS_ID, CLASS_NAMES, FREE, OCC3D
from world_model.simulator.polylines import into
from world_model.simulator.sensing import sensor
from world_model.simulator.sensing.cells import NX, NY, NZ
from world_model.simulator.sensing.crop import Crop, complete_labels
from world_model.simulator.sensing.ground import lifted
from world_model.simulator.sensing.sensor import RayHeights
from world_model.simulator.state import Bools, Float32s, Ints, SimState
from world_model.simulator.town.painting import CELL_M
from world_model.simulator.town.town import Town

OBJECT_DRIFT = 1.6
"""Gaps in objects drift faster than those in the world by this factor."""
HALF_M = np.float32(OCC3D.voxel_m / 2)
UNDER_M = -99.0
"""A height below the grid."""
BEAM_SLOPE = 0.32
"""Of the LiDAR's highest beam."""
LAST_OBJECT = CLASS_ID["truck"]
"""Agents have the classes 1 to this one; the town has the others."""
RANGES_M = (0.0, 8.0, 15.0, 25.0, 35.0, 45.0, 57.0, 90.0, 200.0)
COVER = {
    "driveable_surface": (2.8, 1.9, 0.7, 0.35, 0.3, 0.2, -0.2, -1.2, -9),
    "other_flat": (1.6, 1.3, 0.6, 0.2, 0.0, -0.3, -0.7, -1.6, -9),
    "sidewalk": (1.4, 1.1, 0.4, -0.1, -0.4, -0.7, -1.0, -1.6, -9),
    "terrain": (1.6, 1.3, 0.6, 0.2, 0.0, -0.3, -0.7, -1.6, -9),
    "manmade": (2.0, 1.9, 1.6, 1.3, 1.0, 0.9, 0.7, -0.5, -9),
    "vegetation": (1.6, 1.4, 1.0, 0.6, 0.4, 0.2, 0.0, -0.8, -9),
    "free": (-9,) * 9,
}
"""Gap thresholds in standard deviations of the noise over the distance from which a surface was seen best."""
OBJECT_COVER = (3.0, 3.0, 1.9, 0.7, -0.1, -0.6, -1.0, -2.0, -9)
METRES = 201
CAMERA_COVER, LIDAR_COVER = 0.45, 1.9
"""Labelled voxels with noise below these thresholds are inside mask_camera and mask_lidar."""
FREE_RANGES_M, FREE_COVER = (0, 10, 20, 30, 40, 50), (3.0, 3.0, 1.9, 0.8, 0.1, -1.7)
"""Gap thresholds of free space over the distance from the LiDAR."""
FREE_SHIFT_I, SCENE_SHIFT_I = 13, 61
"""The noise is read at shifted places, so that free space and scenes do not share their gaps."""
WRAP = sensor.NOISE_CELLS - 1


@dataclass(frozen=True)
class Labels:
    """One frame of labels in the ego frame, each (200, 200, 16) uint8: class ids, and the two Occ3D masks (0 or 1)."""

    semantics: NDArray[np.uint8]
    mask_lidar: NDArray[np.uint8]
    mask_camera: NDArray[np.uint8]


COVER_TABLE = np.concatenate(
    [np.interp(np.arange(METRES), RANGES_M, COVER.get(name, OBJECT_COVER)) for name in CLASS_NAMES]
).astype(np.float32)
"""Gap threshold by class and whole metres, at ``METRES * class + metre``."""
LEVEL = np.arange(NZ + 1)
LEVEL_RANGES = np.logical_and(LEVEL[:NZ] >= LEVEL[:, None, None], LEVEL[:NZ] < LEVEL[:, None]).view(np.complex128)
"""Columns that are 1 from a first level up to (without) a last one, each one element, at ``17 * first + last``."""
TOPS_M = (LEVEL[1:] * OCC3D.voxel_m + OCC3D.lower_m[2]).astype(np.float32)


def render(town: Town, state: SimState, scene: Crop, heights: RayHeights) -> Labels:
    """Labels of one state; see the module's docstring.

    Args:
        town, state: what and where. scene: of ``crop``. heights: of ``cast_rays`` over that scene.
    """
    lowest_now, highest = heights
    voxel, label, drift = _labelled(state, scene, complete_labels(town, state, scene).reshape(-1), lowest_now)
    if scene.ground_m is not None:
        voxel, row = lifted(voxel, label, scene.ground_m)
        label, drift = label[row], drift[row]
    camera = free_space(state, lowest_now, highest, scene).reshape(-1)
    lidar = camera.copy()
    semantics = np.full(NX * NY * NZ, FREE, np.uint8)
    semantics[voxel] = label
    camera[voxel], lidar[voxel] = drift < CAMERA_COVER, drift < LIDAR_COVER
    return Labels(*(a.reshape(NX, NY, NZ) for a in (semantics, lidar, camera)))


def _labelled(
    state: SimState, scene: Crop, labels: NDArray[np.uint8], lowest_now: Float32s
) -> tuple[Ints, NDArray[np.uint8], Float32s]:
    """Voxels (n,) of the flat town that a LiDAR labels: flat number, class, and a second, independent noise."""
    memory = state.memory
    # A voxel is seen if its top lies above the lowest height that was seen in its column; objects decide by shares.
    first = _level(memory.lowest_m.reshape(-1) - HALF_M)
    first[scene.owner >= 0] = 0
    seen = LEVEL_RANGES.take(first * (NZ + 1) + NZ).view(np.bool_)
    seen &= labels != FREE
    voxel = np.flatnonzero(seen)
    label = labels.take(voxel)
    column, level = voxel >> 4, voxel & 15
    base = _noise_cells(scene, SCENE_SHIFT_I * state.scene_index)
    noise = sensor.drifted(sensor.gap_noise().take(base.take(column) * NZ + level), memory.phase_rad)
    metres = np.minimum(memory.range_m, METRES - 1).astype(np.int64)
    keep = noise.real < COVER_TABLE.take(label.astype(np.int64) * METRES + metres.take(column))
    mine = np.flatnonzero(label <= LAST_OBJECT)
    keep[mine] = _objects(state, scene, column[mine], level[mine], lowest_now)
    kept = np.flatnonzero(keep)
    return voxel.take(kept), label.take(kept), noise.imag[kept]


def _objects(state: SimState, scene: Crop, column: Ints, level: Ints, lowest_now: Float32s) -> Bools:
    """Which voxels of agents are labelled: solid when near, fragments when far or half hidden."""
    agent = scene.owner[column].astype(np.int64)
    n = len(scene.ids)
    visible = TOPS_M[level] > lowest_now.reshape(-1)[column]
    share = np.bincount(agent, visible, n) / np.maximum(np.bincount(agent, minlength=n), 1)
    away = np.hypot(scene.local_xy[:, 0], scene.local_xy[:, 1])
    threshold = np.interp(away, RANGES_M, OBJECT_COVER) - 2.0 * np.clip(0.6 - share, 0, 1) / 0.6
    threshold[share < 0.06] = -9
    dx = OCC3D.lower_m[0] + OCC3D.voxel_m * (column // NY + 0.5) - scene.local_xy[agent, 0]
    dy = OCC3D.lower_m[1] + OCC3D.voxel_m * (column % NY + 0.5) - scene.local_xy[agent, 1]
    along, left = into(dx, dy, np.cos(scene.local_yaw)[agent], np.sin(scene.local_yaw)[agent])
    # The gaps of an object move with it: its noise is read in its own frame, at a place of its own.
    i = np.floor(along / CELL_M).astype(np.int64) + 53 * scene.ids[agent]
    j = np.floor(left / CELL_M).astype(np.int64) + 97 * scene.ids[agent]
    index = ((i & WRAP) * sensor.NOISE_CELLS + (j & WRAP)) * NZ + level
    noise = sensor.drifted(sensor.gap_noise().take(index), OBJECT_DRIFT * state.memory.phase_rad)
    labelled: Bools = noise.real < threshold[agent]
    return labelled


def free_space(state: SimState, lowest: Float32s, highest: Float32s, scene: Crop) -> NDArray[np.uint8]:
    """(X, Y, Z) 1 for voxels that rays of this moment pass through: their centre lies between two heights.

    Args:
        lowest, highest: of ``cast_rays`` at this moment.
    """
    noise = sensor.drifted(sensor.ground_noise().take(_noise_cells(scene, FREE_SHIFT_I)), state.memory.phase_rad).real
    ceiling, threshold = _free_tables()
    first = np.minimum(lowest, state.memory.lowest_m) - np.float32(0.15)
    last = highest + np.float32(0.1)
    if scene.ground_m is not None:
        first, last = first + scene.ground_m, last + scene.ground_m
    last = np.minimum(last, ceiling)
    last[noise >= threshold] = UNDER_M
    code = _level(first) * (NZ + 1) + _level(last)
    return LEVEL_RANGES.take(code).view(np.uint8).reshape(NX, NY, NZ)


def _noise_cells(scene: Crop, shift: int) -> Ints:
    """(X, Y) place of each column in the periodic noise, moved by some town cells."""
    cell = (scene.cell_i + shift % sensor.NOISE_CELLS) & WRAP
    cell *= sensor.NOISE_CELLS
    cell += scene.cell_j & WRAP
    return cell.astype(np.intp)


def _level(height_m: Float32s) -> Ints:
    """First level whose centre lies above a height, 0..16."""
    level = (height_m - np.float32(OCC3D.lower_m[2])) * np.float32(1 / OCC3D.voxel_m) + np.float32(0.5)
    return np.minimum(np.maximum(level, 0), NZ).astype(np.int64)


@lru_cache(maxsize=1)
def _free_tables() -> tuple[Float32s, Float32s]:
    """(X, Y) height of the highest LiDAR beam over each column, and the gap threshold of its free space."""
    away = sensor.rays().range_m
    beam = sensor.LIDAR_Z_M + BEAM_SLOPE * away + 0.6
    return beam.astype(np.float32), np.interp(away, FREE_RANGES_M, FREE_COVER).astype(np.float32)
