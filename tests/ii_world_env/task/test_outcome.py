"""Reward geometry at speed, at all headings and between voxels: nothing is jumped over, nothing is made up."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import slow_geometry as slow
import torch
from street import SMALL, street, street_clips

from ii_world_env.ego.footprint import CENTER_M, FRONT_M, FootprintConfig, contacts, off_road
from ii_world_env.engine import TTC_S, Engine, EngineConfig, StepResult
from world_model.core.geometry import transform
from world_model.core.grid import CLASS_ID, EGO_WIDTH_M, FREE, VoxelGrid
from world_model.core.vehicle import kinematic
from world_model.data.clips import Clips
from world_model.worlds import ReplayWorld, TransportWorld

CONFIG = FootprintConfig()
WIDE = VoxelGrid(shape=(80, 80, 8), lower_m=(-16.0, -16.0, -1.0))
CAR, WALL = CLASS_ID["car"], CLASS_ID["manmade"]
rng = np.random.default_rng(5)


def plain(batch: int, grid: VoxelGrid = WIDE) -> torch.Tensor:
    """Nothing but road, (B, X, Y, Z)."""
    labels = torch.full((batch, *grid.shape), FREE, dtype=torch.uint8)
    labels[..., 2] = CLASS_ID["driveable_surface"]
    return labels


def step(labels: torch.Tensor, speed: torch.Tensor, actions: torch.Tensor) -> StepResult:
    """One step of a batch of egos in their own static surroundings."""
    clips = street_clips(WIDE, batch=1, past=0, future=2)
    many = Clips(**{f: _repeated(getattr(clips, f), len(labels)) for f in vars(clips)})
    engine = Engine(TransportWorld(WIDE), EngineConfig())
    state = engine.reset(replace(many, occupancy=labels[:, None]), speed_mps=speed)
    return engine.step(state, actions)[1]


def _repeated(value: object, count: int) -> object:
    return value.repeat_interleave(count, 0) if isinstance(value, torch.Tensor) else value * count if value else value  # type: ignore[operator]


def poles(place: torch.Tensor) -> torch.Tensor:
    """Road with a pole of 2 x 2 columns nearest to each place (B, 2)."""
    labels = plain(len(place))
    low = torch.tensor(WIDE.lower_m[:2])
    corner = ((place - low) / WIDE.voxel_m).round().long() - 1
    for row, (i, j) in enumerate(corner.tolist()):
        labels[row, i : i + 2, j : j + 2, 3:8] = WALL
    return labels


def drives(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Random speeds up to the cap and random actions, straight ones among them."""
    speed = torch.from_numpy(rng.uniform(1, 20, count)).float()
    actions = torch.from_numpy(rng.uniform(-1, 1, (count, 2))).float()
    actions[::4, 1] = 0
    return speed, actions


