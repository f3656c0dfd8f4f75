"""Features read off the occupancy, against a twin that walks along every ray."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import slow_geometry as slow
import torch
from street import ROAD_M, SMALL, WALL_M, street, street_clips

from ii_world_env.ego.footprint import CENTER_M, FootprintConfig, solid_columns
from ii_world_env.engine import Engine, EngineConfig, State
from ii_world_env.observations import features
from ii_world_env.observations.features import FEATURE_BOUNDS, FEATURES, RAYS, REACH_M, ROAD_REACH_M
from world_model.core.geometry import inverse
from world_model.core.grid import EGO_WIDTH_M, FREE, OBSTACLE
from world_model.worlds import TransportWorld

CONFIG = FootprintConfig()
rng = np.random.default_rng(11)


def random_state() -> State:
    """An ego that has driven a bit, among blocks and patches of ground."""
    engine = Engine(TransportWorld(SMALL), EngineConfig())
    state = engine.reset(street_clips(SMALL))
    labels = np.full(SMALL.shape, FREE, np.uint8)
    labels[..., 2] = rng.choice([11, 13, 14, FREE], size=(20, 20), p=[0.6, 0.1, 0.1, 0.2]).repeat(5, 0).repeat(5, 1)
    for i, j in rng.integers(0, 98, (12, 2)):
        labels[i : i + 2, j : j + 2, 3:6] = rng.choice(OBSTACLE)
    ground = rng.choice([-1, 0, 1], size=(20, 20)).astype(np.int8).repeat(5, 0).repeat(5, 1)
    return replace(
        state,
        decoded=torch.from_numpy(labels)[None],
        ground=torch.from_numpy(ground)[None],
        pose=torch.tensor([[3.0, -1.0, 0.4]]),
        progress_m=torch.tensor([3.0]),
    )


def solid(state: State) -> torch.Tensor:
    return solid_columns(state.labels, SMALL, CONFIG)


def is_solid(labels: np.ndarray, x: float, y: float) -> bool:
    column = slow.column(labels, x, y, SMALL)
    low, high = CONFIG.band_m
    return any(c in OBSTACLE and low <= slow.height(SMALL, k) <= high for k, c in enumerate(column))


def slow_ray(labels: np.ndarray, angle: float) -> float:
    for n in range(1, int(REACH_M / 0.2) + 1):
        x, y = CENTER_M + 0.2 * n * math.cos(angle), 0.2 * n * math.sin(angle)
        if is_solid(labels, x, y) and not slow.in_body(x, y):
            return 0.2 * n
    return REACH_M


def slow_margin(state: State, x: float, side: int) -> float:
    home = tuple(inverse(state.pose)[0].tolist())
    for n in range(1, int(ROAD_REACH_M / 0.2) + 1):
        y = side * (EGO_WIDTH_M / 2 + 0.2 * n)
        drivable, other = slow.ground(state.labels[0].numpy(), state.ground[0].numpy(), x, y, SMALL, home)  # type: ignore[arg-type]
        if other and not drivable:
            return 0.2 * n
    return ROAD_REACH_M


@pytest.mark.parametrize("case", range(2))
def test_features_agree_with_the_slow_twin(case: int) -> None:
    state = random_state()
    labels = state.labels[0].numpy()
    seen = dict(zip(FEATURES, features.features(state, solid(state), SMALL, CONFIG)[0].tolist(), strict=True))
    rays = [slow_ray(labels, 2 * math.pi * k / RAYS) for k in range(RAYS)]
    found = [seen[f"free_{15 * k}_deg_m"] for k in range(RAYS)]
    # Samples that fall onto the edge of a voxel may count to either side: one sample of 0.2 m.
    assert np.abs(np.subtract(found, rays)).max() < 0.21 and np.isclose(found, rays, atol=1e-4).mean() > 0.9
    for station in (0, 8):
        for side, name in ((1, "left"), (-1, "right")):
            wanted = slow_margin(state, CENTER_M + station, side)
            assert seen[f"road_{name}_{station}_m"] == pytest.approx(wanted, abs=0.21)
    low, high = CONFIG.band_m
    cells = [
        [SMALL.lower_m[a] + SMALL.voxel_m * (n + 0.5) for a, n in enumerate((i, j))]
        for i, j, k in np.argwhere(np.isin(labels, OBSTACLE))
        if low <= slow.height(SMALL, k) <= high
    ]
    away = [math.hypot(x - CENTER_M, y) for x, y in cells if not slow.in_body(x, y)]
    assert seen["nearest_m"] == pytest.approx(min(away), abs=1e-4)
    assert math.hypot(seen["nearest_x_m"], seen["nearest_y_m"]) == pytest.approx(min(away), abs=1e-4)
    assert seen["lateral_m"] == pytest.approx(-1.0, abs=1e-5) and seen["heading_rad"] == pytest.approx(0.4, abs=1e-5)


def test_the_street_is_read_as_it_was_drawn() -> None:
    engine = Engine(TransportWorld(SMALL), EngineConfig())
    state = engine.reset(street_clips(SMALL, cars_x_m=(12.0,)))
    seen = dict(zip(FEATURES, features.features(state, solid(state), SMALL, CONFIG)[0].tolist(), strict=True))
    assert seen["free_0_deg_m"] == pytest.approx(12.0 - 2.0 - CENTER_M, abs=0.41)
    assert seen["free_90_deg_m"] == pytest.approx(WALL_M, abs=0.41) == seen["free_270_deg_m"]
    assert seen["free_180_deg_m"] == REACH_M
    for name in ("left", "right"):
        assert seen[f"road_{name}_0_m"] == pytest.approx(ROAD_M - EGO_WIDTH_M / 2, abs=0.41)
    assert seen["nearest_m"] == pytest.approx(12.0 - 2.0 - CENTER_M, abs=0.41) and seen["lateral_m"] == 0


def test_nothing_in_sight_is_the_farthest_and_all_stays_in_bounds() -> None:
    state = random_state()
    empty = replace(state, decoded=torch.full_like(state.labels, FREE), ground=torch.zeros_like(state.ground))
    assert features.nearest_obstacle(solid(empty), SMALL).tolist() == [[REACH_M, REACH_M, 0.0]]
    low, high = torch.tensor(FEATURE_BOUNDS).T
    for some in (state, empty, replace(state, pose=torch.tensor([[900.0, 900.0, -77.0]]))):
        values = features.features(some, solid(some), SMALL, CONFIG)[0]
        assert values.shape == (len(FEATURES),) and values.dtype == torch.float32
        assert bool(((values >= low) & (values <= high)).all())


def test_labels_inside_the_body_are_not_seen() -> None:
    labels = torch.from_numpy(street(SMALL))
    before = features.nearest_obstacle(solid_columns(labels[None], SMALL, CONFIG), SMALL)
    centres = [(n, SMALL.lower_m[0] + SMALL.voxel_m * (n + 0.5)) for n in range(100)]
    for i, x in centres:
        for j, y in centres:
            if slow.in_body(x, y):
                labels[i, j, 3:6] = 4
    assert int((labels == 4).sum()) == 120, "the body covers 10 by 4 columns"
    assert torch.equal(features.nearest_obstacle(solid_columns(labels[None], SMALL, CONFIG), SMALL), before)
    assert float(features.free_distances(solid_columns(labels[None], SMALL, CONFIG), SMALL).amin()) > 8
