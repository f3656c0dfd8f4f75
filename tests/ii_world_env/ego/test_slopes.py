"""Driving on slopes: heights count from the local ground, at every slope that roads have."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ii_world_env.ego.footprint import FootprintConfig, contacts, ground_votes, off_road, solid_columns
from ii_world_env.observations.features import free_distances
from world_model.core.grid import CLASS_ID, FREE, OCC3D
from world_model.core.ground import on_level_ground

CONFIG, FAR = FootprintConfig(), torch.tensor([[1e3, 0.0, 0.0]])
ROAD, WALK, CAR, CROWN = (CLASS_ID[n] for n in ("driveable_surface", "sidewalk", "car", "vegetation"))
KERB_Y = 5.0
X, Y = np.meshgrid(*(OCC3D.lower_m[a] + 0.4 * (np.arange(200) + 0.5) for a in (0, 1)), indexing="ij")
SLOPES = [(along, across) for along in (-6.0, -3.0, 0.0, 3.0, 6.0) for across in (-3.0, 0.0, 3.0)]


def hill(along_deg: float, across_deg: float, car_x: float | None = None, curve: float = 0.0) -> torch.Tensor:
    """(1, X, Y, Z) a road with raised sidewalks and trees over them, on a slope; optionally a car across it."""
    labels = np.full(OCC3D.shape, FREE, np.uint8)
    height = np.tan(np.radians(along_deg)) * X + np.tan(np.radians(across_deg)) * Y + curve * X**2
    beside = np.abs(Y) > KERB_Y
    level = np.rint((height + 0.3 * beside) / 0.4).astype(int) + 2

    def put(where: np.ndarray, low: int, high: int, name: int) -> None:
        for up in range(low, high):
            z = level + up
            here = where & (z >= 0) & (z < 16)
            labels[(*np.nonzero(here), z[here])] = name

    put(~beside, 0, 1, ROAD)
    put(beside, 0, 1, WALK)
    put(np.abs(Y) < 8, 9, 11, CROWN)  # 3.6 m above the road
    if car_x is not None:
        put((np.abs(X - car_x) < 2.3) & (np.abs(Y) < 1), 0, 5, CAR)
    return torch.from_numpy(labels)[None]


def along(*xs: float, y: float = 0.0) -> torch.Tensor:
    return torch.tensor([[(x, y, 0.0) for x in xs]])


@pytest.mark.parametrize(("slope", "lean"), SLOPES)
def test_roads_kerbs_and_crowns_are_no_obstacles_and_cars_are(slope: float, lean: float) -> None:
    free, blocked = (on_level_ground(hill(slope, lean, car)) for car in (None, 20.0))
    way = along(0, 5, 10, 20, 30)
    assert (contacts(free, way, FAR, OCC3D, CONFIG) == 0).all(), "the road and what hangs over it"
    assert (contacts(free, along(0, 10, 20, y=KERB_Y), FAR, OCC3D, CONFIG) == 0).all(), "the kerb"
    hit = contacts(blocked, way, FAR, OCC3D, CONFIG)[0]
    assert hit[3] >= 3 * CONFIG.min_voxels and (hit[[0, 1, 2, 4]] == 0).all()
    distance = free_distances(solid_columns(blocked, OCC3D, CONFIG), OCC3D)[0, 0]
    assert abs(float(distance) - (20 - 2.3 - 1.29)) < 0.5
    assert (free_distances(solid_columns(free, OCC3D, CONFIG), OCC3D)[0, 0] > 35).all()


@pytest.mark.parametrize(("slope", "lean"), SLOPES)
def test_the_road_goes_on_uphill_and_ends_at_the_kerb(slope: float, lean: float) -> None:
    labels = on_level_ground(hill(slope, lean))
    votes = ground_votes(labels, OCC3D, CONFIG)
    inside = (hill(slope, lean)[0] == ROAD).any(-1)
    assert (votes[0][inside & torch.from_numpy(np.abs(X) < 36)] == 1).all()
    none, uphill = torch.zeros_like(votes), [0.0, 10.0 if slope >= 0 else -10.0, 30.0 if slope >= 0 else -30.0]
    assert not off_road(labels, none, along(*uphill), FAR, OCC3D, CONFIG).any()
    assert off_road(labels, none, along(*uphill, y=KERB_Y + 3), FAR, OCC3D, CONFIG).all()


def test_crests_and_dips() -> None:
    for curve in (-0.0015, 0.0015):
        labels = on_level_ground(hill(0.0, 0.0, 20.0, curve))
        hit = contacts(labels, along(0, 5, 10, 20, 30), FAR, OCC3D, CONFIG)[0]
        assert hit[3] >= 3 * CONFIG.min_voxels and (hit[[0, 1, 2, 4]] == 0).all()


def test_flat_roads_stay_as_they_are_and_batches_equal_singles() -> None:
    flat = hill(0.0, 0.0, 20.0)
    assert on_level_ground(flat) is flat
    batch = torch.cat([flat, hill(6.0, 3.0, 20.0), hill(-3.0, 0.0), torch.full_like(flat, FREE)])
    for row, lowered in zip(batch, on_level_ground(batch), strict=True):
        assert torch.equal(on_level_ground(row[None])[0], lowered)
    assert torch.equal(on_level_ground(batch)[0], flat[0])
