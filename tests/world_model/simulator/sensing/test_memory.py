"""What the LiDAR has seen, carried from frame to frame, against a slow twin that goes column by column."""

from __future__ import annotations

import math

import numpy as np
import pytest

from world_model.core.grid import OCC3D
from world_model.simulator import SimState, Simulator
from world_model.simulator.sensing import sensor
from world_model.simulator.sensing.cells import NX, NY
from world_model.simulator.sensing.crop import crop
from world_model.simulator.sensing.memory import FORGET_HEIGHT_M, FORGET_RANGE, blank_memory, remember
from world_model.simulator.town.town import build_town

SEED = 3


@pytest.fixture(scope="module")
def simulator() -> Simulator:
    return Simulator()


@pytest.fixture(scope="module", params=[0, 1])
def state(request: pytest.FixtureRequest, simulator: Simulator) -> SimState:
    state = simulator.reset(SEED, request.param)
    for _ in range(3):
        state = simulator.step(state)
    return state


def slow_memory(state: SimState, after: SimState, lowest: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Column by column."""
    a, b = state.ego, after.ego
    driven = math.hypot(b.x - a.x, b.y - a.y)
    heights, ranges = np.array(lowest, float), np.full((NX, NY), sensor.NEVER_M)
    for i in range(NX):
        for j in range(NY):
            u, v = OCC3D.lower_m[0] + 0.4 * (i + 0.5), OCC3D.lower_m[1] + 0.4 * (j + 0.5)
            x = b.x + math.cos(b.yaw) * u - math.sin(b.yaw) * v - a.x
            y = b.y + math.sin(b.yaw) * u + math.cos(b.yaw) * v - a.y
            k = math.floor((math.cos(a.yaw) * x + math.sin(a.yaw) * y - OCC3D.lower_m[0]) / 0.4)
            m = math.floor((math.cos(a.yaw) * y - math.sin(a.yaw) * x - OCC3D.lower_m[1]) / 0.4)
            if lowest[i, j] < 3.2:
                ranges[i, j] = sensor.rays().range_m[i, j]
            if 0 <= k < NX and 0 <= m < NY:
                heights[i, j] = min(heights[i, j], state.memory.lowest_m[k, m] + FORGET_HEIGHT_M * driven)
                ranges[i, j] = min(ranges[i, j], state.memory.range_m[k, m] + FORGET_RANGE * driven)
    return heights, ranges


def test_memory_is_carried_into_the_new_frame(simulator: Simulator, state: SimState) -> None:
    after = simulator.step(state, (2.7, 0.4, 0.2))
    lowest, _ = sensor.cast_rays(crop(build_town(after.seed, after.town_id), after).occluder)
    kept = lowest.copy()
    memory = remember(state.memory, state.ego, after.ego, lowest, 0.5)
    assert (lowest == kept).all()
    heights, ranges = slow_memory(state, after, lowest)
    assert (np.abs(memory.lowest_m - heights) < 1e-4).mean() > 0.999
    assert (np.abs(memory.range_m - ranges) < 1e-3).mean() > 0.999
    assert (memory.lowest_m == after.memory.lowest_m).all()


def test_standing_still_keeps_all_that_was_seen(simulator: Simulator, state: SimState) -> None:
    nothing = np.full((NX, NY), 99.0, np.float32)
    memory = remember(state.memory, state.ego, state.ego, nothing, 0.5)
    assert (memory.lowest_m == state.memory.lowest_m).all() and (memory.range_m == state.memory.range_m).all()
    assert (remember(blank_memory(), state.ego, state.ego, nothing, 0.5).range_m == sensor.NEVER_M).all()
