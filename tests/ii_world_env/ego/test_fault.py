"""Whose fault a contact is, on a straight street."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from street import SMALL, street, street_clips

from agents.planners.forecast import forecast, scores
from agents.planners.scripted import ConstantVelocity
from ii_world_env.ego.footprint import FootprintConfig
from ii_world_env.engine import Engine, EngineConfig, State
from world_model.worlds import ReplayWorld

HORIZON = 5
Places = Callable[[float], Sequence[float]]
"""Seconds since the reset -> middles of cars along the street, in the start frame."""


def begin(places: Places, speed: float, excused: bool) -> tuple[Engine, State]:
    """An ego at a constant speed among cars of 4 m that move as they like."""
    clips = street_clips(SMALL, speed_mps=speed, past=0, future=HORIZON)
    frames = torch.from_numpy(np.stack([street(SMALL, 0.0, tuple(places(0.5 * k))) for k in range(HORIZON + 1)]))[None]
    # The log stands still, so that the recorded labels are those of the start frame.
    still = torch.eye(4, dtype=torch.float64).expand_as(clips.ego_to_global)
    clips = replace(clips, occupancy=frames[:, :1], future_occupancy=frames[:, 1:], ego_to_global=still)
    config = EngineConfig(horizon=HORIZON, footprint=FootprintConfig(struck_excused=excused))
    engine = Engine(ReplayWorld(SMALL), config)
    return engine, engine.reset(clips, speed_mps=torch.tensor([speed]))


def hits(places: Places, speed: float, excused: bool = True) -> list[bool]:
    """Whether each step is an at-fault collision."""
    engine, state = begin(places, speed, excused)
    found = []
    for _ in range(HORIZON):
        state, out = engine.step(state, torch.zeros(1, 2))
        found.append(bool(out.outcome.collision))
    return found


@pytest.mark.parametrize("faster", [5.0, 8.0, 11.0])
def test_a_follower_that_drives_through_the_ego_is_at_fault_itself(faster: float) -> None:
    blamed = 0
    for gap in (1.2, 2.4, 3.1, 4.6):

        def follower(seconds: float, gap: float = gap) -> list[float]:
            return [-3.0 - gap + (1.5 + faster) * seconds]

        blamed += any(hits(follower, 1.5, excused=False))
        assert not any(hits(follower, 1.5)), f"gap {gap} m"
    assert blamed >= 3


@pytest.mark.parametrize("speed", [4.0, 9.0, 16.0])
def test_running_into_what_stands_is_the_egos_fault_with_a_follower_behind(speed: float) -> None:
    assert any(hits(lambda seconds: [9.0, -4.5 + speed * seconds], speed))


@pytest.mark.parametrize("closing", [3.0, 8.0, 14.0])
def test_an_oncoming_car_is_no_follower(closing: float) -> None:
    assert any(hits(lambda seconds: [10.0 - closing * seconds], 3.0))


def test_a_search_blames_as_the_engine_does() -> None:
    for places in (lambda s: [-5.5 + 9.0 * s], lambda s: [9.0], lambda s: [10.0 - 8.0 * s]):
        engine, state = begin(places, 2.0, True)
        shared = forecast(engine, state, ConstantVelocity(engine).act, HORIZON)
        found = scores(engine, shared, shared.actions[:, None])
        exact = engine.rollout(state, shared.actions).total
        assert torch.allclose(found[:, 0], exact, atol=1e-5)
