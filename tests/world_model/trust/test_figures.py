"""Figures mean what they say."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from small_worlds import TINY, Learned
from street import SMALL, street_clips

from world_model.core.geometry import invert_pose, se2_matrix
from world_model.trust import figures_for
from world_model.trust.figures import TokenFigures
from world_model.worlds import ReplayWorld, TransportWorld
from world_model.worlds.ensemble import EnsembleWorld


@pytest.fixture(scope="module")
def world() -> Learned:
    """A tiny model of untrained weights on a grid of 16 m."""
    return Learned(None, torch.device("cpu"), TINY)


def move(dx: float, dyaw: float = 0.0) -> torch.Tensor:
    return invert_pose(se2_matrix(torch.tensor([dx]), torch.tensor([0.0]), torch.tensor([dyaw])))


@torch.no_grad()
def test_figures_follow_what_they_are_about(world: Learned) -> None:
    figures = figures_for(world)
    assert isinstance(figures, TokenFigures)
    start = world.reset(street_clips(TINY, speed_mps=2.0))
    command = torch.tensor([2])
    near, far = world.step(start, move(4.0), command), world.step(start, move(8.0), command)
    assert figures(start)["unseen"] == 0
    # 4 and 8 of 16 m, counted in five rows of cells.
    assert figures(near)["unseen"] == pytest.approx(0.25, abs=0.11)
    assert figures(far)["unseen"] == pytest.approx(0.5, abs=0.11)
    standing = world.step(start, move(0.0), command)
    # A token map that stays the same has not changed; the same map moved has not changed either.
    same = dataclasses.replace(
        standing,
        token=start.token,
        forecast=dataclasses.replace(
            standing.forecast, tokens=torch.stack((start.token, start.token), 1).repeat(1, 3, 1, 1, 1)[:, -5:]
        ),
    )
    assert figures(same)["change"] == pytest.approx(0, abs=1e-4)
    louder = dataclasses.replace(same, token=3 * start.token)
    assert figures(louder)["change"] > 0.1 and figures(louder)["strength"] > 1.5 * figures(same)["strength"]
    flat = dataclasses.replace(same, token=start.token.mean((2, 3), keepdim=True).expand_as(start.token))
    assert figures(flat)["sharpness"] == pytest.approx(0, abs=1e-4) and figures(same)["sharpness"] > 1e-3


@torch.no_grad()
def test_a_token_made_of_one_code_has_no_distance_from_it(world: Learned) -> None:
    figures = TokenFigures(world)
    start = world.reset(street_clips(TINY))
    code = (figures.constant + figures.book[7])[None, :, None, None].expand_as(start.token)
    exact = figures(dataclasses.replace(start, token=code))
    beside = figures(dataclasses.replace(start, token=code + 0.3))
    assert float(exact["code_distance"]) < 0.02 < float(beside["code_distance"])


@torch.no_grad()
def test_rows_of_a_batch_do_not_mix(world: Learned) -> None:
    figures = figures_for(world)
    assert figures is not None
    clips = street_clips(TINY, batch=2)
    both = world.step(world.reset(clips), torch.cat((move(0.5), move(3.0, 0.2))), torch.tensor([2, 2]))
    for name, value in figures(both).items():
        assert value.shape == (2,)
        for row in (0, 1):
            assert torch.allclose(figures(both.index(row))[name], value[row], atol=1e-5), name


def test_an_ensemble_adds_its_disagreement(world: Learned) -> None:
    assert figures_for(TransportWorld()) is None
    assert figures_for(EnsembleWorld([TransportWorld(SMALL), ReplayWorld(SMALL)])) is None
    both = EnsembleWorld([world, world])
    figures = figures_for(both)
    assert figures is not None
    state = both.reset(street_clips(TINY))
    assert figures(state)["disagreement"] == 0 and set(figures(state)) > {"unseen", "disagreement"}
