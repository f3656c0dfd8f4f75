"""From a state to Occ3D-like labels: gather the town, stamp agents, drop what a LiDAR would not have seen."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from world_model.grid import CLASS_ID, FREE, OCC3D
from world_model.simulator import sensor
from world_model.simulator.state import Ego, Floats, Ints, Memory, SimState
from world_model.simulator.town import CELL_M, GROUND_LEVEL, LEVELS, Town

NX, NY, NZ = OCC3D.shape
CENTRES_X = OCC3D.lower_m[0] + OCC3D.voxel_m * (np.arange(NX) + 0.5)
CENTRES_Y = OCC3D.lower_m[1] + OCC3D.voxel_m * (np.arange(NY) + 0.5)
FLAT = np.arange(NX * NY).reshape(NX, NY)
DRIFT_RAD_PER_M, DRIFT_RAD_PER_S = 0.29, 0.12
OBJECT_DRIFT = 1.6
"""Gaps in objects drift faster than those in the world by this factor."""
FORGET_RANGE, FORGET_HEIGHT_M = 0.5, 0.08
"""Per metre driven: growth of the remembered viewing distance (metres) and of the lowest height seen."""
RANGES_M = np.array([0.0, 8.0, 15.0, 25.0, 35.0, 45.0, 57.0, 90.0, 200.0])
COVER = {
    "driveable_surface": np.array([2.8, 1.9, 0.7, 0.35, 0.3, 0.2, -0.2, -1.2, -9]),
    "other_flat": np.array([1.6, 1.3, 0.6, 0.2, 0.0, -0.3, -0.7, -1.6, -9]),
    "sidewalk": np.array([1.4, 1.1, 0.4, -0.1, -0.4, -0.7, -1.0, -1.6, -9]),
    "terrain": np.array([1.6, 1.3, 0.6, 0.2, 0.0, -0.3, -0.7, -1.6, -9]),
    "manmade": np.array([2.0, 1.9, 1.6, 1.3, 1.0, 0.9, 0.7, -0.5, -9]),
    "vegetation": np.array([1.6, 1.4, 1.0, 0.6, 0.4, 0.2, 0.0, -0.8, -9]),
}
"""Gap thresholds in standard deviations of the noise over the distance from which a surface was seen best."""
OBJECT_COVER = np.array([3.0, 3.0, 1.9, 0.7, -0.1, -0.6, -1.0, -2.0, -9])


@dataclass(frozen=True)
class Labels:
    """One frame of labels in the ego frame, each (200, 200, 16) uint8: class ids, and the two Occ3D masks (0 or 1)."""

    semantics: NDArray[np.uint8]
    mask_lidar: NDArray[np.uint8]
    mask_camera: NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Frame:
    """The complete scene around the ego before visibility is applied.

    Args:
        semantics: (X*Y, 16) uint8 static town and agents.
        owner: (X*Y,) agent in a column or -1.
        cell_i, cell_j: (X*Y,) town cell of each column. occluder: (X, Y) uint8 levels.
    """

    semantics: NDArray[np.uint8]
    owner: Ints
    cell_i: Ints
    cell_j: Ints
    occluder: NDArray[np.uint8]


def locate_columns(town: Town, ego: Ego) -> tuple[Ints, Ints, Ints, NDArray[np.bool_]]:
    """Town cell (i, j) of each of the X*Y columns, its clipped flat number, and whether it lies outside the town."""
    t = sensor.rays()
    c, s, n = math.cos(ego.yaw), math.sin(ego.yaw), town.occluder.shape[0]
    i = np.floor((ego.x + c * t.x - s * t.y) * (1 / CELL_M)).astype(np.int64).reshape(-1)
    j = np.floor((ego.y + s * t.x + c * t.y) * (1 / CELL_M)).astype(np.int64).reshape(-1)
    outside = (i < 0) | (j < 0) | (i >= n) | (j >= n)
    return i, j, np.clip(i, 0, n - 1) * n + np.clip(j, 0, n - 1), outside


def agent_frame(state: SimState) -> tuple[Ints, Floats, Floats]:
    """Agents whose box may touch the grid: index, centre (n, 2) and yaw in the ego frame."""
    e, m = state.ego, state.movers
    d = m.xy - np.array([e.x, e.y])
    near = np.flatnonzero((np.abs(d[:, 0]) < 66) & (np.abs(d[:, 1]) < 66))
    c, s = np.cos(e.yaw), np.sin(e.yaw)
    local = d[near] @ np.array([[c, -s], [s, c]])
    inside = (np.abs(local[:, 0]) < 46) & (np.abs(local[:, 1]) < 46)
    return near[inside], local[inside], m.yaw[near[inside]] - e.yaw


def stamp(state: SimState, occluder: NDArray[np.uint8], semantics: NDArray[np.uint8] | None = None) -> Ints:
    """Write solid agents into (X*Y,) heights and (X*Y, 16) labels in place; returns the owner of each column."""
    owner = np.full(NX * NY, -1)
    ids, local, yaw = agent_frame(state)
    size, label = state.cast.size_m, state.cast.label
    for a, (x, y), h in zip(ids.tolist(), local.tolist(), yaw.tolist(), strict=True):
        cells = footprint(x, y, h, size[a])
        if len(cells):
            top = GROUND_LEVEL + max(1, round(size[a, 2] / OCC3D.voxel_m + 0.2))
            occluder[cells] = np.maximum(occluder[cells], top)
            owner[cells] = a
            if semantics is not None:
                semantics[cells, GROUND_LEVEL:top] = label[a]
    return owner


def footprint(x: float, y: float, yaw: float, size_m: Floats) -> Ints:
    """Flat columns under a box, a little wider than the box as LiDAR labels are; at least the one at its centre."""
    low, v = OCC3D.lower_m, OCC3D.voxel_m
    half_l, half_w = float(size_m[0]) / 2 + 0.15, float(size_m[1]) / 2 + 0.15
    reach = math.hypot(half_l, half_w)
    i0, i1 = max(0, int((x - reach - low[0]) / v)), min(NX, int((x + reach - low[0]) / v) + 1)
    j0, j1 = max(0, int((y - reach - low[1]) / v)), min(NY, int((y + reach - low[1]) / v) + 1)
    if i0 >= i1 or j0 >= j1:
        return np.zeros(0, np.int64)
    u, w = CENTRES_X[i0:i1, None] - x, CENTRES_Y[None, j0:j1] - y
    c, s = math.cos(yaw), math.sin(yaw)
    inside = (np.abs(c * u + s * w) <= half_l) & (np.abs(c * w - s * u) <= half_w)
    ci, cj = int((x - low[0]) // v), int((y - low[1]) // v)
    if i0 <= ci < i1 and j0 <= cj < j1:
        inside[ci - i0, cj - j0] = True
    return FLAT[i0:i1, j0:j1][inside]


def compose(town: Town, state: SimState) -> Frame:
    """Everything around the ego, seen or not."""
    i, j, flat, outside = locate_columns(town, state.ego)
    words = town.columns.reshape(-1, LEVELS).view(np.uint64)
    columns = words[flat].view(np.uint8)
    occluder = town.occluder.reshape(-1)[flat]
    columns[outside], occluder[outside] = FREE, 0
    owner = stamp(state, occluder, columns)
    return Frame(semantics=columns, owner=owner, cell_i=i, cell_j=j, occluder=occluder.reshape(NX, NY))


def obstacles(town: Town, state: SimState) -> NDArray[np.uint8]:
    """(X, Y) opaque heights around the ego in levels: what hides the view."""
    _, _, flat, outside = locate_columns(town, state.ego)
    occluder = town.occluder.reshape(-1)[flat]
    occluder[outside] = 0
    stamp(state, occluder)
    return occluder.reshape(NX, NY)


def remember(memory: Memory, before: Ego, after: Ego, occluder: NDArray[np.uint8], dt_s: float) -> Memory:
    """Carry the memory into the new ego frame and add what is seen now."""
    t = sensor.rays()
    c, s = np.cos(before.yaw), np.sin(before.yaw)
    dx, dy = after.x - before.x, after.y - before.y
    px, py, turn = c * dx + s * dy, c * dy - s * dx, after.yaw - before.yaw
    c, s, driven = np.cos(turn), np.sin(turn), float(np.hypot(dx, dy))
    low, v = OCC3D.lower_m, OCC3D.voxel_m
    i = np.floor((px + c * t.x - s * t.y - low[0]) / v).astype(np.int64)
    j = np.floor((py + s * t.x + c * t.y - low[1]) / v).astype(np.int64)
    inside = (i >= 0) & (j >= 0) & (i < NX) & (j < NY)
    i, j = np.clip(i, 0, NX - 1), np.clip(j, 0, NY - 1)
    lowest_before = np.where(inside, memory.lowest_m[i, j] + FORGET_HEIGHT_M * driven, 99)
    range_before = np.where(inside, memory.range_m[i, j] + FORGET_RANGE * driven, sensor.NEVER_M)
    lowest, _ = sensor.look(occluder)
    range_now = np.where(lowest < 3.2, t.range_m, sensor.NEVER_M)
    return Memory(
        lowest_m=np.minimum(lowest, lowest_before).astype(np.float32),
        range_m=np.minimum(range_now, range_before).astype(np.float32),
        phase_rad=memory.phase_rad + DRIFT_RAD_PER_M * driven + DRIFT_RAD_PER_S * dt_s,
    )


def blank_memory() -> Memory:
    """Nothing seen yet."""
    return Memory(
        lowest_m=np.full((NX, NY), 99, np.float32), range_m=np.full((NX, NY), sensor.NEVER_M, np.float32), phase_rad=0.0
    )


def _cover_table() -> Floats:
    """(18, 201) gap threshold by class and whole metres."""
    metres = np.arange(201)
    table = np.full((FREE + 1, 201), -9.0, np.float32)
    for c in range(FREE):
        table[c] = np.interp(metres, RANGES_M, OBJECT_COVER)
    for name, values in COVER.items():
        table[CLASS_ID[name]] = np.interp(metres, RANGES_M, values)
    return table


COVER_TABLE = _cover_table()


def render(town: Town, state: SimState) -> Labels:
    """Labels of one state; see the module's docstring."""
    frame = compose(town, state)
    lowest_now, highest = sensor.look(frame.occluder)
    full = frame.semantics
    voxel = np.flatnonzero(full.reshape(-1) != FREE)
    column, level = voxel // NZ, voxel % NZ
    label = full.reshape(-1)[voxel]
    top = (level + 1) * OCC3D.voxel_m + OCC3D.lower_m[2]
    seen = top > state.memory.lowest_m.reshape(-1)[column]
    n = sensor.NOISE_CELLS - 1
    index = (
        ((frame.cell_i[column] + 61 * state.scene_index) & n) * sensor.NOISE_CELLS + (frame.cell_j[column] & n)
    ) * NZ + level
    noise = sensor.gap_level(index, state.memory.phase_rad)
    metres = np.minimum(state.memory.range_m.reshape(-1)[column], 200).astype(np.int64)
    keep = seen & (noise < COVER_TABLE[label, metres])
    mine = (frame.owner[column] >= 0) & np.isin(label, OBJECTS)
    keep[mine] = _objects(state, frame, column[mine], level[mine], top[mine], lowest_now)
    semantics = np.full(NX * NY * NZ, FREE, np.uint8)
    semantics[voxel[keep]] = label[keep]
    camera = _free_space(state, lowest_now, highest, frame)
    lidar = camera.copy()
    other = sensor.gap_level((index[keep] + 7 * NZ) % len(sensor.gap_noise()[0]), state.memory.phase_rad + 1.0)
    camera.reshape(-1)[voxel[keep]], lidar.reshape(-1)[voxel[keep]] = other < 0.45, other < 1.9
    return Labels(semantics.reshape(NX, NY, NZ), lidar.astype(np.uint8), camera.astype(np.uint8))


