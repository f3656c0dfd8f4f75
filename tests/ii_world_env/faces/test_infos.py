"""Infos: the same keys after every call, finite, and JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import ii_world_env
from ii_world_env.ego.actions import ACTION_MODES
from ii_world_env.faces.infos import NOTHING_NEAR_S, to_json
from ii_world_env.sb3_vec_env import IIWorldVecEnv
from ii_world_env.task.rewards import PRESETS


def options(data: Path, **more: Any) -> dict[str, Any]:
    return {"world": "small_worlds:Learned", "data_root": str(data), "device": "cpu", "horizon": 2, **more}


def tree(info: dict[str, Any]) -> Any:
    """Keys at every depth, with the types of what they hold."""
    return {key: tree(value) if isinstance(value, dict) else type(value) for key, value in info.items() if key != "end"}


@pytest.mark.parametrize("reward", PRESETS)
@pytest.mark.parametrize("action", ACTION_MODES)
def test_the_keys_of_a_reset_are_those_of_a_step(tiny_data: Path, action: str, reward: str) -> None:
    env = gym.make(ii_world_env.ENV_ID, **options(tiny_data, action=action, reward=reward))
    env.action_space.seed(0)
    _, first = env.reset(seed=0)
    *_, second = env.step(env.action_space.sample())
    assert tree(first) == tree(second) and list(first) == list(second) and "end" in first
    assert not any(first["reward_terms"].values()) and first["lateral_m"] == 0
    for info in (first, second):
        assert json.loads(to_json(info))["scene"] == info["scene"]
        assert info["time_to_collision_s"] <= NOTHING_NEAR_S


@pytest.mark.parametrize("mode", ["NextStep", "SameStep", "Disabled"])
def test_the_keys_of_a_batch_never_change(tiny_data: Path, mode: str) -> None:
    envs = gym.make_vec(ii_world_env.ENV_ID, num_envs=2, autoreset_mode=mode, **options(tiny_data))
    _, first = envs.reset(seed=0)
    for step in range(2 if mode == "Disabled" else 5):
        *_, infos = envs.step(np.zeros((2, 2), np.float32))
        last = {key: infos.pop(key) for key in ("final_obs", "_final_obs", "final_info", "_final_info") if key in infos}
        assert infos.keys() == first.keys(), step
        assert infos["reward_terms"].keys() == first["reward_terms"].keys()
        assert all(infos[key].all() for key in infos if key.startswith("_"))
        json.loads(to_json({**infos, **last}))


def test_the_keys_of_sb3(tiny_data: Path) -> None:
    env = IIWorldVecEnv(2, **options(tiny_data))
    env.reset()
    first = tree(env.reset_infos[0])
    for _ in range(3):
        *_, infos = env.step(np.zeros((2, 2), np.float32))
        for info in infos:
            assert set(first) <= set(tree(info)) <= set(first) | {"TimeLimit.truncated", "terminal_observation"}
            json.loads(to_json(info))


def test_a_world_far_from_everything_reports_a_finite_time(clear_data: Path) -> None:
    env = gym.make(ii_world_env.ENV_ID, **options(clear_data, world="small_worlds:Transport"))
    env.reset(seed=0)
    *_, info = env.step(np.zeros(2, np.float32))
    assert info["time_to_collision_s"] == NOTHING_NEAR_S
