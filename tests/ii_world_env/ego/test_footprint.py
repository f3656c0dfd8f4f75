"""The body against the occupancy, compared with a slow readable twin."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from street import ROAD_M, SMALL, WALL_M, street

from ii_world_env.ego.footprint import FootprintConfig, band, contacts, ground_votes, off_road
from world_model.core.grid import (
    CLASS_ID,
    EGO_LENGTH_M,
    EGO_REAR_OVERHANG_M,
    EGO_WIDTH_M,
    FREE,
    OBSTACLE,
)

CONFIG = FootprintConfig()
FAR = torch.tensor([[1000.0, 0.0, 0.0]])
"""A place of the reset that is nowhere near."""


def labels_of(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array)[None]


def pose(x: float = 0.0, y: float = 0.0, yaw: float = 0.0) -> torch.Tensor:
    return torch.tensor([[[x, y, yaw]]])


def slow_contacts(labels: np.ndarray, x: float, y: float, yaw: float) -> int:
    """Every voxel of the grid, one by one."""
    count, v, low = 0, SMALL.voxel_m, SMALL.lower_m
    for i, j, k in np.argwhere(np.isin(labels, OBSTACLE)):
        cx, cy, cz = (low[a] + v * (n + 0.5) for a, n in enumerate((i, j, k)))
        dx, dy = cx - x, cy - y
        along, aside = math.cos(yaw) * dx + math.sin(yaw) * dy, math.cos(yaw) * dy - math.sin(yaw) * dx
        front, rear = EGO_LENGTH_M - EGO_REAR_OVERHANG_M, CONFIG.rear_zone_m - EGO_REAR_OVERHANG_M
        count += rear < along <= front and abs(aside) <= EGO_WIDTH_M / 2 and CONFIG.band_m[0] <= cz <= CONFIG.band_m[1]
    return count


def test_contacts_agree_with_the_slow_twin_at_all_headings_and_shifts() -> None:
    rng = np.random.default_rng(0)
    labels = np.where(rng.random(SMALL.shape) < 0.05, 4, FREE).astype(np.uint8)
    poses = np.column_stack((rng.uniform(-6, 6, (40, 2)), np.linspace(-math.pi, math.pi, 40))).astype(np.float32)
    fast = contacts(labels_of(labels), torch.from_numpy(poses)[None], FAR, SMALL, CONFIG)[0]
    assert fast.tolist() == [slow_contacts(labels, *p) for p in poses.tolist()]
    assert fast.float().std() > 0


def test_free_street_touches_nothing_and_a_wall_is_felt() -> None:
    labels = labels_of(street(SMALL))
    assert contacts(labels, pose(), FAR, SMALL, CONFIG).item() == 0
    assert contacts(labels, pose(y=WALL_M), FAR, SMALL, CONFIG).item() > 10


def test_ground_is_never_an_obstacle() -> None:
    labels = street(SMALL)
    labels[..., band(CONFIG.band_m, SMALL)[0]] = np.where(
        np.arange(100)[:, None] % 2, CLASS_ID["driveable_surface"], FREE
    )
    labels[..., band(CONFIG.band_m, SMALL)[0]][:, :50] = CLASS_ID["terrain"]
    assert contacts(labels_of(labels), pose(), FAR, SMALL, CONFIG).item() == 0


def test_what_is_high_above_is_no_obstacle() -> None:
    labels = np.full(SMALL.shape, FREE, np.uint8)
    labels[..., 9:] = CLASS_ID["manmade"]
    assert contacts(labels_of(labels), pose(), FAR, SMALL, CONFIG).item() == 0


def test_rear_zone_is_not_the_egos_fault() -> None:
    behind = labels_of(street(SMALL, cars_x_m=(-2.2,)))
    assert contacts(behind, pose(), FAR, SMALL, CONFIG).item() == 0
    assert contacts(behind, pose(x=-2.0), FAR, SMALL, CONFIG).item() > 3


def test_the_place_of_the_reset_is_not_believed() -> None:
    labels = labels_of(street(SMALL, cars_x_m=(1.3,)))
    assert contacts(labels, pose(), FAR, SMALL, CONFIG).item() > 10
    # The car of 4 x 2 m lies within the body of the reset, grown by the margin.
    assert contacts(labels, pose(), torch.zeros(1, 3), SMALL, CONFIG).item() == 0
    beyond = labels_of(street(SMALL, cars_x_m=(6.0,)))
    assert contacts(beyond, pose(x=2.0), torch.zeros(1, 3), SMALL, CONFIG).item() > 3


def test_outside_the_grid_is_free() -> None:
    labels = torch.full((1, *SMALL.shape), 15, dtype=torch.uint8)
    assert contacts(labels, pose(x=60.0), FAR, SMALL, CONFIG).item() == 0


def test_batches_and_poses_are_independent() -> None:
    two = torch.cat((labels_of(street(SMALL)), labels_of(street(SMALL, cars_x_m=(5.0,)))))
    poses = torch.tensor([[[0.0, 0, 0], [4.0, 0, 0]]]).repeat(2, 1, 1)
    found = contacts(two, poses, FAR.repeat(2, 1), SMALL, CONFIG) > 0
    assert found.tolist() == [[False, False], [False, True]]


@pytest.mark.parametrize(
    ("y", "violation"),
    [
        (0.0, False),
        (ROAD_M - 1.0, False),
        (ROAD_M - EGO_WIDTH_M / 2 + 0.3, False),
        (ROAD_M + 0.5, True),
        (ROAD_M + 4.5, True),
    ],
)
def test_corners_on_the_sidewalk_are_off_the_road(y: float, violation: bool) -> None:
    labels = labels_of(street(SMALL))
    votes = ground_votes(labels, SMALL, CONFIG)
    assert off_road(labels, votes, pose(y=y), FAR, SMALL, CONFIG).item() is violation


def test_unknown_ground_is_no_violation() -> None:
    empty = torch.full((1, *SMALL.shape), FREE, dtype=torch.uint8)
    assert not off_road(empty, ground_votes(empty, SMALL, CONFIG), pose(y=7.0), FAR, SMALL, CONFIG).item()


def test_gaps_in_the_forecast_are_filled_by_the_observed_ground() -> None:
    full = labels_of(street(SMALL))
    votes = ground_votes(full, SMALL, CONFIG)
    empty = torch.full_like(full, FREE)
    home = torch.zeros(1, 3)
    assert off_road(empty, votes, pose(x=6.0, y=ROAD_M + 1.0), home, SMALL, CONFIG).item()
    assert not off_road(empty, votes, pose(x=6.0), home, SMALL, CONFIG).item()


def test_scattered_gaps_do_not_push_the_ego_off_the_road() -> None:
    labels = labels_of(street(SMALL))
    holes = torch.rand(labels.shape[:3], generator=torch.Generator().manual_seed(0)) < 0.5
    labels[holes] = FREE
    labels[0, ::7, ::7, 2] = CLASS_ID["terrain"]
    none = torch.zeros(labels.shape[:3], dtype=torch.int8)
    along = torch.stack([torch.tensor([x, 0.0, 0.0]) for x in np.linspace(-12, 12, 49)])[None].float()
    assert not off_road(labels, none, along, FAR, SMALL, CONFIG).any()


def test_ground_votes_know_three_answers() -> None:
    labels = street(SMALL)
    labels[:10] = FREE
    votes = ground_votes(labels_of(labels), SMALL, CONFIG)[0]
    assert votes[5, 50] == 0 and votes[50, 50] == 1 and votes[50, 5] == -1
