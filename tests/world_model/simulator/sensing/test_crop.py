"""Fetching the town and stamping agents onto it, against a slow twin that goes cell by cell."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from world_model.core.grid import FREE
from world_model.simulator import SimState, Simulator
from world_model.simulator.sensing.cells import NX, NY, NZ, footprints, rotated_cells
from world_model.simulator.sensing.crop import complete_labels, crop, near_agents, top_levels
from world_model.simulator.town.painting import GROUND_LEVEL
from world_model.simulator.town.town import build_town

SEED = 3


@pytest.fixture(scope="module")
def state() -> SimState:
    simulator = Simulator()
    return simulator.step(simulator.reset(SEED, 0))


def slow_columns(state: SimState) -> tuple[np.ndarray, np.ndarray]:
    """Column by column from the town, then agent by agent."""
    town = build_town(state.seed, state.town_id)
    i, j = rotated_cells(state.ego.x, state.ego.y, state.ego.yaw, (0.0, 0.0))
    labels, heights = np.full((NX, NY, NZ), FREE, np.uint8), np.zeros((NX, NY), np.uint8)
    n = len(town.occluder)
    for a in range(NX):
        for b in range(NY):
            if 0 <= i[a, b] < n and 0 <= j[a, b] < n:
                labels[a, b], heights[a, b] = town.columns[i[a, b], j[a, b]], town.occluder[i[a, b], j[a, b]]
    ids, local, yaw = near_agents(state)
    for a, (x, y), h in zip(ids, local, yaw, strict=True):
        size = state.agents.size_m[a]
        top = int(top_levels(size[2:])[0])
        for cell in cells_under(float(x), float(y), float(h), size):
            labels[cell][GROUND_LEVEL:top] = state.agents.label[a]
            heights[cell] = max(heights[cell], top)
    return labels, heights


def cells_under(x: float, y: float, yaw: float, size: np.ndarray) -> list[tuple[int, int]]:
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