OBJECTS = np.arange(1, 11)
FREE_RANGES_M = np.array([0, 10, 20, 30, 40, 50])
FREE_COVER = np.array([3.0, 3.0, 1.9, 0.8, 0.1, -1.7])


def _objects(
    state: SimState, frame: Frame, column: Ints, level: Ints, top: Floats, lowest_now: Floats
) -> NDArray[np.bool_]:
    """Which voxels of agents are labelled: solid when near, fragments when far or half hidden."""
    t = sensor.rays()
    agent = frame.owner[column]
    visible = top > lowest_now.reshape(-1)[column]
    count = np.bincount(agent, minlength=len(state.cast.label))
    share = np.bincount(agent, weights=visible, minlength=len(count)) / np.maximum(count, 1)
    away = np.hypot(*(state.movers.xy - np.array([state.ego.x, state.ego.y])).T)
    threshold = np.interp(away, RANGES_M, OBJECT_COVER) - 2.0 * np.clip(0.6 - share, 0, 1) / 0.6
    threshold[share < 0.06] = -9
    e, m = state.ego, state.movers
    c, s = np.cos(e.yaw), np.sin(e.yaw)
    gx, gy = e.x + c * t.x - s * t.y, e.y + s * t.x + c * t.y
    dx, dy = gx.reshape(-1)[column] - m.xy[agent, 0], gy.reshape(-1)[column] - m.xy[agent, 1]
    ca, sa = np.cos(m.yaw[agent]), np.sin(m.yaw[agent])
    n = sensor.NOISE_CELLS - 1
    i = np.floor((ca * dx + sa * dy) / CELL_M).astype(np.int64) + 53 * agent
    j = np.floor((ca * dy - sa * dx) / CELL_M).astype(np.int64) + 97 * agent
    noise = sensor.gap_level(
        ((i & n) * sensor.NOISE_CELLS + (j & n)) * NZ + level, OBJECT_DRIFT * state.memory.phase_rad
    )
    return noise < threshold[agent]


def _free_space(state: SimState, lowest: Floats, highest: Floats, frame: Frame) -> NDArray[np.bool_]:
    """(X, Y, Z) voxels that rays of this moment pass through."""
    t = sensor.rays()
    z = ((np.arange(NZ) + 0.5) * OCC3D.voxel_m + OCC3D.lower_m[2]).astype(np.float32)
    lowest = np.minimum(lowest, state.memory.lowest_m)
    ceiling = np.minimum(highest + 0.1, sensor.LIDAR_Z_M + 0.32 * t.range_m + 0.6)
    n = sensor.NOISE_CELLS - 1
    flat = (((frame.cell_i + 13) & n) * sensor.NOISE_CELLS + (frame.cell_j & n)) * NZ
    noise = sensor.gap_level(flat, state.memory.phase_rad).reshape(NX, NY)
    ceiling[noise >= np.interp(t.range_m, FREE_RANGES_M, FREE_COVER)] = -9
    return (z > lowest[..., None].astype(np.float32) - 0.15) & (z < ceiling[..., None].astype(np.float32))
