"""Fetching and stamping a scene, and what a LiDAR reaches in it, against slow twins that go cell by cell."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from world_model.core.grid import FREE, OCC3D
from world_model.simulator import SimState, Simulator
from world_model.simulator.sensing import sensor
from world_model.simulator.sensing.crop import complete_labels, crop, near_agents, top_levels, turned_cells
from world_model.simulator.sensing.footprints import MARGIN_M, NX, NY, NZ, footprints
from world_model.simulator.town.town import CELL_M, GROUND_LEVEL, build_town

SEED = 3
LOW, V = OCC3D.lower_m, OCC3D.voxel_m


def centre(i: int, j: int) -> tuple[float, float]:
    return LOW[0] + V * (i + 0.5), LOW[1] + V * (j + 0.5)


def slow_footprint(x: float, y: float, yaw: float, length: float, width: float) -> set[int]:
    """Try every cell."""
    cells = set()
    for i in range(NX):
        for j in range(NY):
            u, v = centre(i, j)[0] - x, centre(i, j)[1] - y
            along, aside = math.cos(yaw) * u + math.sin(yaw) * v, math.cos(yaw) * v - math.sin(yaw) * u
            own = (i, j) == (math.floor((x - LOW[0]) / V), math.floor((y - LOW[1]) / V))
            if own or (abs(along) <= length / 2 + MARGIN_M and abs(aside) <= width / 2 + MARGIN_M):
                cells.add(i * NY + j)
    return cells


BOXES = [
    (3.1, -7.3, 0.4, 4.6, 1.9),
    (-39.8, 39.7, 2.1, 11.0, 2.9),  # half outside the grid
    (0.07, 0.03, 0.0, 4.0, 2.0),  # parallel to the grid
    (12.0, 3.3, math.pi / 2, 6.5, 2.4),
    (5.5, 5.7, -2.9, 0.05, 0.02),  # smaller than a voxel
    (70.0, 0.0, 1.0, 5.0, 2.0),  # far outside
]


def test_footprints_are_the_cells_inside() -> None:
    table = np.array(BOXES)
    size = np.column_stack([table[:, 3:5], np.ones(len(table))])
    cell, owner = footprints(table[:, :2], table[:, 2], size)
    assert (np.diff(owner) >= 0).all()
    for k, box in enumerate(BOXES):
        found = cell[owner == k].tolist()
        assert len(found) == len(set(found))
        assert set(found) == slow_footprint(*box)


def test_no_boxes_have_no_cells() -> None:
    cell, owner = footprints(np.zeros((0, 2)), np.zeros(0), np.zeros((0, 3)))
    assert len(cell) == len(owner) == 0


def test_turned_cells_are_where_the_columns_lie() -> None:
    x, y, yaw = 211.37, 190.02, 2.3
    i, j = turned_cells(x, y, yaw, (10.0, 20.0))
    rng = np.random.default_rng(0)
    for a, b in rng.integers(0, NX, (300, 2)).tolist():
        u, v = centre(a, b)
        exact = (x + math.cos(yaw) * u - math.sin(yaw) * v - 10.0) / CELL_M
        exact_j = (y + math.sin(yaw) * u + math.cos(yaw) * v - 20.0) / CELL_M
        # Fixed-point numbers may decide otherwise only within a thousandth of a cell of an edge.
        assert i[a, b] <= exact + 1e-3 and exact - 1e-3 < i[a, b] + 1
        assert j[a, b] <= exact_j + 1e-3 and exact_j - 1e-3 < j[a, b] + 1


@pytest.mark.parametrize("far", [1e6, -1e9, 1e300])
def test_far_away_nothing_overflows(far: float) -> None:
    i, j = turned_cells(far, -far, 0.7, (0.0, 0.0))
    assert (np.abs(i.astype(float)) > 5000).all() and (np.abs(j.astype(float)) > 5000).all()
    assert (np.sign(i) == np.sign(far)).all()


@pytest.fixture(scope="module")
def state() -> SimState:
    simulator = Simulator()
    return simulator.step(simulator.reset(SEED, 0))


def slow_columns(state: SimState) -> tuple[np.ndarray, np.ndarray]:
    """Column by column from the town, then agent by agent."""
    town = build_town(state.seed, state.town_id)
    i, j = turned_cells(state.ego.x, state.ego.y, state.ego.yaw, (0.0, 0.0))
    labels, heights = np.full((NX, NY, NZ), FREE, np.uint8), np.zeros((NX, NY), np.uint8)
    n = len(town.occluder)
    for a in range(NX):
        for b in range(NY):
            if 0 <= i[a, b] < n and 0 <= j[a, b] < n:
                labels[a, b], heights[a, b] = town.columns[i[a, b], j[a, b]], town.occluder[i[a, b], j[a, b]]
    ids, local, yaw = near_agents(state)
    for a, (x, y), h in zip(ids, local, yaw, strict=True):
        size = state.cast.size_m[a]
        top = int(top_levels(size[2:])[0])
        for cell in slow_footprint_near(float(x), float(y), float(h), size):
            labels[cell][GROUND_LEVEL:top] = state.cast.label[a]
            heights[cell] = max(heights[cell], top)
    return labels, heights


def slow_footprint_near(x: float, y: float, yaw: float, size: np.ndarray) -> list[tuple[int, int]]:
    cells, _ = footprints(np.array([[x, y]]), np.array([yaw]), size[None])
    return [(int(c) // NY, int(c) % NY) for c in cells]


@pytest.mark.parametrize("moved", [0.0, 250.0])
def test_a_scene_is_the_town_and_its_agents(state: SimState, moved: float) -> None:
    """Also where part of the grid lies beyond the border of the town."""
    state = replace(state, ego=replace(state.ego, x=state.ego.x + moved))
    town = build_town(state.seed, state.town_id)
    scene = crop(town, state)
    labels, heights = slow_columns(state)
    assert (scene.outside is not None) == (moved > 0)
    assert (scene.occluder == heights).all()
    assert (complete_labels(town, state, scene).reshape(NX, NY, NZ) == labels).all()
    assert ((scene.owner >= 0).sum() > 50) or moved


def slow_look(occluder: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ray by ray, bin by bin."""
    lowest, highest = np.zeros((NX, NY)), np.zeros((NX, NY))
    bins, azimuths = sensor.BINS, sensor.AZIMUTHS
    slopes = np.zeros((azimuths, bins))
    for a in range(azimuths):
        angle = (a + 0.5) / azimuths * 2 * math.pi - math.pi
        for r in range(bins):
            away = (r + 0.5) * sensor.BIN_M
            i = math.floor((sensor.LIDAR_X_M + away * math.cos(angle) - LOW[0]) / V)
            j = math.floor((away * math.sin(angle) - LOW[1]) / V)
            top = occluder[i, j] * V + LOW[2] if 0 <= i < NX and 0 <= j < NY else 0.0
            slopes[a, r] = (max(top, 0.0) - sensor.LIDAR_Z_M) / away
    for i in range(NX):
        for j in range(NY):
            x, y = centre(i, j)
            away = math.hypot(x - sensor.LIDAR_X_M, y)
            a = math.floor((math.atan2(y, x - sensor.LIDAR_X_M) + math.pi) / (2 * math.pi) * azimuths) % azimuths
            r = min(int(away / sensor.BIN_M), bins - 1)
            before = slopes[a, : max(0, r - sensor.SELF_BINS + 1)]
            front = before.max() if len(before) else -9.0
            lowest[i, j] = sensor.LIDAR_Z_M + front * max(away, 0.5)
            highest[i, j] = sensor.LIDAR_Z_M + slopes[a, r:].max() * max(away, 0.5)
    return lowest, highest


