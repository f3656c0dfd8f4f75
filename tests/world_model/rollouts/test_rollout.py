"""The one loop: batches equal singles, only what is asked for is decoded, and every kind of drive goes through it."""

from __future__ import annotations

import pytest
import torch
from small_worlds import TINY, Learned
from street import SMALL, street_clips
from torch import Tensor

from world_model.core.errors import DataError, OptionError
from world_model.core.geometry import invert_pose, se2_matrix
from world_model.rollouts import roll
from world_model.worlds import MotionPredicting, TransportWorld

COMMANDS = torch.tensor([[2, 2, 1], [0, 1, 2]])


@pytest.fixture(scope="module")
def world() -> Learned:
    return Learned(None, torch.device("cpu"), TINY)


def motions() -> Tensor:
    """(2, 3, 4, 4) float64, two drives of three steps."""
    dx = torch.tensor([[1.0, 2.0, 3.0], [0.5, 0.0, 1.0]], dtype=torch.float64)
    return invert_pose(se2_matrix(dx, 0.1 * dx, 0.05 * dx))


class Counting(TransportWorld):
    """Counts how often it is decoded."""

    decoded = 0

    def occupancy(self, state: object) -> Tensor:
        self.decoded += 1
        return super().occupancy(state)  # type: ignore[arg-type]


def test_a_batch_is_its_drives_one_by_one(world: Learned) -> None:
    clips = street_clips(TINY, batch=2)
    both = roll(world, clips, COMMANDS, motions())
    state = world.reset(clips)
    for row in (0, 1):
        part = slice(row, row + 1)
        one = roll(world, state.index(row), COMMANDS[part], motions()[part])
        assert torch.equal(clips.ego_to_global[part, clips.past] @ one.ego_pose[0], both.ego_pose[row])
        differ = [(one.occupancy[step] != both.occupancy[step][part]).float().mean() for step in (1, 2, 3)]
        assert max(differ) < 1e-3  # near ties may flip with the width of a batch


def test_poses_are_those_of_the_motions_and_the_worlds_states() -> None:
    given = motions()
    rollout = roll(TransportWorld(SMALL), street_clips(SMALL, batch=2), COMMANDS, given, keep_states=True)
    assert len(rollout.states) == 4 and rollout.ego_pose.shape == (2, 4, 4, 4)
    for step, state in enumerate(rollout.states):
        driven = invert_pose(rollout.ego_pose[:, 0]) @ rollout.ego_pose[:, step]
        assert torch.allclose(state.ego_to_start.double(), driven, atol=1e-4)
    assert torch.equal(rollout.commands, COMMANDS) and rollout.predicted is None


def test_only_the_wanted_steps_are_decoded() -> None:
    world, clips = Counting(SMALL), street_clips(SMALL, batch=2)
    done: list[int] = []
    rollout = roll(world, clips, COMMANDS, motions(), decode=(0, 2), progress=done.append)
    assert list(rollout.occupancy) == [0, 2] and world.decoded == 2 and not rollout.states and done == [1, 2, 3]
    assert torch.equal(rollout.occupancy[0], clips.occupancy[:, -1])
    every = roll(world, clips, COMMANDS, motions(), labels_on="cpu")
    assert list(every.occupancy) == [1, 2, 3] and torch.equal(every.occupancy[2], rollout.occupancy[2])


def test_without_motions_the_world_drives_itself(world: Learned) -> None:
    assert isinstance(world, MotionPredicting)
    clips = street_clips(TINY, batch=2)
    own = roll(world, clips, COMMANDS, with_predicted=True)
    state = world.reset(clips)
    for step in range(3):
        state, executed = world.drive(state, COMMANDS[:, step])
        expected = own.ego_pose[:, step] @ invert_pose(executed.double())
        assert torch.equal(own.ego_pose[:, step + 1], expected)
        assert torch.equal(own.occupancy[step + 1], world.occupancy(state))
    assert own.predicted is not None
    driven = invert_pose(own.ego_pose[:, :-1]) @ own.ego_pose[:, 1:]
    assert torch.allclose(own.predicted[..., :2].double(), driven[..., :2, 3], atol=1e-4)
    # A given motion is executed, the predicted one only reported; the forecast is the same to the bit.
    given = roll(world, clips, COMMANDS, motions(), with_predicted=True)
    plain = roll(world, clips, COMMANDS, motions())
    assert given.predicted is not None and plain.predicted is None
    assert all(torch.equal(given.occupancy[step], plain.occupancy[step]) for step in (1, 2, 3))
    assert torch.equal(given.ego_pose, plain.ego_pose) and torch.equal(given.predicted[:, 0], own.predicted[:, 0])


def test_what_a_world_cannot_do_is_explained() -> None:
    clips = street_clips(SMALL, batch=2)
    with pytest.raises(OptionError, match="no motion model"):
        roll(TransportWorld(SMALL), clips, COMMANDS)

    class Wrong(TransportWorld):
        def occupancy(self, state: object) -> Tensor:
            return torch.zeros(1, 2, 3, 4, dtype=torch.uint8)

    with pytest.raises(DataError, match="Wrong made occupancy"):
        roll(Wrong(SMALL), clips, COMMANDS, motions())
