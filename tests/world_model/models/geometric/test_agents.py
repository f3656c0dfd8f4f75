"""Tracks: found from voxels alone, moved on circles and lines, drawn as whole bodies."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from world_model.core.geometry import se2_matrix
from world_model.core.grid import FREE, VoxelGrid
from world_model.models.geometric.agents.bodies import near, place_bodies, without_bodies
from world_model.models.geometric.agents.completion import completed
from world_model.models.geometric.agents.observed import FollowedMoment
from world_model.models.geometric.agents.segments import movable_columns, segments
from world_model.models.geometric.agents.tracker import Found, find_tracks, observe_bodies
from world_model.models.geometric.agents.tracks import SLOTS, Tracks
from world_model.models.geometric.evidence import gather_evidence, observe, previous_forecast
from world_model.models.geometric.riding import RoadPlane

GRID = VoxelGrid(shape=(96, 96, 16), lower_m=(-19.2, -19.2, -1.0))
CAR, PEDESTRIAN, ROAD = 4, 7, 11
STILL = torch.eye(4)[None]


def frame(*boxes: tuple[int, float, float, float, float]) -> Tensor:
    """(X, Y, Z) labels of a road with boxes of class, x, y, length and width, along x."""
    labels = torch.full(GRID.shape, FREE, dtype=torch.uint8)
    labels[..., 2] = ROAD
    at = (torch.arange(96) + 0.5) * GRID.voxel_m + GRID.lower_m[0]
    for label, x, y, length, width in boxes:
        here = ((at - x).abs() < length / 2)[:, None] & ((at - y).abs() < width / 2)
        labels[:, :, 3:6][here] = label
    return labels


def drive(label: int, size: tuple[float, float], speed_mps: float, x: float = 2.0, y: float = 0.0) -> Tensor:
    """(1, 5, X, Y, Z) frames of one object that moves along x, newest first."""
    return torch.stack([frame((label, x - 0.5 * p * speed_mps, y, *size)) for p in range(5)])[None]


def found_in(aligned: Tensor, speed_mps: float, going: bool = True) -> Found:
    """Tracks, where the network says one velocity along x everywhere."""
    field = torch.zeros(len(aligned), 96, 96, 2)
    field[..., 0] = speed_mps
    return find_tracks(aligned, field, torch.full(field.shape[:3], going), GRID)


def one(**values: float) -> Tracks:
    """A single car."""
    zero, first = Tracks.none(1, torch.device("cpu")), torch.arange(SLOTS)[None] == 0
    tracks = {"length": 4.6, "width": 1.9, "height": 1.7, "confidence": 1.0, **values}
    filled = {name: torch.where(first, value, getattr(zero, name)) for name, value in tracks.items()}
    return replace(zero, **filled, class_id=torch.where(first, CAR, zero.class_id), alive=first)


@pytest.mark.parametrize(("label", "size"), [(CAR, (4.4, 2.0)), (PEDESTRIAN, (0.8, 0.8))])
def test_the_speed_is_better_than_what_the_network_says(label: int, size: tuple[float, float]) -> None:
    true, said = (3.0, 2.2) if label == CAR else (1.4, 0.8)
    tracks = found_in(drive(label, size, true), said).tracks
    assert tracks.alive.sum() == 1 and tracks.class_id[0, 0] == label
    assert abs(float(tracks.speed[0, 0]) - true) < abs(said - true)
    assert abs(float(tracks.yaw[0, 0])) < 0.15 and tracks.confidence[0, 0] > 0.9
    assert abs(float(tracks.x[0, 0]) - 2.0) < 0.3 and abs(float(tracks.y[0, 0])) < 0.3


def test_what_stands_does_not_move_whatever_the_network_says() -> None:
    assert not found_in(drive(CAR, (4.4, 2.0), 0.0), 3.0).tracks.moving.any()
    assert not found_in(drive(PEDESTRIAN, (0.8, 0.8), 0.0), 1.0).tracks.moving.any()


def test_neighbours_are_cut_apart_and_fragments_belong_together() -> None:
    def count(labels: Tensor) -> int:
        columns = movable_columns(labels[None], GRID)
        return int(segments(columns, torch.zeros(len(columns.place), dtype=torch.bool), GRID).max()) + 1

    assert count(frame((CAR, 0, 0, 4.4, 2.0))) == 1
    assert count(frame((CAR, -2.4, 0, 4.4, 2.0), (CAR, 2.4, 0, 4.4, 2.0))) == 2
    assert count(frame((CAR, 0, -2.4, 4.4, 2.0), (CAR, 0, 0, 4.4, 2.0), (CAR, 0, 2.4, 4.4, 2.0))) == 3
    assert count(frame((CAR, -1.0, 0, 1.5, 2.0), (CAR, 1.2, 0, 2.3, 2.0))) == 1
    assert count(frame((CAR, 0, 0, 4.4, 2.0), (PEDESTRIAN, 2.6, 0, 0.8, 0.8))) == 2


def test_nothing_movable_gives_no_tracks() -> None:
    found = found_in(frame().expand(2, 5, *GRID.shape), 1.0)
    assert not found.tracks.alive.any() and (found.slot == SLOTS).all()
    assert not found.velocity().any()


def test_a_batch_equals_its_members() -> None:
    frames = torch.cat((drive(CAR, (4.4, 2.0), 3.0), drive(PEDESTRIAN, (0.8, 0.8), 1.2, x=-3.0, y=4.0)))
    both = found_in(frames, 1.0)
    for row in range(2):
        single = found_in(frames[row : row + 1], 1.0)
        assert torch.equal(single.slot, both.slot[row : row + 1])
        for name, value in vars(single.tracks).items():
            assert torch.equal(value, getattr(both.tracks, name)[row : row + 1]), name


def test_more_objects_than_slots_leave_the_farthest_out() -> None:
    spots = [(PEDESTRIAN, x, y, 0.8, 0.8) for x in np.arange(-17, 18, 4.0) for y in np.arange(-17, 18, 4.0)]
    found = found_in(frame(*spots).expand(1, 5, *GRID.shape), 0.0, going=False)
    assert found.tracks.alive.all()
    assert float(torch.hypot(found.tracks.x, found.tracks.y).max()) < 17 * math.sqrt(2) - 4


def test_motion_is_a_line_or_a_circle() -> None:
    line = one(x=1.0, y=2.0, yaw=0.5, speed=4.0).advanced(2.0)
    assert torch.allclose(line.x[0, 0], torch.tensor(1 + 8 * math.cos(0.5)))
    start = one(x=1.0, y=2.0, speed=4.0, yaw_rate=math.pi / 4)
    quarter, whole = start.advanced(2.0), start.advanced(8.0)
    radius = 4 / (math.pi / 4)
    assert np.allclose((quarter.x[0, 0], quarter.y[0, 0]), (1 + radius, 2 + radius), atol=1e-4)
    assert np.allclose((whole.x[0, 0], whole.y[0, 0]), (1, 2), atol=1e-4)
    halves = start.advanced(1.0).advanced(1.0)
    assert np.allclose((halves.x[0, 0], halves.y[0, 0]), (quarter.x[0, 0], quarter.y[0, 0]), atol=1e-4)


def test_another_frame_and_back() -> None:
    tracks = one(x=3.0, y=-2.0, yaw=1.0, speed=1.0)
    there = se2_matrix(*(torch.tensor([value]) for value in (5.0, 1.0, 0.7)))
    back = tracks.seen_from(there).seen_from(torch.linalg.inv(there))
    for name in ("x", "y", "yaw"):
        assert torch.allclose(getattr(back, name)[0, 0], getattr(tracks, name)[0, 0], atol=1e-5)


def test_a_body_that_goes_straight_equals_its_columns() -> None:
    found = found_in(drive(CAR, (4.4, 2.0), 4.0), 4.0)
    exact = replace(found.tracks, speed=found.tracks.speed.round(), yaw=torch.zeros_like(found.tracks.yaw))
    found = replace(found, tracks=exact)
    seen, second = observe(drive(CAR, (4.4, 2.0), 4.0), found.velocity()), torch.ones(1)
    bodies = place_bodies(seen.movers, found, exact.advanced(1.0), STILL, GRID)
    whole = gather_evidence(seen, STILL, second, GRID, draw=bodies.onto)
    columns = gather_evidence(seen, STILL, second, GRID)
    assert torch.equal(whole.labels, columns.labels)
    assert torch.allclose(bodies.displacement_m[whole.labels.eq(CAR).any(-1)][:, 0], torch.tensor(4.0), atol=1e-4)


def test_a_body_leaves_no_ghost_where_nothing_was_observed() -> None:
    found = found_in(drive(CAR, (4.4, 2.0), 8.0), 8.0)
    seen = observe(drive(CAR, (4.4, 2.0), 8.0), found.velocity())
    # The ego has driven 30 m: its surroundings, and the car at 26 m and 30 m, lie mostly beyond what was observed.
    there = se2_matrix(*(torch.tensor([value]) for value in (30.0, 0.0, 0.0)))
    then, now = (found.tracks.advanced(seconds) for seconds in (3.0, 3.5))
    before = place_bodies(seen.movers, found, then, there, GRID)
    forecast = torch.full((1, *GRID.shape), FREE, dtype=torch.uint8)
    before.onto(forecast)
    pedestrian = frame((PEDESTRIAN, 8.0, 8.0, 0.8, 0.8))[None]
    forecast = torch.where(pedestrian != FREE, pedestrian, forecast)
    bodies = place_bodies(seen.movers, found, now, there, GRID)

    def cars(remembered: Tensor) -> Tensor:
        previous = previous_forecast(remembered, STILL, GRID)
        return gather_evidence(seen, there, torch.tensor([3.5]), GRID, previous=previous, draw=bodies.onto).labels

    alone = torch.full_like(forecast, FREE)
    bodies.onto(alone)
    cleared = without_bodies(forecast, found, then, there, GRID)
    assert int((forecast == CAR).sum()) > 100 and not (cleared == CAR).any()
    assert torch.equal(cleared == PEDESTRIAN, forecast == PEDESTRIAN), "others stay"
    assert torch.equal(cleared == ROAD, forecast == ROAD)
    assert torch.equal(cars(cleared) == CAR, alone == CAR), "the car is at its new place alone, and whole"
    assert int((cars(forecast) == CAR).sum()) > int((alone == CAR).sum()), "else it would be at the old one, too"


@pytest.mark.parametrize("turn", [0.3, math.pi / 2, 2.0])
def test_a_body_keeps_its_voxels_however_it_turns(turn: float) -> None:
    found = found_in(drive(CAR, (4.4, 2.0), 3.0), 3.0)
    seen = observe(drive(CAR, (4.4, 2.0), 3.0), found.velocity())
    turned = replace(found.tracks, yaw=found.tracks.yaw + turn)
    bodies = place_bodies(seen.movers, found, turned, STILL, GRID)
    before, after = (seen.movers != FREE).sum(), (bodies.body != FREE).sum()
    assert abs(int(after) - int(before)) <= 0.15 * int(before)
    assert len(bodies.column.unique()) == len(bodies.column)


def test_a_shell_becomes_a_solid_and_others_stay() -> None:
    frames = drive(CAR, (4.4, 2.0), 3.0)
    solid = (frames == CAR).clone()
    shell = frames.clone()
    inner = solid[:, 0].float().cumsum(2) > 2
    shell[:, 0][inner & solid[:, 0]] = FREE
    found = found_in(frames, 3.0)
    seen = observe(frames, found.velocity())
    holes = seen.movers.masked_fill(inner, FREE)
    other = found.slot.clone()
    lost = (holes != FREE).any(-1)
    movers, _ = completed(holes, replace(found, slot=other.masked_fill(~lost, SLOTS)), GRID)
    assert (movers != FREE).sum() >= solid[:, 0].sum()
    assert torch.equal(movers[lost & (holes != FREE).all(-1)], holes[lost & (holes != FREE).all(-1)])
    taken = other.masked_fill(~lost, 1)
    kept, _ = completed(holes, replace(found, slot=taken), GRID)
    assert not (kept[taken == 1] != FREE).any()


def test_repetition_and_choice_keep_every_bit() -> None:
    found = found_in(torch.cat((drive(CAR, (4.4, 2.0), 3.0), drive(CAR, (4.4, 2.0), 5.0))), 3.0)
    branched = found.expand(3).index([1, 4])
    for name, value in vars(found.tracks).items():
        assert torch.equal(getattr(branched.tracks, name), value), name


def test_rows_of_a_batch_move_as_bodies_or_as_columns() -> None:
    """What training sees of either kind is what the world makes of it."""
    frames = drive(CAR, (4.4, 2.0), 4.0).expand(2, -1, -1, -1, -1)
    field, second = torch.zeros(2, 96, 96, 2), torch.tensor([1.0, 2.0])
    field[..., 0] = 4.0
    moves, still = torch.ones(2, 96, 96, dtype=torch.bool), STILL.expand(2, 4, 4)
    whole = torch.tensor([True, False])
    moment = FollowedMoment.of(frames, field, moves, field, whole, GRID)
    drawn = moment.drawn(still, second)
    both = gather_evidence(moment.seen, still, second, GRID, draw=drawn.onto)

    columns = gather_evidence(observe(frames[1:], field[1:]), STILL, second[1:], GRID)
    assert all(torch.equal(value[1:], getattr(columns, name)) for name, value in vars(both).items())

    found = find_tracks(frames[:1], field[:1], moves[:1], GRID)
    seen = observe_bodies(frames[:1], found, field[:1])
    movers, found = completed(seen.movers, found, GRID)
    bodies = place_bodies(movers, found, found.tracks.advanced(1.0), STILL, GRID)
    alone = gather_evidence(replace(seen, movers=movers), STILL, second[:1], GRID, draw=bodies.onto)
    assert all(torch.equal(value[:1], getattr(alone, name)) for name, value in vars(both).items())

    cleared = moment.without(both.labels, still, second)
    assert not (cleared[0] == CAR).any() and torch.equal(cleared[1], both.labels[1])


def test_a_body_climbs_with_its_road() -> None:
    """On a road that rises by one in five, a car that has gone 4 m is two voxels higher."""
    frames = drive(CAR, (4.4, 2.0), 4.0)
    rise = (torch.arange(96) // 10)[:, None].expand(96, 96) - 5
    hill = torch.stack(
        [
            torch.stack([c.roll(int(r), -1) for c, r in zip(x, row, strict=True)])
            for x, row in zip(frames[0, 0], rise, strict=True)
        ]
    )[None]
    road = RoadPlane.of(hill, GRID)
    found = found_in(frames, 4.0)
    exact = replace(found.tracks, speed=found.tracks.speed.round(), yaw=torch.zeros_like(found.tracks.yaw))
    found = replace(found, tracks=exact)
    seen = observe(frames, found.velocity())
    flat = place_bodies(seen.movers, found, exact.advanced(2.0), STILL, GRID)
    climbed = place_bodies(seen.movers, found, exact.advanced(2.0), STILL, GRID, road=road)
    assert torch.equal(climbed.body, flat.body.roll(2, -1))
    level = place_bodies(seen.movers, found, exact.advanced(2.0), STILL, GRID, road=RoadPlane.of(frames[:, 0], GRID))
    assert torch.equal(level.body, flat.body)
    unknown = place_bodies(seen.movers, found, exact.advanced(2.0), STILL, GRID, road=road.blank(1))
    assert torch.equal(unknown.body, flat.body)


def test_some_bodies_can_be_drawn_alone() -> None:
    frames = torch.cat((drive(CAR, (4.4, 2.0), 3.0), drive(CAR, (4.4, 2.0), 3.0, x=-3.0, y=4.0)))
    found = found_in(frames, 3.0)
    seen = observe(frames, found.velocity())
    both = place_bodies(seen.movers, found, found.tracks, STILL.expand(2, 4, 4), GRID)
    first = both.some(found.tracks.alive & torch.tensor([[True], [False]]))
    labels = torch.full_like(frames[:, 0], FREE)
    first.onto(labels)
    assert torch.equal(labels[0], seen.movers[0]) and (labels[1] == FREE).all()


def test_near_is_told_from_where_the_ego_will_be() -> None:
    tracks, ahead = one(x=45.0, y=0.0), se2_matrix(*(torch.tensor([value]) for value in (10.0, 0.0, 0.5)))
    assert not near(tracks, STILL)[0, 0] and near(tracks, ahead)[0, 0]


def circling(rate: float, speed_mps: float = 5.0) -> Tensor:
    """(1, 5, X, Y, Z) frames of a car that comes along a circle and now heads along x, newest first."""
    frames = []
    for p in range(5):
        t, radius = -0.5 * p, speed_mps / rate
        angle = rate * t
        x, y = radius * math.sin(angle), radius * (1 - math.cos(angle))
        at = (torch.arange(96) + 0.5) * GRID.voxel_m + GRID.lower_m[0]
        dx, dy = at[:, None] - x, at[None] - y
        along, across = dx * math.cos(angle) + dy * math.sin(angle), dy * math.cos(angle) - dx * math.sin(angle)
        labels = frame()
        labels[:, :, 3:6][(along.abs() < 2.2) & (across.abs() < 1.0)] = CAR
        frames.append(labels)
    return torch.stack(frames)[None]


def test_a_turn_is_seen_and_dies_away() -> None:
    for rate in (-0.35, 0.35):
        found = float(found_in(circling(rate), 4.5).tracks.yaw_rate[0, 0])
        assert 0.5 < found / rate < 1.5
    assert float(found_in(drive(CAR, (4.4, 2.0), 5.0), 5.0).tracks.yaw_rate[0, 0]) == 0.0
    turning = one(speed=5.0, yaw_rate=0.4)
    late = turning.coasted(8.0, 16)
    assert 0.9 < float(late.yaw[0, 0]) / (0.4 * 2.0) < 1.2, "the turn of a time constant"
    steps = turning
    for _ in range(16):
        steps = steps.coasted(0.5)
    assert torch.allclose(steps.x, late.x, atol=1e-4) and torch.allclose(steps.yaw, late.yaw, atol=1e-5)
    straight = one(x=1.0, speed=5.0)
    assert torch.allclose(straight.coasted(2.0, 8).x, straight.advanced(2.0).x, atol=1e-5)