def swept(speed: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
    """Poses (B, 101, 3) of the way, ten times as fine as the engine's."""
    path = kinematic(actions, speed).path
    path = torch.cat((torch.zeros_like(path[:, :1]), path), 1)
    part = torch.arange(11)[None, None, :, None] / 10
    fine = path[:, :-1, None] * (1 - part) + path[:, 1:, None] * part
    return torch.cat((fine[:, :, :10].flatten(1, 2), path[:, -1:]), 1)


def test_a_pole_in_the_way_is_never_jumped_over() -> None:
    speed, actions = drives(200)
    way = swept(speed, actions)
    moment = torch.from_numpy(rng.integers(5, 101, 200))
    front = torch.stack(
        (torch.full((200,), FRONT_M - 0.35), torch.from_numpy(rng.uniform(-0.45, 0.45, 200)).float()), -1
    )
    place = transform(way[torch.arange(200), moment], front[:, None])[:, 0]
    # A pole that reaches into the place of the reset is not believed, see FootprintConfig.spawn_margin_m.
    fair = (place[:, 0] > FRONT_M + 1.3) & (place.abs() < 15).all(1)
    assert int(fair.sum()) > 80 and float(speed[fair].max()) > 19
    hit = step(poles(place[fair]), speed[fair], actions[fair]).outcome.collision
    assert bool(hit.all()), f"jumped over at {place[fair][~hit].tolist()}, {speed[fair][~hit].tolist()} m/s"


def test_a_pole_beside_the_way_is_not_hit() -> None:
    speed, actions = drives(200)
    way = swept(speed, actions)
    place = torch.from_numpy(rng.uniform(-14, 14, (200, 2))).float()
    body = way.new_tensor([[x, y] for x in np.linspace(-0.75, FRONT_M, 12) for y in np.linspace(-0.925, 0.925, 6)])
    covered = transform(way, body.expand(200, way.shape[1], -1, 2)).flatten(1, 2)
    clear = (covered - place[:, None]).norm(dim=-1).amin(1) > 1.2
    assert int(clear.sum()) > 100
    out = step(poles(place[clear]), speed[clear], actions[clear])
    assert not bool(out.outcome.collision.any()) and not bool(out.outcome.off_road.any())


@pytest.mark.parametrize("speed", [3.0, 9.0, 14.0, 20.0])
def test_a_wall_one_voxel_thin_stops_every_speed(speed: float) -> None:
    columns = torch.arange(51, 80)
    labels = plain(len(columns))
    for row, i in enumerate(columns.tolist()):
        labels[row, i, :, 3:8] = WALL
    out = step(labels, torch.full((len(columns),), speed), torch.zeros(len(columns), 2))
    centre = WIDE.lower_m[0] + WIDE.voxel_m * (columns + 0.5)
    reached = centre <= FRONT_M + speed * 0.5
    # After the step the wall is drawn again on the moved grid: within half a voxel it may lie on either side.
    certain = (centre - FRONT_M - speed * 0.5).abs() > 0.21
    assert bool((out.outcome.collision == reached)[certain].all()) and bool(reached.any())


@pytest.mark.parametrize("closing", [2.0, 6.0, 12.0])
def test_an_oncoming_car_is_not_driven_through(closing: float) -> None:
    """Cars of 4 m at up to 12 m/s, wherever they are when the step begins, cannot pass through the ego."""
    for gap in np.arange(1.0, 12.0, 0.75):
        front = FRONT_M + float(gap)
        clips = street_clips(SMALL, speed_mps=8.0, past=0, future=4)
        frames = [street(SMALL, 0.0, (front + 2.0 - closing * 0.5 * k,)) for k in range(5)]
        later = torch.from_numpy(np.stack(frames))[None]
        # The log stands still, so that the recorded labels are those of the start frame.
        still = torch.eye(4, dtype=torch.float64).expand_as(clips.ego_to_global)
        clips = replace(clips, occupancy=later[:, :1], future_occupancy=later[:, 1:], ego_to_global=still)
        engine = Engine(ReplayWorld(SMALL), EngineConfig(horizon=9))
        state, hit, met = engine.reset(clips, speed_mps=torch.tensor([8.0])), False, False
        for k in range(1, 3):
            state, out = engine.step(state, torch.zeros(1, 2))
            hit = hit or bool(out.outcome.collision)
            # Half a metre of overlap at the end of a step, or more, even if it is past already.
            met = met or front - closing * 0.5 * k < FRONT_M + 4.0 * k - 0.5
            assert hit or not met, f"gap {gap} m, step {k}"


def test_contacts_agree_with_the_slow_twin_at_all_headings_and_shifts() -> None:
    labels = np.where(rng.random(WIDE.shape) < 0.04, CAR, FREE).astype(np.uint8)
    poses = np.column_stack((rng.uniform(-6, 6, (48, 2)), np.linspace(-math.pi, math.pi, 48))).astype(np.float32)
    home = np.array([[1.3, -0.7, 0.6]], np.float32)
    given = (torch.from_numpy(a)[None] for a in (labels, poses))
    fast = contacts(*given, torch.from_numpy(home), WIDE, CONFIG)[0]
    twin = [slow.contacts(labels, tuple(pose), WIDE, tuple(home[0].tolist())) for pose in poses.tolist()]  # type: ignore[arg-type]
    assert fast.tolist() == twin and max(twin) > 5


def test_moving_the_body_by_less_than_a_voxel_matters() -> None:
    labels = plain(1)
    labels[:, 49, :, 3:8] = WALL
    shifts = torch.arange(0.0, 0.8, 0.05)
    poses = torch.stack((shifts, torch.zeros_like(shifts), torch.zeros_like(shifts)), -1)[None]
    hit = contacts(labels, poses, torch.tensor([[1e3, 0.0, 0.0]]), WIDE, CONFIG)[0] > 0
    centre = WIDE.lower_m[0] + WIDE.voxel_m * 49.5
    assert hit.tolist() == [bool(FRONT_M + s >= centre) for s in shifts]
    assert 3 < int(hit.sum()) < len(shifts)


def test_off_road_agrees_with_the_slow_twin_at_all_headings_and_shifts() -> None:
    labels = np.full(WIDE.shape, FREE, np.uint8)
    # Patches of all kinds of ground, unknown places among them.
    patches = rng.choice([11, 13, 14, FREE], size=(16, 16), p=[0.35, 0.25, 0.15, 0.25])
    labels[..., 2] = patches.repeat(5, 0).repeat(5, 1)
    votes = rng.choice([-2, 0, 1], size=(16, 16), p=[0.2, 0.6, 0.2]).astype(np.int8).repeat(5, 0).repeat(5, 1)
    poses = np.column_stack((rng.uniform(-18, 18, (60, 2)), rng.uniform(-9, 9, 60))).astype(np.float32)
    home = (2.1, -3.3, 0.7)
    given = [torch.from_numpy(a)[None] for a in (labels, votes, poses)]
    fast = off_road(given[0], given[1], given[2], torch.tensor([home]), WIDE, CONFIG)[0]
    twin = [slow.off_road(labels, votes, tuple(pose), WIDE, home) for pose in poses.tolist()]  # type: ignore[arg-type]
    assert fast.tolist() == twin and 5 < sum(twin) < 55


def test_time_to_collision_agrees_with_the_slow_twin() -> None:
    places = torch.from_numpy(np.column_stack((rng.uniform(5.5, 15, 24), rng.uniform(-1.4, 1.4, 24)))).float()
    labels, speed = poles(places), torch.from_numpy(rng.uniform(2, 14, 24)).float()
    engine = Engine(TransportWorld(WIDE), EngineConfig())
    clips = street_clips(WIDE, past=0, future=2)
    seen = []
    for row in range(24):
        state = engine.reset(replace(clips, occupancy=labels[row : row + 1, None]), speed_mps=speed[row : row + 1])
        after, out = engine.step(state, torch.zeros(1, 2))
        home = (-float(after.pose[0, 0]), 0.0, 0.0)
        v, now = float(after.speed_mps), after.labels[0].numpy()
        ahead = [t for t in TTC_S if slow.contacts(now, (v * t, 0.0, 0.0), WIDE, home) >= CONFIG.min_voxels]
        seen.append(min(ahead, default=math.inf))
        assert float(out.outcome.time_to_collision_s) == pytest.approx(seen[-1])
    assert len({t for t in seen}) >= 3, "several times and none at all occur"


def test_the_body_is_as_wide_and_long_as_the_car() -> None:
    """Voxel by voxel around the car: what it touches is its body without the rear zone."""
    labels = torch.full((1, *WIDE.shape), FREE, dtype=torch.uint8)
    found = torch.zeros(WIDE.shape[:2], dtype=torch.bool)
    for i in range(34, 54):
        for j in range(34, 46):
            one = labels.clone()
            one[0, i, j, 3:8] = WALL
            found[i, j] = contacts(one, torch.zeros(1, 1, 3), torch.tensor([[1e3, 0, 0]]), WIDE, CONFIG).item() > 0
    x, y = (WIDE.lower_m[a] + WIDE.voxel_m * (torch.arange(WIDE.shape[a]) + 0.5) for a in range(2))
    wanted = (x > CONFIG.rear_zone_m - 0.75) & (x <= 3.334)
    assert torch.equal(found, wanted[:, None] & (y.abs() <= EGO_WIDTH_M / 2)[None])
    assert pytest.approx((3.334 - 0.75) / 2) == CENTER_M
