"""The geometric world does no harm: a network that knows nothing changes nothing of what is seen to stay."""

from __future__ import annotations

from dataclasses import replace

import torch
from street import street_clips

from world_model.core.grid import FREE, VoxelGrid
from world_model.data.clips import Clips
from world_model.models.geometric import GeometricForecaster, tiny
from world_model.worlds.geometric import GeometricState, GeometricWorld

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
