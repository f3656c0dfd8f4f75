"""The batch as stable-baselines3 sees it, against its own `DummyVecEnv` of single environments."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from same import assert_same
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor, VecNormalize, VecVideoRecorder

import ii_world_env
from ii_world_env.observations.extractor import ClassMapExtractor
from ii_world_env.sb3_vec_env import IIWorldVecEnv
from world_model.core.errors import OptionError
from world_model.core.grid import STEP_S

SETTINGS = {"world": "small_worlds:Transport", "device": "cpu", "horizon": 3}


def make(data: Path, count: int = 3, **options: Any) -> IIWorldVecEnv:
    return IIWorldVecEnv(count, **{**SETTINGS, "data_root": str(data), **options})


def dummy(data: Path, count: int = 3, **options: Any) -> DummyVecEnv:
    settings = {**SETTINGS, "data_root": str(data), **options}
    return DummyVecEnv([lambda: gym.make(ii_world_env.ENV_ID, **settings) for _ in range(count)])


def ppo(env: Any, **options: Any) -> PPO:
    policy = {"features_extractor_class": ClassMapExtractor, "net_arch": [8]}
    settings: dict[str, Any] = {"n_steps": 6, "batch_size": 6, "n_epochs": 1, "seed": 0, "device": "cpu", **options}
    return PPO("MultiInputPolicy", env, policy_kwargs=policy, **settings)


def test_equals_the_dummy_of_singles(small_data: Path) -> None:
    ours, theirs = make(small_data), dummy(small_data)
    assert ours.observation_space == theirs.observation_space and ours.action_space == theirs.action_space
    assert ours.num_envs == theirs.num_envs and ours.render_mode is theirs.render_mode is None
    assert ours.seed(7) == theirs.seed(7) == [7, 8, 9]
    assert_same(dict(ours.reset()), dict(theirs.reset()))
    assert_same(ours.reset_infos, theirs.reset_infos)
    rng, reasons = np.random.default_rng(0), set()
    for step in range(12):
        action = rng.uniform(-1, 1, (3, 2)).astype(np.float32)
        action[0] = (0.1, 0.0)
        (a, *ours_rest, ours_infos), (b, *theirs_rest, theirs_infos) = ours.step(action), theirs.step(action)
        assert_same(dict(a), dict(b), f"observation {step}")
        assert_same(ours_rest, theirs_rest, f"reward, done {step}")
        assert_same([plain(info) for info in ours_infos], [plain(info) for info in theirs_infos], f"infos {step}")
        assert_same(ours.reset_infos, theirs.reset_infos, f"reset infos {step}")
        assert ours_rest[0].dtype == np.float32 and ours_rest[1].dtype == np.bool_
        for info, done in zip(ours_infos, ours_rest[1], strict=True):
            assert ("terminal_observation" in info) == done and type(info["TimeLimit.truncated"]) is bool
            reasons |= {(info["end"], info["TimeLimit.truncated"])} if done else set()
    assert ("horizon", True) in reasons and ("off_road", False) in reasons


def plain(info: dict[str, Any]) -> dict[str, Any]:
    return {key: dict(value) if key == "terminal_observation" else value for key, value in info.items()}


def test_films_play_as_fast_as_the_world(small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "moviepy", ModuleType("moviepy"))  # wanted at once, used when a film is written
    ours, theirs = (build(small_data, 2, render_mode="rgb_array") for build in (make, dummy))
    for env in (ours, VecMonitor(ours), theirs):
        film = VecVideoRecorder(env, str(tmp_path), lambda step: False)
        assert film.frames_per_sec == 1 / STEP_S
    assert ours.metadata["render_modes"] == ["rgb_array"]


def test_seeds_and_options_count_once(small_data: Path) -> None:
    env = make(small_data)
    env.seed(3)
    env.set_options([{"scene": "street-1", "frame": 5}, {"scene": 0}, {}])
    env.reset()
    first = [info["scene"] for info in env.reset_infos]
    assert first[:2] == ["street-1", "street-0"] and env.reset_infos[0]["frame"] == 5
    assert env._seeds == [None] * 3 and env._options == [{}] * 3
    seeds = env.get_attr("np_random_seed")
    env.reset()
    assert seeds == env.get_attr("np_random_seed") == [3, 4, 5]
    env.set_options({"scene": "street-0"})
    env.reset()
    assert [info["scene"] for info in env.reset_infos] == ["street-0"] * 3
    env.set_options({"weather": "rain"})
    with pytest.raises(OptionError, match="weather"):
        env.reset()


def test_attributes_and_methods(small_data: Path) -> None:
    env = make(small_data)
    env.reset()
    assert env.get_attr("render_mode") == [None] * 3 and env.has_attr("engine") and not env.has_attr("altitude")
    env.set_attr("level", 4, indices=[0, 2])
    assert env.get_attr("level", indices=[0, 2]) == [4, 4] and not env.has_attr("level")
    assert [frame.shape for frame in env.get_attr("occupancy", indices=1)] == [(100, 100, 16)]
    assert env.env_method("get_wrapper_attr", "np_random_seed", indices=0) == env.get_attr("np_random_seed", 0)
    assert env.env_is_wrapped(Monitor) == [False] * 3 and env.env_is_wrapped(Monitor, indices=[1]) == [False]
    env.close()
    env.close()


def test_pictures_are_tiled(small_data: Path) -> None:
    env = make(small_data, render_mode="rgb_array")
    env.reset()
    images, tiled = env.get_images(), env.render()
    assert len(images) == 3 and tiled is not None and tiled.shape == (860, 1920, 3)
    assert np.array_equal(tiled[:430, :960], images[0])


def test_monitor_and_normalize_count_episodes(clear_data: Path) -> None:
    env = VecNormalize(VecMonitor(make(clear_data)), norm_obs=False)
    env.reset()
    episodes = []
    for _ in range(6):
        _, _, done, infos = env.step(np.zeros((3, 2), np.float32))
        episodes += [info["episode"] for info, over in zip(infos, done, strict=True) if over]
    assert len(episodes) == 6 and {episode["l"] for episode in episodes} == {3}
    assert np.isfinite(env.ret_rms.var)


def seven(observation: Any) -> torch.Tensor:
    """A value of 7, wherever."""
    return torch.full((len(next(iter(observation.values()))), 1), 7.0)


def test_only_truncations_are_bootstrapped(clear_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PPO adds gamma * V(last observation) to the last reward where the horizon cut an episode, and nowhere else."""
    env = make(clear_data, count=2, reward="sparse", horizon=3)
    model = ppo(env, gamma=0.9)
    monkeypatch.setattr(model.policy, "predict_values", seven)
    # The first brakes until the horizon; the second drives off the road.
    action = torch.tensor([[-1.0, 0.0], [1.0, 1.0]])
    forward = model.policy.forward
    monkeypatch.setattr(model.policy, "forward", lambda obs, *a: (action, *forward(obs, *a)[1:]))
    model.learn(12)
    reward, starts = model.rollout_buffer.rewards, model.rollout_buffer.episode_starts
    assert reward[:, 0].tolist() == pytest.approx([0, 0, 0.9 * 7] * 2), "truncated after three steps, twice"
    ends = np.flatnonzero(np.append(starts[1:, 1], 0)).tolist()
    assert ends and reward[ends, 1].tolist() == [-1.0] * len(ends), "terminated: nothing follows"


def test_ppo_learns_saves_loads_and_is_evaluated(small_data: Path, tmp_path: Path) -> None:
    env = VecMonitor(make(small_data))
    model = ppo(env)
    model.learn(36)
    model.save(tmp_path / "model")
    again = PPO.load(tmp_path / "model", env=env)
    observation = env.reset()
    assert np.array_equal(
        model.predict(observation, deterministic=True)[0], again.predict(observation, deterministic=True)[0]
    )
    rewards, lengths = evaluate_policy(again, env, n_eval_episodes=5, return_episode_rewards=True)
    assert len(rewards) == 5 and all(1 <= length <= 3 for length in lengths)
    assert len(model.ep_info_buffer) > 0, "the monitor's episodes have reached PPO"
