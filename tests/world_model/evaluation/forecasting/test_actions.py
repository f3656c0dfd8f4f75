from __future__ import annotations

import pytest
import torch

from world_model.core.errors import OptionError
from world_model.core.geometry import invert_pose, se2_matrix, yaw_from_matrix
from world_model.evaluation.forecasting.actions import action_model, drive_by_actions


def drive(speed_mps: float, yaw_rate_rps: float, steps: int = 6) -> torch.Tensor:
    """Poses of a constant turn, somewhere in the world."""
    turn = torch.tensor(yaw_rate_rps * 0.5, dtype=torch.float64)
    length = torch.tensor(speed_mps * 0.5, dtype=torch.float64)
    step = se2_matrix(length * torch.cos(turn / 2), length * torch.sin(turn / 2), turn)
    start = [torch.tensor(v, dtype=torch.float64) for v in (500.0, -300.0, 2.0)]
    poses = [se2_matrix(*start)]
    for _ in range(steps):
        poses.append(poses[-1] @ step)
    return torch.stack(poses)


def misses(places: torch.Tensor, motions: torch.Tensor) -> torch.Tensor:
    """(K, 2) metres and radians between the driven and the logged poses."""
    pose, found = torch.eye(4, dtype=torch.float64), []
    for k, motion in enumerate(motions):
        pose = pose @ invert_pose(motion)
        off = invert_pose(invert_pose(places[0]) @ places[k + 1]) @ pose
        found.append(torch.stack((off[:2, 3].norm(), yaw_from_matrix(off).abs())))
    return torch.stack(found)


@pytest.mark.parametrize("yaw_rate", [-0.2, 0.0, 0.3])
def test_actions_follow_the_log(yaw_rate: float) -> None:
    places = drive(6.0, yaw_rate)
    exact = misses(places, drive_by_actions(action_model("delta"), places, 6.0))
    assert (exact < 1e-5).all()  # any motion within its bounds is one delta action
    close = misses(places, drive_by_actions(action_model("kinematic"), places, 6.0))
    assert (close[:, 0] < 0.25).all() and (close[:, 1] < 0.05).all()


def test_actions_are_bounded_by_what_a_car_can_do() -> None:
    places = drive(6.0, 0.0)
    from_rest = misses(places, drive_by_actions(action_model("kinematic"), places, 0.0))
    assert from_rest[0, 0] > 2.0  # 4 m/s^2 for half a second is half a metre, not three
    far = drive(60.0, 0.0)
    assert misses(far, drive_by_actions(action_model("delta"), far, 60.0))[0, 0] > 20


def test_unknown_actions_are_explained() -> None:
    with pytest.raises(OptionError, match="kinematic"):
        action_model("teleport")
