"""Drivers that answer: they brake for what is ahead, follow the road, and differ by seed alone."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from world_model.core.grid import DRIVEABLE, EGO_REAR_OVERHANG_M, FREE, VoxelGrid
from world_model.models.geometric.agents.drivers import (
    AGGRESSIVE,
    EgoMotion,
    Road,
    StyleKind,
    Styles,
    path_curvature,
    react,
    road_of,
)
from world_model.models.geometric.agents.tracks import SLOTS, Tracks

GRID = VoxelGrid()
OPEN = Road(off=torch.zeros(1, *GRID.shape[:2], dtype=torch.bool))
CAR, PEDESTRIAN = 4, 7


def traffic(*rows: tuple[int, float, float, float, float]) -> Tracks:
    """One grid with objects of class, x, y, yaw, speed."""
    tracks = Tracks.none(1, torch.device("cpu"))
    values = torch.tensor(rows)
    columns = {name: values[:, n] for n, name in enumerate(("class_id", "x", "y", "yaw", "speed"))}
    size = {"length": 4.6, "width": 1.9, "height": 1.7, "confidence": 1.0, "alive": 1.0}
    for name, value in {**columns, **size}.items():
        whole = getattr(tracks, name).clone()
        whole[0, : len(rows)] = torch.as_tensor(value).to(whole.dtype)
        tracks = replace(tracks, **{name: whole})
    return tracks


def ego(x: float, y: float, speed: float = 0.0, yaw: float = 0.0) -> EgoMotion:
    return EgoMotion(**{k: torch.tensor([v]) for k, v in (("x", x), ("y", y), ("speed", speed), ("yaw", yaw))})


def driven(tracks: Tracks, at: EgoMotion, steps: int = 16, styles: Styles | None = None, road: Road = OPEN) -> Tracks:
    styles = styles or Styles.observed(tracks)
    for _ in range(steps):
        tracks = react(tracks, styles, at, road, GRID)
        at = replace(at, x=at.x + 0.5 * at.speed * at.yaw.cos(), y=at.y + 0.5 * at.speed * at.yaw.sin())
    return tracks


def test_on_a_free_road_everybody_keeps_its_speed() -> None:
    tracks = traffic((CAR, 0, 0, 0, 8), (CAR, 0, 9, 3.1, 5), (PEDESTRIAN, -9, -9, 1, 1.2), (CAR, 0, -9, 0, 0))
    after, expected = driven(tracks, ego(-30, 30), 4), tracks.advanced(2.0)
    assert torch.allclose(after.speed, tracks.speed, atol=0.15)
    assert torch.allclose(after.x, expected.x, atol=0.2) and torch.allclose(after.y, expected.y, atol=0.2)


def test_a_follower_stops_behind_the_standing_ego_and_behind_a_standing_car() -> None:
    for blocked in (ego(20, 0), ego(-30, 30)):
        rows = [(CAR, -10, 0, 0, 8)] + ([(CAR, 22.3, 0, 0, 0)] if float(blocked.x) < 0 else [])
        after = driven(traffic(*rows), blocked)
        rear = 20 - EGO_REAR_OVERHANG_M if float(blocked.x) > 0 else 20.0
        assert after.speed[0, 0] < 0.5
        assert 0.5 < rear - float(after.x[0, 0]) - 2.3 < 4.0


def test_nobody_brakes_for_what_drives_beside_or_behind() -> None:
    tracks = traffic((CAR, 0, 0, 0, 8))
    for elsewhere in (ego(-12, 0, 8), ego(10, 4, 0), ego(10, -4, 8)):
        assert abs(float(driven(tracks, elsewhere, 4).speed[0, 0]) - 8) < 0.1


def test_a_braking_ego_is_answered_with_braking() -> None:
    tracks = traffic((CAR, -12, 0, 0, 8))
    assert driven(tracks, ego(0, 0, 0), 4).speed[0, 0] < driven(tracks, ego(0, 0, 8), 4).speed[0, 0] - 3


def test_who_is_careless_does_not_brake_for_the_ego_but_for_others() -> None:
    tracks = traffic((CAR, -10, 0, 0, 8))
    careless = replace(Styles.observed(tracks), heeds_ego=torch.zeros(1, SLOTS, dtype=torch.bool))
    assert driven(tracks, ego(20, 0), 6, careless).speed[0, 0] > 7.5
    queue = traffic((CAR, -10, 0, 0, 8), (CAR, 22, 0, 0, 0))
    careless = replace(Styles.observed(queue), heeds_ego=torch.zeros(1, SLOTS, dtype=torch.bool))
    assert driven(queue, ego(-30, 30), 16, careless).speed[0, 0] < 0.5


def bent() -> Road:
    """A road along x that turns left, on a circle of 20 m around (0, 20)."""
    at = (torch.arange(200) + 0.5) * GRID.voxel_m - 40
    x, y = at[:, None].expand(200, 200), at[None].expand(200, 200)
    on = torch.where(x < 0, y.abs() < 3, ((x**2 + (y - 20) ** 2).sqrt() - 20).abs() < 3)
    labels = torch.full((1, 200, 200, 16), FREE, dtype=torch.uint8)
    labels[0, :, :, 2] = torch.where(on, DRIVEABLE, 14).to(torch.uint8)
    return road_of(labels, torch.full_like(labels, FREE), GRID)


def test_a_vehicle_follows_the_bend_of_the_road() -> None:
    road, tracks = bent(), traffic((CAR, -12, 0, 0, 6))
    assert path_curvature(tracks, OPEN, GRID)[0, 0] == 0
    after = driven(tracks, ego(-30, 30), 8, road=road)
    away = float(torch.hypot(after.x, after.y - 20)[0, 0])
    assert abs(away - 20) < 3 and after.yaw[0, 0] > 0.3
    straight = driven(tracks, ego(-30, 30), 8)
    assert abs(float(straight.y[0, 0])) < 1e-3


def test_drivers_differ_by_their_seed_alone() -> None:
    tracks = traffic((CAR, 0, 0, 0, 8), (CAR, 9, 9, 0, 5)).expand(3)
    seeds: Tensor = torch.tensor([5, 6, 5])
    styles = Styles.drawn(tracks, seeds, StyleKind())
    assert torch.equal(styles.desired_mps[0], styles.desired_mps[2])
    assert not torch.equal(styles.desired_mps[0], styles.desired_mps[1])
    alone = Styles.drawn(tracks.index(1), seeds[1:2], StyleKind())
    assert torch.equal(alone.headway_s[0], styles.headway_s[1])
    wild = Styles.drawn(tracks, seeds, AGGRESSIVE)
    assert not wild.heeds_ego.all() and styles.heeds_ego.all()
    assert wild.headway_s.mean() < styles.headway_s.mean()
    assert (styles.desired_mps[tracks.speed == 0] == 0).all()


def test_a_batch_equals_its_members() -> None:
    one, two = traffic((CAR, -10, 0, 0, 8)), traffic((CAR, -10, 0, 0, 8), (CAR, 0, 0, 0, 2))
    both = Tracks.cat([one, two])
    at = EgoMotion(**{k: torch.tensor([v, v]) for k, v in (("x", 20.0), ("y", 0.0), ("speed", 0.0), ("yaw", 0.0))})
    road = Road(off=OPEN.off.expand(2, -1, -1))
    after = react(both, Styles.observed(both), at, road, GRID)
    for row, single in enumerate((one, two)):
        alone = react(single, Styles.observed(single), ego(20, 0), OPEN, GRID)
        assert torch.equal(alone.x[0], after.x[row]) and torch.equal(alone.speed[0], after.speed[row])


def test_a_leader_is_found_around_a_bend_and_not_in_the_next_lane() -> None:
    radius, way = 150.0, 25.0
    angle = way / radius
    ahead = (radius * math.sin(angle), radius * (1 - math.cos(angle)), angle)
    for lane_m, meets in ((0.0, True), (3.5, False), (-3.5, False)):
        # On the circle, or on that of a lane beside it.
        x, y = ahead[0] + lane_m * math.sin(angle), ahead[1] - lane_m * math.cos(angle)
        after = driven(traffic((CAR, 0, 0, 0, 10)), ego(x, y, yaw=angle), 1)
        assert (float(after.speed[0, 0]) < 9) == meets
