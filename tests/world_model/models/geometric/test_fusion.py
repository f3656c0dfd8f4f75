"""Figures of how sure a geometric forecast is: what they mean, and that they follow the forecast."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from street import street_clips
from tiny_checkpoints import TINY, write_geometric

from world_model.core.geometry import invert_pose, se2_matrix
from world_model.models.geometric.fusion import expected_ious
from world_model.worlds import build_world
from world_model.worlds.geometric import GeometricWorld

STRAIGHT = torch.tensor([2])


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> GeometricWorld:
    checkpoint: Path = write_geometric(tmp_path_factory.mktemp("moved"))
    made = build_world("geometric", checkpoint=checkpoint, device="cpu")
    assert isinstance(made, GeometricWorld)
    return made


def move(*steps_m: float) -> torch.Tensor:
    dx = torch.tensor(steps_m)
    return invert_pose(se2_matrix(dx, 0 * dx, 0 * dx))


def test_expected_ious_are_those_of_truths_drawn_from_the_scores() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = 3 * torch.randn(2, 40, 50, generator=generator) - 1
    other = torch.rand(2, 40, 50, generator=generator) < 0.3
    truth = torch.rand(400, 2, 2000, generator=generator) < scores.sigmoid().flatten(1)
    for found, forecast in zip(expected_ious(scores, other), (scores > 0, other), strict=True):
        both, either = (truth & forecast.flatten(1)).sum(2), (truth | forecast.flatten(1)).sum(2)
        torch.testing.assert_close(found, both.sum(0) / either.sum(0), atol=2e-3, rtol=0)


def test_expected_ious_at_their_ends() -> None:
    sure = torch.tensor([[50.0, -50.0, 50.0]])
    both = expected_ious(sure, sure > 0)
    assert torch.allclose(torch.stack(both), torch.ones(2, 1))
    nothing = torch.full((1, 9), float("-inf"))
    assert torch.equal(torch.stack(expected_ious(nothing, nothing > 0)), torch.ones(2, 1))  # empty, and surely so
    doubtful = torch.tensor([[0.1, -0.1]])
    iou, other = expected_ious(doubtful, doubtful < 0)
    assert 0.3 < iou.item() < 0.4  # one voxel of two, each a coin toss: 0.5 / 1.5
    assert other.item() < iou.item()


@torch.inference_mode()
def test_unseen_counts_what_the_observation_does_not_reach(world: GeometricWorld) -> None:
    start = world.reset(street_clips(TINY, speed_mps=2.0))
    figures = world.trust_figures(start)
    assert (figures["unseen"], figures["expected_iou"]) == (0, 1)
    assert 0 < float(figures["past_iou"]) <= 1
    state = start
    for passed in (4, 8, 12):  # of 16 m
        state = world.step(state, move(4.0), STRAIGHT)
        assert float(state.certainty.unseen) == pytest.approx(passed / 16, abs=0.03)
    back = world.step(state, move(-12.0), STRAIGHT)
    assert float(back.certainty.unseen) == pytest.approx(0, abs=0.03)
    assert 0 < float(state.certainty.expected_iou) < 1


@torch.inference_mode()
def test_rows_of_a_batch_do_not_mix(world: GeometricWorld) -> None:
    start = world.reset(street_clips(TINY, batch=2))
    both = world.step(start, move(0.5, 6.0), STRAIGHT.expand(2))
    for row, step_m in enumerate((0.5, 6.0)):
        alone = world.trust_figures(world.step(start.index(row), move(step_m), STRAIGHT))
        for name, value in world.trust_figures(both).items():
            assert value.shape == (2,) and torch.allclose(alone[name][0], value[row], atol=1e-5), name
    assert both.certainty.unseen[0] < both.certainty.unseen[1]
