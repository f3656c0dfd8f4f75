"""The geometric world does no harm: a network that knows nothing changes nothing of what is seen to stay."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from street import street_clips

from world_model.core.errors import OptionError
from world_model.core.geometry import se2_matrix
from world_model.core.grid import FREE, VoxelGrid
from world_model.data.clips import Clips
from world_model.models.geometric import GeometricForecaster, tiny
from world_model.worlds import build_world
from world_model.worlds.geometric import GeometricState, GeometricWorld
from world_model.worlds.traffic import TrafficConfig

GRID = VoxelGrid(shape=(96, 96, 16), lower_m=(-19.2, -19.2, -1.0))


def held_still(lift: int = 0) -> Clips:
    clips = street_clips(GRID, speed_mps=0.0, batch=2, cars_x_m=(10.0,))
    return replace(clips, occupancy=clips.occupancy.roll(lift, -1))


def untrained() -> GeometricForecaster:
    """A network that erases whatever it is shown."""
    torch.manual_seed(0)
    model = GeometricForecaster(tiny(GRID)).eval()
    with torch.no_grad():
        model.fusion.scores.bias.copy_(torch.full_like(model.fusion.scores.bias, -2.0))
    return model


def driven(world: GeometricWorld, clips: Clips, steps: int = 4) -> GeometricState:
    state = world.reset(clips)
    for _ in range(steps):
        state = world.step(state, torch.eye(4).repeat(2, 1, 1), torch.full((2,), 2))
    return state


def kept(state: GeometricState, clips: Clips) -> float:
    true = clips.occupancy[:, -1]
    return float(((state.labels == true) & (true != FREE)).sum() / (true != FREE).sum())


@torch.no_grad()
def test_a_frame_held_still_stays_at_every_height_of_the_ground() -> None:
    model = untrained()
    for lift in (-2, 0, 3):
        clips = held_still(lift)
        assert kept(driven(GeometricWorld(model), clips), clips) > 0.99
        assert kept(driven(GeometricWorld(model, self_check=False), clips), clips) < 0.5


@torch.no_grad()
def test_the_self_check_is_part_of_the_state() -> None:
    world, clips = GeometricWorld(untrained()), held_still()
    state = world.reset(clips)
    assert state.belief.kept.any()
    one = world.step(state.index(1), torch.eye(4)[None], torch.tensor([2]))
    both = world.step(state, torch.eye(4).repeat(2, 1, 1), torch.full((2,), 2))
    assert torch.equal(one.labels, both.labels[1:])


@torch.no_grad()
def test_what_the_self_check_found_is_reported() -> None:
    clips = held_still()
    found = GeometricWorld(untrained()).self_check_figures(GeometricWorld(untrained()).reset(clips))
    assert (found["evidence_iou"] > 0.95).all()
    assert (found["network_iou"] < found["evidence_iou"]).all()
    off = GeometricWorld(untrained(), self_check=False)
    assert (off.self_check_figures(off.reset(clips))["network_iou"] == 1).all()


@torch.no_grad()
def test_the_expected_lead_tells_a_network_that_erases_from_one_that_believes() -> None:
    torch.manual_seed(0)
    clips, believing = held_still(), GeometricForecaster(tiny(GRID)).eval()
    leads = []
    for model in (believing, untrained()):
        world = GeometricWorld(model, self_check=False)
        assert (world.self_check_figures(world.reset(clips))["expected_lead"] == 0).all()
        leads.append(world.self_check_figures(driven(world, clips, 1))["expected_lead"])
    assert (leads[0].abs() < 0.005).all() and (leads[1] < -0.01).all()


class Watching(GeometricWorld):
    """A world whose motion network says that all movable columns go along x at one speed."""

    def __init__(self, model: GeometricForecaster, speed_mps: float, **options: str) -> None:
        super().__init__(model, traffic=TrafficConfig(**options))
        field = torch.tensor([speed_mps, 0.0]).view(1, 2, 1, 1)
        model.motion.by_column = (
            lambda aligned, mirrored=True: (  # type: ignore[method-assign]  # a known velocity
                field.expand(len(aligned), 2, *GRID.shape[:2]),
                torch.ones(len(aligned), 1, *GRID.shape[:2], dtype=torch.bool),
            )
        )


def overtaken(speed_mps: float = 2.0) -> Clips:
    """The ego stands, and a car drives away from it."""
    clips = street_clips(GRID, speed_mps=0.0, batch=2)
    occupancy = clips.occupancy.clone()
    for p in range(5):
        at = 60 + round((p - 4) * speed_mps * 0.5 / GRID.voxel_m)
        occupancy[:, p, at : at + 11, 46:51, 3:6] = 4
    return replace(clips, occupancy=occupancy)


@torch.no_grad()
def test_a_rigid_car_stays_whole_whatever_the_network_says() -> None:
    clips = overtaken()
    state = driven(Watching(untrained(), 2.0, traffic="rigid"), clips, steps=4)
    assert (state.labels == 4).sum() >= 0.8 * (clips.occupancy[:, -1] == 4).sum()
    assert (state.labels[:, :60] == 4).sum() == 0


@torch.no_grad()
def test_agents_are_told_in_the_ego_frame() -> None:
    for traffic in ("constant-velocity", "rigid"):
        world = Watching(untrained(), 2.0, traffic=traffic)
        state = world.reset(overtaken())
        first = world.agents(state)
        assert first.alive.sum(1).tolist() == [1, 1] and (first.class_id[:, 0] == 4).all()
        # Where it is now, seen by an ego that has gone one metre ahead.
        ahead = se2_matrix(torch.tensor([-1.0, -1.0]), torch.zeros(2), torch.zeros(2)).float()
        later = world.agents(world.step(state, ahead, torch.full((2,), 2)))
        gone = first.x[:, 0] + 0.5 * first.speed[:, 0] - 1.0
        assert torch.allclose(later.x[:, 0], gone, atol=1e-4)


@torch.no_grad()
def test_rigid_states_branch_to_the_bit() -> None:
    world = Watching(untrained(), 2.0, traffic="rigid")
    state = driven(world, overtaken(), steps=1)
    branches = world.step(state.index(1).expand(2), torch.eye(4).repeat(2, 1, 1), torch.full((2,), 2))
    both = world.step(state, torch.eye(4).repeat(2, 1, 1), torch.full((2,), 2))
    assert torch.equal(branches.labels[0], both.labels[1])
    assert torch.equal(branches.agents.now.x, both.agents.now.x)


def test_traffic_is_checked() -> None:
    with pytest.raises(OptionError, match="traffic='chaos'"):
        TrafficConfig(traffic="chaos")
    with pytest.raises(OptionError, match="own"):
        build_world("transport", traffic="rigid", device="cpu")


def followed() -> Clips:
    """The ego stands, and a car comes from behind it."""
    clips = street_clips(GRID, speed_mps=0.0, batch=2)
    occupancy = clips.occupancy.clone()
    for p in range(5):
        at = 8 + round((p - 4) * 4.0 * 0.5 / GRID.voxel_m)
        occupancy[:, p, max(at, 0) : at + 11, 46:51, 3:6] = 4
    return replace(clips, occupancy=occupancy)


@torch.no_grad()
def test_a_follower_stops_behind_the_ego_in_log_like_traffic_only() -> None:
    reacting, rigid = (Watching(untrained(), 4.0, traffic=traffic) for traffic in ("log-like", "rigid"))
    first = reacting.agents(reacting.reset(followed()))
    assert first.speed[0, 0] > 2
    assert reacting.agents(driven(reacting, followed(), 8)).speed[0, 0] < 0.5
    assert torch.allclose(rigid.agents(driven(rigid, followed(), 8)).speed[0, 0], first.speed[0, 0])


@torch.no_grad()
def test_drawn_traffic_depends_on_the_seed_alone() -> None:
    world, log_like = (Watching(untrained(), 4.0, traffic=traffic) for traffic in ("sampled", "log-like"))
    start = world.reset(followed())
    same = world.draw_traffic(start, torch.tensor([3, 3])).agents.styles
    other = world.draw_traffic(start, torch.tensor([3, 4])).agents.styles
    assert torch.equal(same.desired_mps[0], same.desired_mps[1])
    assert not torch.equal(other.desired_mps[0], other.desired_mps[1])
    plain = log_like.reset(followed())
    assert log_like.draw_traffic(plain, torch.tensor([3, 4])) is plain
