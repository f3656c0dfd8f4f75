"""What geometry expects: still things stay, movers move, and nothing is known that was never seen."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from slow_evidence import slow_evidence
from torch import Tensor

from world_model.core.geometry import se2_matrix
from world_model.core.grid import FREE, MOVABLE, VoxelGrid
from world_model.models.geometric.evidence import (
    FORECAST,
    OBSERVED,
    UNKNOWN,
    Observation,
    align_past,
    gather_evidence,
    is_movable,
    observe,
    previous_forecast,
    remember,
    without_movers,
)

GRID = VoxelGrid(shape=(40, 40, 16), lower_m=(-8.0, -8.0, -1.0))
STILL = torch.eye(4)[None]


def forward(dx: float) -> Tensor:
    zero = torch.zeros(1)
    return se2_matrix(torch.tensor([dx]), zero, zero)


def street(velocity: tuple[float, float] = (0.0, 0.0)) -> Observation:
    """A wall, a ground, and a car of 4 x 3 columns that drives."""
    labels = torch.full((1, 1, *GRID.shape), FREE, dtype=torch.uint8)
    labels[..., 2] = 11
    labels[:, :, 30, :, 3:8] = 15
    labels[:, :, 10:14, 18:21, 3:6] = 4
    field = torch.zeros(1, 40, 40, 2)
    field[:, 10:14, 18:21] = torch.tensor(velocity)
    return observe(labels, field)


def test_movable_classes_are_the_movable_ones() -> None:
    found = is_movable(torch.arange(256).to(torch.uint8)).nonzero()[:, 0].tolist()
    assert tuple(found) == MOVABLE


def test_a_world_at_rest_stays_as_it_is() -> None:
    seen = street()
    evidence = gather_evidence(seen, STILL, torch.tensor([2.0]), GRID)
    assert torch.equal(evidence.labels, seen.labels) and (evidence.visibility == OBSERVED).all()
    assert not evidence.displacement_m.any()


def test_a_mover_moves_and_leaves_its_ground() -> None:
    seen = street(velocity=(1.6, -0.8))
    evidence = gather_evidence(seen, STILL, torch.tensor([0.5]), GRID)
    want = seen.labels.clone()
    want[:, 10:14, 18:21, 3:6] = FREE
    want[:, 12:16, 17:20, 3:6] = 4
    assert torch.equal(evidence.labels, want)
    torch.testing.assert_close(evidence.displacement_m[0, 13, 18], torch.tensor([0.8, -0.4]))
    # Where it was is not forgotten: the network may think that it stayed.
    assert (evidence.memory[:, 10:14, 18:21, 3:6] == 4).all()


def test_a_mover_seen_from_a_moving_ego_keeps_its_shape() -> None:
    # The ego drives 1.2 m and so does the car: it stays at the same place of the grid.
    seen = street(velocity=(2.4, 0.0))
    evidence = gather_evidence(seen, forward(1.2), torch.tensor([0.5]), GRID)
    car = evidence.labels == 4
    assert torch.equal(car, seen.labels == 4)
    assert (evidence.labels[:, 27, :, 3:8] == 15).all()


def test_a_given_displacement_counts_instead_of_the_velocity() -> None:
    seen = street(velocity=(1.6, 0.0))
    displacement = torch.zeros(1, 40, 40, 2)
    displacement[:, 10:14, 18:21, 0] = 2.0
    evidence = gather_evidence(seen, STILL, torch.tensor([0.5]), GRID, displacement_m=displacement)
    assert (evidence.labels[:, 15:19, 18:21, 3:6] == 4).all() and not (evidence.labels[:, 10:14, 18:21] == 4).any()


def test_only_what_was_never_observed_comes_from_the_previous_forecast() -> None:
    seen = street()
    before = torch.full((1, *GRID.shape), 16, dtype=torch.uint8)
    previous = previous_forecast(before, forward(0.8), GRID)
    evidence = gather_evidence(seen, forward(4.0), torch.tensor([2.0]), GRID, previous=previous)
    # 4 m ahead: the last ten columns are new; all but two of them were in the forecast of the step before.
    assert (evidence.visibility[:, :30] == OBSERVED).all()
    assert (evidence.visibility[:, 30:38] == FORECAST).all() and (evidence.visibility[:, 38:] == UNKNOWN).all()
    assert (evidence.labels[:, 30:38] == 16).all() and (evidence.labels[:, 38:] == FREE).all()
    assert not (evidence.labels[:, :30] == 16).any()


def test_memory_holds_still_things_that_are_out_of_sight_now() -> None:
    frames = torch.full((1, 3, *GRID.shape), FREE, dtype=torch.uint8)
    frames[:, 0, 20, 20, 5], frames[:, 1, 20, 20, 5] = 15, 16
    frames[:, 1, 22, 22, 5] = 4
    frames[:, 0, 24, 24, 5], frames[:, 2, 24, 24, 5] = 15, 14
    aligned = align_past(frames, torch.eye(4).expand(1, 3, 4, 4), GRID)
    memory = remember(aligned)
    assert torch.equal(aligned[:, 0], frames[:, 2])
    assert int(memory[0, 20, 20, 5]) == 16 and (memory != FREE).sum() == 1


def test_past_frames_are_aligned_with_the_present() -> None:
    frames = torch.full((1, 2, *GRID.shape), FREE, dtype=torch.uint8)
    frames[:, 0, 20, 20, 5] = frames[:, 1, 15, 20, 5] = 15
    poses = torch.stack((forward(-2.0), STILL), 1)
    aligned = align_past(frames, poses, GRID)
    assert torch.equal(aligned[:, 0], aligned[:, 1])


@pytest.mark.parametrize("seed", range(4))
def test_evidence_equals_its_slow_twin(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = torch.from_numpy(
        rng.choice([4, 11, 15, FREE], (2, 2, *GRID.shape), p=[0.1, 0.2, 0.1, 0.6]).astype(np.uint8)
    )
    speed = torch.from_numpy(rng.normal(0, 4, (2, 40, 40, 2)).astype(np.float32)) * torch.from_numpy(
        rng.random((2, 40, 40, 1)) < 0.1
    )
    seen = observe(labels, speed)
    x, y, yaw = (torch.from_numpy(rng.uniform(-3, 3, 2).astype(np.float32)) for _ in range(3))
    ahead, step = se2_matrix(x, y, yaw), se2_matrix(x / 4, y / 4, yaw / 8)
    before = labels.flip(0)[:, 1].contiguous()
    evidence = gather_evidence(seen, ahead, torch.full((2,), 0.5), GRID, previous=previous_forecast(before, step, GRID))
    for row in range(2):
        one = slice(row, row + 1)
        found = evidence.index(row)
        shift = 0.5 * seen.velocity_mps[one]
        want = slow_evidence(seen.index(row), ahead[one], shift, before[one], step[one], GRID)
        # Points at the very edge of a voxel may go either way in single precision.
        for name, value in zip(("labels", "memory", "visibility"), want[:3], strict=True):
            assert (getattr(found, name)[0].numpy() != value).mean() < 1e-3, name
        apart = np.abs(found.displacement_m[0].numpy() - want[3]).max(-1) > 1e-4
        assert apart.mean() < 2e-3 and (want[3] != 0).any()


def test_a_mover_leaves_no_ghost_where_nothing_was_observed() -> None:
    """It drives out of the observed area; its old place is free then, and its new one holds it."""
    labels = torch.full((1, 1, *GRID.shape), FREE, dtype=torch.uint8)
    labels[0, 0, 36:39, 18:21, 4:7] = 4
    labels[0, 0, 30, 5, 4] = 4
    speed = torch.zeros(1, *GRID.shape[:2], 2)
    speed[0, 36:39, 18:21, 0] = 4.0
    seen, voxel = observe(labels, speed), GRID.voxel_m
    ahead = forward(10 * voxel)

    def cars(previous: torch.Tensor, seconds: float) -> torch.Tensor:
        before = previous_forecast(previous, STILL, GRID)
        return gather_evidence(seen, ahead, torch.tensor([seconds]), GRID, previous=before).labels == 4

    nothing = torch.full((1, *GRID.shape), FREE, dtype=torch.uint8)
    first = torch.where(cars(nothing, 0.5), 4, FREE).to(torch.uint8)
    parked = first.clone()
    parked[0, 35, 35, 4] = 4
    cleared = without_movers(parked, seen, speed * 0.5, ahead, GRID)
    assert int((first == 4).sum()) == 28 and int((cleared == 4).sum()) == 2, "what stands is remembered"
    alone = cars(nothing, 1.0)
    assert int(alone.sum()) == 28
    assert torch.equal(cars(cleared, 1.0)[0, :35], alone[0, :35]) and int(cars(cleared, 1.0).sum()) == 29
    assert int(cars(parked, 1.0).sum()) > 29, "else it would be at the old place, too"
