"""Actions become motions that a car could drive."""

from __future__ import annotations

import math

import pytest
import torch

from ii_world_env import actions
from ii_world_env.actions import ACTION_MODES, GRIP_MPS2, MAX_SPEED_MPS, MAX_STEER_RAD, SUBSTEPS, arc, delta, kinematic
from ii_world_env.planar import compose
from world_model.grid import EGO_WHEELBASE_M, STEP_S


def random_actions(size: int, count: int = 500) -> torch.Tensor:
    return torch.rand(count, size, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_zero_action_keeps_speed_and_heading() -> None:
    motion = kinematic(torch.zeros(1, 2), torch.tensor([7.0]))
    assert torch.allclose(motion.path[0, -1], torch.tensor([3.5, 0.0, 0.0]), atol=1e-5)
    assert motion.speed_mps.item() == pytest.approx(7.0)


def test_speed_never_turns_negative_and_stays_below_its_cap() -> None:
    speed = torch.rand(500, generator=torch.Generator().manual_seed(1)) * MAX_SPEED_MPS
    motion = kinematic(random_actions(2), speed)
    assert bool((motion.speed_mps >= 0).all()) and bool((motion.speed_mps <= MAX_SPEED_MPS).all())
    assert bool((motion.path[:, :, 0].diff(dim=1) >= -1e-6).all()), "a car that brakes must not roll back"


def test_full_braking_stops_where_physics_says() -> None:
    motion = kinematic(torch.tensor([[-1.0, 0.0]]), torch.tensor([2.0]))
    assert motion.speed_mps.item() == 0
    assert motion.path[0, -1, 0].item() == pytest.approx(2.0**2 / (2 * 6.0), abs=0.05)


def test_steering_drives_the_circle_of_the_bicycle_model() -> None:
    steer, speed = 0.2, torch.tensor([3.0])
    pose = torch.zeros(1, 3)
    radius = EGO_WHEELBASE_M / math.tan(steer)
    centre = torch.tensor([0.0, radius])
    for _ in range(12):
        motion = kinematic(torch.tensor([[0.0, steer / MAX_STEER_RAD]]), speed)
        pose = compose(pose, motion.path[:, -1])
        assert (pose[0, :2] - centre).norm().item() == pytest.approx(radius, rel=2e-3)
    assert pose[0, 2].item() == pytest.approx(12 * STEP_S * 3.0 / radius, rel=1e-4)


def test_tyres_limit_the_lateral_acceleration() -> None:
    motion = kinematic(torch.tensor([[0.0, 1.0]]), torch.tensor([15.0]))
    assert (motion.speed_mps * motion.yaw_rate_rps).item() == pytest.approx(GRIP_MPS2, rel=0.02)


def test_left_and_right_are_mirror_images() -> None:
    some = random_actions(2)
    speed = torch.full((len(some),), 6.0)
    mirrored = kinematic(some * torch.tensor([1.0, -1.0]), speed).path * torch.tensor([1.0, -1.0, -1.0])
    assert torch.allclose(kinematic(some, speed).path, mirrored, atol=1e-6)


def test_delta_ends_exactly_where_it_says() -> None:
    some = random_actions(3)
    motion = delta(some, torch.zeros(len(some)))
    low = torch.tensor([actions.DELTA_DX_M[0], actions.DELTA_DY_M[0], actions.DELTA_YAW_RAD[0]])
    high = torch.tensor([actions.DELTA_DX_M[1], actions.DELTA_DY_M[1], actions.DELTA_YAW_RAD[1]])
    assert torch.allclose(motion.path[:, -1], low + (some + 1) / 2 * (high - low), atol=1e-5)


def test_arc_repeats_one_small_motion() -> None:
    """The path of constant twist is the same small motion, driven again and again."""
    end = [torch.tensor([v]) for v in (4.0, 0.7, 0.5)]
    path = arc(*end)
    pose = torch.zeros(1, 3)
    for step in range(SUBSTEPS):
        pose = compose(pose, path[:, 0])
        assert torch.allclose(pose, path[:, step], atol=1e-5)


@pytest.mark.parametrize("mode", sorted(ACTION_MODES))
def test_inverse_finds_the_action_of_a_drivable_motion(mode: str) -> None:
    acts = ACTION_MODES[mode]
    some = random_actions(acts.size, 200) * 0.5
    speed = torch.full((len(some),), 8.0)
    end = acts.move(some, speed).path[:, -1]
    again = acts.move(acts.inverse(end, speed), speed).path[:, -1]
    assert torch.allclose(end, again, atol=0.12 if mode == "kinematic" else 1e-4)