def test_rays_end_at_the_steepest_slope_before_them(state: SimState) -> None:
    occluder = crop(build_town(state.seed, state.town_id), state).occluder
    for fast, slow in zip(sensor.look(occluder), slow_look(occluder), strict=True):
        # Columns whose centre lies on the edge of a polar bin may be read one bin on in single precision.
        assert (np.abs(fast - slow) < 1e-3).mean() > 0.999


def test_a_wall_hides_what_is_behind_it() -> None:
    occluder = np.zeros((NX, NY), np.uint8)
    occluder[130:133, 60:140] = 8  # twelve metres ahead, over a metre thick, 2.2 m high
    lowest, _ = sensor.look(occluder)
    assert lowest[120, 100] < 0 and lowest[150, 100] > 2.2


def test_noise_is_unit_smooth_and_drifts_between_independent_fields() -> None:
    noise = sensor.gap_noise()
    field = noise.real.reshape(sensor.NOISE_CELLS, sensor.NOISE_CELLS, NZ)
    assert abs(field.std() - 1) < 1e-3
    assert (field[1:] * field[:-1]).mean() > 0.9
    assert abs((noise.real * noise.imag).mean()) < 0.1
    assert np.allclose(sensor.drifted(noise[:9], 0.0), noise[:9])
    assert np.allclose(sensor.drifted(noise[:9], math.pi / 2).real, noise[:9].imag, atol=1e-6)
    assert (sensor.ground_noise().reshape(256, 256) == noise.reshape(256, 256, NZ)[..., 0]).all()
