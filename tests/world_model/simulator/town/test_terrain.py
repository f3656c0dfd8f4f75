"""Heights of a town: bounded slopes, kerbs, nothing else changed, bad heights refused."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from world_model.core.errors import ConfigError
from world_model.core.grid import EGO_WHEELBASE_M
from world_model.simulator import Simulator
from world_model.simulator.simulator import SimulatorConfig
from world_model.simulator.state import Ego
from world_model.simulator.town import town as towns
from world_model.simulator.town.painting import CELL_M
from world_model.simulator.town.terrain import KERB_M, STEEPEST_DEG, Terrain, road_slopes
from world_model.simulator.town.town import Town, build_town

SEED = 3


@pytest.fixture(scope="module")
def town() -> Town:
    return build_town(SEED, 0, "hills")


def ego_at(x: float, y: float, yaw: float) -> Ego:
    return replace(Simulator().reset(SEED, 0).ego, x=x, y=y, yaw=yaw)


def test_it_is_the_flat_town_on_other_ground(town: Town) -> None:
    flat = build_town(SEED, 0)
    assert flat.terrain is None and town.terrain is not None
    for name in ("columns", "occluder", "slots", "works"):
        assert (getattr(flat, name) == getattr(town, name)).all()
    again = towns._build_town.__wrapped__(SEED, 0, "hills")
    assert (again.terrain.height_m == town.terrain.height_m).all()


def test_roads_are_as_steep_as_real_ones(town: Town) -> None:
    assert town.terrain is not None
    along, across = (np.degrees(np.arctan(slope)) for slope in road_slopes(town.terrain, town.network))
    assert 0.3 < np.percentile(along, 95) <= STEEPEST_DEG
    assert np.percentile(across, 95) <= STEEPEST_DEG / 2 and along.max() <= STEEPEST_DEG * 1.1


def test_sidewalks_are_raised_by_a_kerb(town: Town) -> None:
    assert town.terrain is not None
    street = max(town.network.streets, key=lambda s: len(s.line))
    middle = len(street.line) // 2
    (x, y), (ahead_x, ahead_y) = street.line[middle], street.line[middle + 1]
    heading = math.atan2(ahead_y - y, ahead_x - x)
    aside = np.array([street.half_width_m - 0.6, street.half_width_m + 0.6])
    low, high = town.terrain.at(x + np.sin(heading) * aside, y - np.cos(heading) * aside)
    assert KERB_M[0] - 0.1 < high - low < KERB_M[1] + 0.1


def test_a_plane_is_found_under_the_ego() -> None:
    i, j = np.meshgrid(np.arange(40) + 0.5, np.arange(40) + 0.5, indexing="ij")
    terrain = Terrain(height_m=(2 + CELL_M * (0.05 * i - 0.02 * j)).astype(np.float32))
    for yaw in (0.0, 1.0, math.pi):
        z, along, left = terrain.under(ego_at(6.0, 7.0, yaw))
        assert math.isclose(z, 2 + 0.05 * 6 - 0.02 * 7, abs_tol=1e-5)
        assert math.isclose(along, 0.05 * math.cos(yaw) - 0.02 * math.sin(yaw), abs_tol=1e-5 / EGO_WHEELBASE_M)
        assert math.isclose(left, -0.05 * math.sin(yaw) - 0.02 * math.cos(yaw), abs_tol=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 7.0])
def test_heights_that_do_not_fit_into_the_grid_are_refused(bad: float) -> None:
    heights = np.zeros((5, 5), np.float32)
    heights[2, 2] = bad
    with pytest.raises(ConfigError, match="fit into the grid"):
        Terrain(height_m=heights)
    with pytest.raises(ConfigError, match="terrain='moon'"):
        SimulatorConfig(terrain="moon")
