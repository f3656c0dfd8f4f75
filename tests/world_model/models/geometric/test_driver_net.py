"""The learned driver: what it reads and answers stays within limits, and follows from its row alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from world_model.checkpoints.checkpoint import DRIVER_FILE
from world_model.checkpoints.driver import shared_driver
from world_model.core.grid import CLASS_ID, FREE, OCC3D
from world_model.models.geometric.agents.driver_net import FEATURES, DriverNet, drive_on, features_of
from world_model.models.geometric.agents.drivers import EgoMotion, Road, Styles
from world_model.models.geometric.agents.tracks import SLOTS, Tracks
from world_model.simulator.dataset.drives import drives
from world_model.train_driver import Args, main, steps_of


def scene(batch: int = 2) -> tuple[Tracks, Styles, EgoMotion, Road]:
    rng = torch.Generator().manual_seed(1)
    draw = torch.rand((4, batch, SLOTS), generator=rng)
    tracks = replace(
        Tracks.none(batch, torch.device("cpu")),
        x=60 * draw[0] - 30,
        y=60 * draw[1] - 30,
        yaw=6 * draw[2] - 3,
        speed=12 * draw[3],
        length=torch.full_like(draw[0], 4.5),
        width=torch.full_like(draw[0], 1.9),
        class_id=torch.full((batch, SLOTS), CLASS_ID["car"], dtype=torch.uint8),
        alive=torch.ones(batch, SLOTS, dtype=torch.bool),
    )
    ego = EgoMotion(**{name: torch.zeros(batch) for name in ("x", "y", "yaw")}, speed=torch.full((batch,), 5.0))
    return tracks, Styles.observed(tracks), ego, Road(off=torch.zeros(batch, *OCC3D.shape[:2], dtype=torch.bool))


@torch.no_grad()
def test_limits_hold_whatever_the_network_says() -> None:
    tracks, styles, ego, road = scene()
    net = DriverNet()
    for sign in (-1.0, 1.0):
        net.out.bias.copy_(sign * torch.full_like(net.out.bias, 50.0))
        after = drive_on(net, tracks, styles, ego, road, OCC3D)
        assert (after.speed >= 0).all() and ((after.speed - tracks.speed) <= 0.5 * 2.8 + 1e-4).all()
        assert ((after.speed - tracks.speed) >= -0.5 * 7.0 - 1e-4).all()
        people = replace(tracks, class_id=torch.full_like(tracks.class_id, CLASS_ID["pedestrian"]))
        assert torch.equal(drive_on(net, people, styles, ego, road, OCC3D).speed, tracks.speed)
        mean = (after.speed + tracks.speed) / 2
        assert ((after.yaw - tracks.yaw).abs() <= 0.5 * 4.0 / mean.clamp(min=0.1) + 1e-3).all()


@torch.no_grad()
def test_a_network_that_wants_to_accelerate_stops_behind_an_ego_that_it_heeds() -> None:
    everybody, _, _, road = scene(1)
    first = torch.arange(SLOTS)[None] == 0
    where = {"x": -22.0, "y": 0.0, "yaw": 0.0, "speed": 10.0}
    tracks = replace(
        everybody, alive=first, **{k: torch.where(first, v, torch.zeros(1, SLOTS)) for k, v in where.items()}
    )
    standing = EgoMotion(**{name: torch.zeros(1) for name in ("x", "y", "yaw", "speed")})
    net = DriverNet()
    net.out.bias.copy_(torch.full_like(net.out.bias, 50.0))
    net.out.weight.zero_()
    styles = Styles.observed(tracks)
    front = {}
    for heeds in (True, False):
        now, each = tracks, replace(styles, heeds_ego=torch.full_like(styles.heeds_ego, heeds))
        for _ in range(6):
            straight = replace(now, yaw=torch.zeros_like(now.yaw), y=torch.zeros_like(now.y))
            now = drive_on(net, straight, each, standing, road, OCC3D)
        front[heeds] = float(now.x[0, 0]) + 4.5 / 2
    assert -4.0 < front[True] < -0.7 and front[False] > 2.0  # the ego's rear is 0.75 m behind its axle


@torch.no_grad()
def test_rows_do_not_meet_and_luck_decides() -> None:
    tracks, styles, ego, road = scene()
    torch.manual_seed(0)
    net = DriverNet()
    read = features_of(tracks, styles, ego, road, OCC3D)
    assert read.shape == (2, SLOTS, FEATURES) and read.isfinite().all()
    one = features_of(
        tracks.index(1), styles.index(1), EgoMotion(**{k: v[1:] for k, v in vars(ego).items()}), road.index(1), OCC3D
    )
    assert torch.allclose(read[1:], one, atol=1e-6)
    choice = net(read.flatten(0, 1))
    likely, first, last = (choice.taken(torch.full((2 * SLOTS,), v)) for v in (float("nan"), 0.0, 1.0))
    assert torch.equal(first, choice.mean[:, 0]) and torch.equal(last, choice.mean[:, -1])
    rows = torch.arange(2 * SLOTS)
    assert torch.equal(likely, choice.mean[rows, choice.logit.argmax(1)])


def test_drives_are_reproducible_and_the_arms_differ() -> None:
    one, other = list(drives(5, 0))[:2]
    again = next(iter(drives(5, 0)))
    assert torch.equal(one.tracks[-1].x, again.tracks[-1].x)
    assert torch.equal(one.tracks[0].x, other.tracks[0].x)
    assert not torch.equal(one.ego[-1].speed, other.ego[-1].speed)
    assert one.road.any() and (one.tracks[0].class_id != FREE).any()
    steps = steps_of(one, torch.Generator().manual_seed(0))
    assert steps.read.shape == steps.blind.shape == (len(steps.done), FEATURES)
    assert steps.done[..., 0].abs().max() < 9.0


def test_a_short_training_resumes_to_the_same_weights(tmp_path: Path) -> None:
    args = Args(out=tmp_path, scenes=1, batch=64, save_every=2, iterations=4)
    bundled = shared_driver(tmp_path)
    first = shared_driver(main(args))
    (tmp_path / DRIVER_FILE).unlink()
    second = shared_driver(main(args))
    assert bundled is shared_driver() and bundled is not first
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)
