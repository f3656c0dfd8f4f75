"""TorchRL drives the environments, by its own rules. It is no dependency: without it these tests are skipped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest

import ii_world_env
from ii_world_env.ego.actions import ACTION_MODES
from ii_world_env.observations.build import OBSERVATION_MODES

torchrl_envs = pytest.importorskip("torchrl.envs")
STEPS = 6


def options(data: Path, **others: Any) -> dict[str, Any]:
    return {"world": "small_worlds:Learned", "data_root": str(data), "device": "cpu", "horizon": 3, **others}


@pytest.mark.parametrize(
    ("action", "observation"),
    [*(("kinematic", name) for name in OBSERVATION_MODES), *((name, "bev") for name in ACTION_MODES)],
)
def test_by_name_in_every_mode(tiny_data: Path, action: str, observation: str) -> None:
    env = torchrl_envs.GymEnv(ii_world_env.ENV_ID, **options(tiny_data, action=action, observation=observation))
    torchrl_envs.check_env_specs(env)
    rollout = env.rollout(STEPS, break_when_any_done=False)
    ends = rollout["next", "done"].flatten().tolist()
    assert len(ends) == STEPS and any(ends)
    begun = [False, *ends[:-1]]
    key = {"bev": "ego", "tokens": "tokens"}.get(observation, "observation")
    for step in range(1, STEPS):
        same = bool((rollout[key][step] == rollout["next", key][step - 1]).all())
        assert same or begun[step], "an episode goes on from what was seen last"


def test_a_wrapped_environment_ends_at_the_horizon(tiny_data: Path) -> None:
    env = torchrl_envs.GymWrapper(gym.make(ii_world_env.ENV_ID, **options(tiny_data, observation="state")))
    torchrl_envs.check_env_specs(env)
    rollout = env.rollout(5)
    assert rollout["next", "done"][-1].item() and len(rollout) <= 3


def test_a_batch_that_resets_when_told(tiny_data: Path) -> None:
    """The mode that TorchRL prefers. Its readers of infos take no column of None alone, as SAME_STEP needs them."""
    envs = gym.make_vec(ii_world_env.ENV_ID, num_envs=3, autoreset_mode="Disabled", **options(tiny_data))
    env = torchrl_envs.GymWrapper(envs)
    torchrl_envs.check_env_specs(env)
    rollout = env.rollout(STEPS, break_when_any_done=False)
    assert rollout.shape == (3, STEPS) and rollout["next", "done"].flatten(1).any(1).all()


def test_its_collector_collects(tiny_data: Path) -> None:
    collectors = pytest.importorskip("torchrl.collectors")
    env = torchrl_envs.GymEnv(ii_world_env.ENV_ID, **options(tiny_data, observation="state"))
    batches = list(collectors.Collector(env, None, frames_per_batch=4, total_frames=8))
    assert [tuple(one.shape) for one in batches] == [(4,), (4,)]
