"""Residual policies and the comfort limiter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_worlds import TINY, Learned
from street import SMALL, street_clips

from agents.benchmark import fixed_starts
from agents.evaluate import Evaluate, evaluate
from agents.planners.build import build_planner
from agents.planners.comfort import ComfortLimiter
from agents.planners.idm import IDM
from agents.planners.learned import PPOPlanner
from agents.planners.residual import SCALES, Residual
from agents.planners.scripted import ConstantVelocity
from agents.prior_env import PriorVecEnv
from agents.training import Train, train
from ii_world_env.engine import Engine, EngineConfig
from ii_world_env.sb3_vec_env import IIWorldVecEnv
from ii_world_env.scenes import open_scenes
from world_model.core.errors import CheckpointError, OptionError
from world_model.worlds import TransportWorld


def engine(action: str = "kinematic") -> Engine:
    return Engine(TransportWorld(SMALL), EngineConfig(action=action, horizon=12))


def test_idm_forgets_row_by_row() -> None:
    """A row that begins anew inside a batch drives as alone; the others keep what they know of the vehicle ahead."""
    runner = engine()
    begin = runner.reset(street_clips(SMALL, batch=2, cars_x_m=(18.0,)))
    idm, alone = IDM(runner), IDM(runner)
    idm.reset(begin)
    state, _ = runner.step(begin, idm.act(begin))
    mixed = state.put([1], begin.index(1))
    actions = idm.act(mixed)
    alone.reset(begin)
    assert torch.equal(actions[1], alone.act(begin)[1])
    alone.reset(begin)
    kept = [alone.act(begin), alone.act(state)][1]
    assert torch.equal(actions[0], kept[0]) and not torch.equal(actions[0], actions[1])


@pytest.mark.parametrize("action", ["kinematic", "delta", "waypoints", "meta"])
def test_limited_actions_stay_within_comfort(action: str) -> None:
    """Random actions through the limiter exceed no limit, unless they brake in an emergency."""
    runner = engine(action)
    limiter, draw = ComfortLimiter(runner), torch.Generator().manual_seed(0)
    state = runner.reset(street_clips(SMALL, batch=8), torch.linspace(1.0, 12.0, 8))
    width, count = runner.action_mode.size, len(runner.action_mode.choices)
    steady, uncomfortable, limited = ConstantVelocity(runner), 0, 0
    for _ in range(8):
        shape = (8, width)
        actions = torch.randint(count, shape, generator=draw) if count else torch.rand(shape, generator=draw) * 2 - 1
        actions = runner.action_mode.checked(actions, 8, state.pose.device)
        emergency = runner.action_mode.move(actions, state).accel_mps2 < -4.5
        actions = torch.where(emergency[:, None], steady.act(state), actions)
        _, rough = runner.step(state, actions)
        state, smooth = runner.step(state, limiter(state, actions))
        uncomfortable += int(rough.outcome.discomfort.any(-1).sum())
        limited += int(smooth.outcome.discomfort.any(-1).sum())
    assert limited <= uncomfortable / (2 if count else 8) and uncomfortable > 0


def test_comfortable_actions_pass_unchanged() -> None:
    runner = engine()
    state = runner.reset(street_clips(SMALL))
    gentle = torch.tensor([[0.1, 0.0]])
    assert torch.equal(ComfortLimiter(runner)(state, gentle), gentle)


def test_a_zero_residual_is_the_prior(street_data: Path) -> None:
    venv = IIWorldVecEnv(3, world="transport", index=street_data, observation="state", horizon=3, device="cpu")
    env = PriorVecEnv(venv, "idm")
    idm = IDM(venv.vector.engine)
    env.seed(0)
    observed = env.reset()
    assert observed.shape == (3, env.observation_space.shape[0]) and env.observation_space.contains(observed[0])
    for _ in range(8):  # through two autoresets
        wanted = idm.act(venv.vector.state)
        assert np.allclose(observed[:, -2:], wanted)
        observed, _, done, infos = env.step(np.zeros((3, 2), np.float32))
        assert all(
            info["terminal_observation"].shape == observed[0].shape for info in infos if "terminal_observation" in info
        )
        kept = ~torch.as_tensor(done)
        assert torch.allclose(venv.vector.state.last_action[kept], wanted[kept])


def test_the_residual_is_bounded() -> None:
    runner = engine()
    residual = Residual(runner, "idm")
    state = runner.reset(street_clips(SMALL))
    planned = residual.plan(state)
    away = residual.actions(state, planned, torch.full((1, 2), 9.0)) - planned
    assert (away <= torch.tensor(SCALES["kinematic"]) + 1e-6).all()
    with pytest.raises(OptionError, match="kinematic"):
        Residual(engine("meta"), "idm")


@pytest.mark.parametrize(("action", "observation"), [("kinematic", "state"), ("delta", "bev"), ("waypoints", "state")])
def test_residual_policies_are_trained_and_judged_without_options(
    tiny_data: Path, tmp_path: Path, action: str, observation: str
) -> None:
    shared: dict[str, Any] = {"world": "small_worlds:Learned", "index": tiny_data, "action": action, "device": "cpu"}
    size = {"timesteps": 32, "num_envs": 2, "rollout": 8, "minibatch": 8, "epochs": 1, "horizon": 2}
    run = Train(
        observation=observation,
        prior="idm",
        comfort=True,
        reward="pdms",
        split="all",
        out=tmp_path / "run",
        **size,
        **shared,
    )
    train(run)
    actions = []
    world = Learned(checkpoint=None, device=torch.device("cpu"), grid=TINY)
    runner, scenes = Engine(world, EngineConfig(action=action, horizon=2)), open_scenes(index=tiny_data, split="all")
    state = runner.reset(scenes.load(fixed_starts(scenes, 1), runner.frames_ahead, False, TINY))
    for name in ("model.zip", "policy.safetensors"):
        planner = PPOPlanner(runner, tmp_path / "run" / name)
        assert planner.residual is not None
        planner.reset(state)
        actions.append(planner.act(state))
    assert torch.allclose(*actions, atol=1e-6), "both files drive the same"
    policy = (tmp_path / "run" / "policy.safetensors").rename(tmp_path / "policy.safetensors")
    drive = Evaluate(planners=(f"ppo:{policy}",), split="all", per_scene=1, horizon=2, out=tmp_path / "e", **shared)
    (episodes,) = evaluate(drive).values()
    assert len(episodes) == 1


def test_other_policy_files_are_refused(tmp_path: Path) -> None:
    runner = engine()
    bad = tmp_path / "policy.safetensors"
    with pytest.raises(CheckpointError, match="no policy"):
        PPOPlanner(runner, bad)
    bad.write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="cannot be read"):
        PPOPlanner(runner, bad)


def test_planners_by_name() -> None:
    runner = engine()
    assert build_planner("idm+comfort", runner).name == "idm+comfort"
    assert build_planner("agents.planners.scripted:StandStill", runner).name == "stand_still"
    for name in ("autopilot", "autopilot+comfort", "json:nothing", "json:loads"):
        with pytest.raises((OptionError, TypeError)):
            build_planner(name, runner)
