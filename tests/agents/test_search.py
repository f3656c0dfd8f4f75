"""Search: plans found in the world, and the forecast that candidates share."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from gymnasium import spaces
from street import SMALL, street_clips

from agents.benchmark import fixed_starts
from agents.planners.build import build_planner
from agents.planners.comfort import Comfortable
from agents.planners.elsewhere import Elsewhere
from agents.planners.forecast import forecast, scores
from agents.planners.idm import IDM
from agents.planners.learned import PPOPlanner
from agents.planners.residual import Residual
from agents.planners.scripted import ConstantVelocity, LogReplay
from agents.planners.search import METHODS, Search, SearchConfig
from agents.policies import PolicyFacts, make_policy, save_policy
from ii_world_env.engine import CAUSES, Engine, EngineConfig
from ii_world_env.observations.build import build_observation
from ii_world_env.scenes import open_scenes
from world_model.core.errors import OptionError
from world_model.worlds import TransportWorld

FEW = SearchConfig(steps=4, candidates=8, iterations=2)


def engine(action: str = "kinematic") -> Engine:
    return Engine(TransportWorld(SMALL), EngineConfig(action=action, horizon=12))


@pytest.mark.parametrize("action", ["kinematic", "delta", "waypoints"])
def test_scores_in_a_shared_forecast_are_those_of_branches(action: str) -> None:
    """Along the plan itself to the last bit; elsewhere where no voxel is rounded to another place."""
    runner = engine(action)
    state = runner.reset(street_clips(SMALL, batch=2, cars_x_m=(19.0,)), torch.tensor([4.0, 9.0]))
    shared = forecast(runner, state, IDM(runner).act, 4)
    draw = torch.Generator().manual_seed(0)
    change = torch.randn(2, 6, 4, runner.action_mode.size, generator=draw) * torch.tensor(0.2)
    change[:, 0] = 0
    plans = (shared.actions[:, None] + change).clamp(-1, 1)
    found = scores(runner, shared, plans)
    branched = runner.rollout(state.expand(6), plans.flatten(0, 1)).total.view(2, 6)
    assert torch.allclose(found[:, 0], branched[:, 0], atol=1e-5)
    assert ((found - branched).abs() < 0.1).float().mean() > 0.7


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("branches", ["forecast", "world"])
def test_search_plans_at_least_as_well_as_its_prior(method: str, branches: str) -> None:
    """With constant velocity as prior, a standing car is not hit."""
    runner = engine()
    config = SearchConfig(steps=4, candidates=12, iterations=2, prior="constant_velocity", branches=branches)
    for planner, crashes in ((ConstantVelocity(runner), True), (Search(runner, method, config), False)):
        state = runner.reset(street_clips(SMALL, speed_mps=5.0, cars_x_m=(16.0,)))
        planner.reset(state)
        for _ in range(8):
            state, _ = runner.step(state, planner.act(state))
        assert (CAUSES[int(state.cause)] == "collision") == crashes


def test_search_is_seeded_and_starts_anew_row_by_row() -> None:
    runner = engine()
    begin = runner.reset(street_clips(SMALL, batch=2, cars_x_m=(18.0,)))
    first, second = Search(runner, "cem", FEW), Search(runner, "cem", FEW)
    for planner in (first, second):
        planner.reset(begin)
    one, two = first.act(begin), second.act(begin)
    assert torch.equal(one, two)
    state, _ = runner.step(begin, one)
    mixed = state.put([1], begin.index(1))
    warm = first._warm(mixed, torch.zeros(2, FEW.steps, 2))
    assert not warm[1].any() and torch.equal(warm[0, :, :-1], first._elites[0, :, 1:])


def test_a_budget_ends_the_search_and_keeps_the_first_iteration() -> None:
    runner = engine()
    state = runner.reset(street_clips(SMALL))
    hurried = Search(runner, "cem", SearchConfig(candidates=4, iterations=1000, budget_ms=1.0))
    hurried.reset(state)
    assert torch.isfinite(hurried.act(state)).all()


def test_search_by_name_and_its_limits() -> None:
    assert (
        build_planner("cem", engine()).name == "cem" and build_planner("mppi+comfort", engine()).name == "mppi+comfort"
    )
    with pytest.raises(OptionError, match="kinematic"):
        Search(engine("meta"), "cem")
    with pytest.raises(OptionError, match="mppi"):
        Search(engine(), "annealing")


def test_planning_in_another_world_sees_what_is_driven_in(small_data: Path) -> None:
    """Of the same kind it plans what it would plan at home; the observed past comes from the recording."""
    scenes = open_scenes(index=small_data, horizon=8)
    runner = engine()
    clips = scenes.load(fixed_starts(scenes, 1), runner.frames_ahead, False, SMALL)
    state = runner.reset(clips)
    planner = build_planner("cem:transport", runner, scenes)
    assert isinstance(planner, Elsewhere)
    planner.planner = Search(planner.plan_in, "cem", FEW)
    home = Search(runner, "cem", FEW)
    for both in (planner, home):
        both.reset(state)
    for _ in range(2):
        actions = planner.act(state)
        assert torch.allclose(actions, home.act(state), atol=0.05)
        assert planner._labels is not None and torch.equal(planner._labels[:, -1], runner.occupancy(state))
        state, _ = runner.step(state, actions)
    with pytest.raises(OptionError, match="one pose"):
        runner.observe(state, state.labels, state.pose)


def test_a_policy_guides_the_search() -> None:
    """Its plan is the first candidate: with no noise at all the search drives as the policy does."""
    runner = engine()
    facts = PolicyFacts(action="kinematic", observation="traffic", prior="idm")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "policy.safetensors"
        seen = Residual(runner, "idm").widened(build_observation("traffic", runner.world, runner.action_mode).space())
        save_policy(path, make_policy(facts, seen, spaces.Box(-1, 1, (2,))), facts)
        policy, alone = PPOPlanner(runner, path), PPOPlanner(runner, path)
    search = Search(runner, "cem", replace(FEW, spread=0.0, iterations=1), policy)
    state = runner.reset(street_clips(SMALL, cars_x_m=(15.0,)))
    for planner in (search, alone):
        planner.reset(state)
    for _ in range(2):
        actions = search.act(state)
        assert torch.allclose(actions, alone.act(state), atol=1e-6)
        state, _ = runner.step(state, actions)


def test_a_name_says_whose_plan_is_corrected() -> None:
    planner = build_planner("cem@log_replay", engine())
    assert isinstance(planner, Search) and isinstance(planner.prior, LogReplay) and planner.name == "cem@log_replay"
    elsewhere = build_planner("mppi:transport@idm+comfort", engine())
    assert isinstance(elsewhere, Comfortable) and elsewhere.name == "mppi:transport@idm+comfort"
    for name in ("fast@idm", "cem@nobody"):
        with pytest.raises(OptionError, match="planner"):
            build_planner(name, engine())
