"""The environments under Gymnasium's and SB3's checkers and wrappers: docs/results/conformance.md."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AsyncVectorEnv, AutoresetMode
from gymnasium.wrappers import FlattenObservation, RecordEpisodeStatistics, TimeLimit
from gymnasium.wrappers import vector as vector_wrappers
from stable_baselines3.common.env_checker import check_env as check_for_sb3
from stable_baselines3.common.evaluation import evaluate_policy
from street import write_street

import ii_world_env
from ii_world_env.ego.actions import ACTION_MODES
from ii_world_env.env import IIWorldEnv
from ii_world_env.observations.build import OBSERVATION_MODES
from world_model.core.errors import OptionError
from world_model.worlds import pick_device

IDS = sorted(name for name in gym.registry if name.startswith("IIWorld-"))
ALLOWED_WARNINGS = {
    "bev": [
        # A map of class numbers is no vector and no picture; `observations.extractor` is the custom policy meant here.
        "bev has an unconventional shape",
    ],
    "occupancy": [
        # The grid of class ids has three axes and is bounded by 17 on purpose: it is no picture.
        "is an image but the upper and lower bounds are not in [0, 255]",
    ],
    "tokens": [
        # A latent map has channels like a picture, but is none: floats that nothing bounds.
        "observation tokens is an image but its `dtype` is (float32)",
        "observation space tokens is an image but the upper and lower bounds are not in [0, 255]",
        "The minimal resolution for an image is 36x36",
        "Treating image space as channels-last",
        "A Box observation space minimum value is -infinity",
        "A Box observation space maximum value is infinity",
    ],
    "state": [],
    "traffic": [],
    "traffic_timed": [],
}
"""By observation mode, what a checker may remark; the action modes give no cause for remarks."""


def single(data: Path, env_id: str = ii_world_env.ENV_ID, **options: Any) -> gym.Env[Any, Any]:
    settings = {"world": "small_worlds:Learned", "data_root": str(data), "device": "cpu", "horizon": 3, **options}
    return gym.make(env_id, **settings)


def batch(data: Path, count: int = 2, **options: Any) -> gym.vector.VectorEnv:
    settings = {"world": "small_worlds:Learned", "data_root": str(data), "device": "cpu", "horizon": 3, **options}
    return gym.make_vec(ii_world_env.ENV_ID, num_envs=count, **settings)


def unexpected(caught: list[warnings.WarningMessage], observation: str) -> list[str]:
    allowed = ALLOWED_WARNINGS[observation]
    return [str(w.message) for w in caught if not any(text in str(w.message) for text in allowed)]


@pytest.mark.parametrize("observation", OBSERVATION_MODES)
@pytest.mark.parametrize("action", ACTION_MODES)
def test_checkers_of_gymnasium_and_sb3(tiny_data: Path, action: str, observation: str) -> None:
    """Every pair of modes; the pictures are checked with one of them."""
    env = single(tiny_data, action=action, observation=observation)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_env(env.unwrapped, skip_render_check=action != "kinematic" or observation == "tokens")
        check_for_sb3(env.unwrapped)
    assert not unexpected(caught, observation)


@pytest.mark.parametrize("env_id", IDS)
def test_every_id_conforms_on_the_published_grid(tmp_path: Path, env_id: str) -> None:
    assert len(IDS) == 3
    kind = gym.spec(env_id).kwargs.get("dataset", "nuscenes")
    root = write_street(tmp_path, scenes=1, frames=10, dataset=kind)
    env = single(root, env_id, world="transport")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_env(env.unwrapped, skip_render_check=env_id != ii_world_env.ENV_ID)
        check_for_sb3(env.unwrapped)
    assert not unexpected(caught, "bev")
    envs = gym.make_vec(
        env_id, num_envs=2, world="transport", data_root=str(root), device="cpu", horizon=3, observation="occupancy"
    )
    observation, _ = envs.reset(seed=0)
    assert envs.observation_space.contains(observation) and observation.shape == (2, 200, 200, 16)


def test_the_wrappers_of_gymnasium(tiny_data: Path) -> None:
    env = RecordEpisodeStatistics(TimeLimit(FlattenObservation(single(tiny_data, horizon=8)), 2))
    observation, _ = env.reset(seed=0)
    assert env.observation_space.contains(observation) and observation.ndim == 1
    total = 0.0
    for step in range(2):
        observation, reward, terminated, truncated, info = env.step(np.zeros(2, np.float32))
        total += reward
        assert not terminated and truncated == (step == 1)
    assert info["episode"]["l"] == 2 and info["episode"]["r"] == pytest.approx(total)


@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
def test_the_vector_wrappers_of_gymnasium(tiny_data: Path, mode: str) -> None:
    envs: Any = vector_wrappers.RecordEpisodeStatistics(batch(tiny_data, autoreset_mode=mode))
    envs = vector_wrappers.NormalizeReward(envs)
    if mode == "NextStep":  # Gymnasium's wrappers of observations take no other
        envs = vector_wrappers.FlattenObservation(envs)
    observation, _ = envs.reset(seed=0)
    assert envs.observation_space.contains(observation) and isinstance(observation, dict) == (mode == "SameStep")
    lengths: list[int] = []
    for _ in range(9):
        observation, _, terminated, truncated, infos = envs.step(np.zeros((2, 2), np.float32))
        if "episode" in infos:
            done = infos["_episode"]
            assert (done == (terminated | truncated)).all()
            lengths += infos["episode"]["l"][done].tolist()
    assert set(lengths) == {3} and len(lengths) == (4 if mode == "NextStep" else 6)
    assert envs.unwrapped.metadata["autoreset_mode"] is AutoresetMode(mode)


def test_a_mask_resets_the_statistics_of_its_environments_alone(tiny_data: Path) -> None:
    """Gymnasium's own batch drops the mask before the wrapper sees it; ours leaves the caller's options alone."""
    envs = vector_wrappers.RecordEpisodeStatistics(batch(tiny_data, autoreset_mode="Disabled", horizon=4))
    envs.reset(seed=0)
    action = np.zeros((2, 2), np.float32)
    envs.step(action), envs.step(action)
    envs.reset(options={"reset_mask": np.array([True, False])})
    assert envs.episode_lengths.tolist() == [0, 2]


def test_videos(tiny_data: Path, tmp_path: Path) -> None:
    pytest.importorskip("moviepy")
    env = gym.wrappers.RecordVideo(single(tiny_data, render_mode="rgb_array"), str(tmp_path / "one"))
    envs = vector_wrappers.RecordVideo(
        batch(tiny_data, render_mode="rgb_array"), str(tmp_path / "many"), episode_trigger=lambda episode: True
    )
    for each, action in ((env, np.zeros(2, np.float32)), (envs, np.zeros((2, 2), np.float32))):
        each.reset(seed=0)
        for _ in range(3):
            each.step(action)
        each.close()
    videos = list(tmp_path.rglob("*.mp4"))
    assert len(videos) == 2 and all(video.stat().st_size > 1000 for video in videos)


def test_rendered_frames_are_collected(tiny_data: Path) -> None:
    env = gym.wrappers.RenderCollection(single(tiny_data, render_mode="rgb_array"))
    env.reset(seed=0)
    env.step(np.zeros(2, np.float32))
    frames = env.render()
    assert isinstance(frames, list) and len(frames) == 2 and not np.array_equal(frames[0], frames[1])


def test_sb3_evaluates_a_single_environment(tiny_data: Path) -> None:
    from stable_baselines3 import A2C

    env = single(tiny_data, observation="state", action="meta")
    model = A2C("MlpPolicy", env, n_steps=4, device="cpu", seed=0).learn(8)
    rewards, lengths = evaluate_policy(model, env, n_eval_episodes=2, return_episode_rewards=True, warn=False)
    assert len(rewards) == 2 and all(1 <= length <= 3 for length in lengths)


def test_an_unknown_keyword_is_refused_as_python_does(tiny_data: Path) -> None:
    """Clients try keywords such as ``frameskip``, and take them back after such a `TypeError`."""
    with pytest.raises(TypeError, match=r"unexpected keyword argument 'frameskip'(.|\n)*Expected: world, checkpoint"):
        single(tiny_data, frameskip=1)
    with pytest.raises(OptionError, match="unexpected keyword argument 'colour', 'frameskip'"):
        batch(tiny_data, frameskip=1, colour="red")


def test_spawned_workers(tiny_data: Path) -> None:
    """Gymnasium's worker processes, each with a model of its own: one batch in one process is faster."""
    options = {"world": "transport", "horizon": 3, "device": "cpu"}
    root = write_street(tiny_data.parent / f"{tiny_data.name}-spawn", scenes=1, frames=10)

    def one() -> gym.Env[Any, Any]:
        return gym.make("ii_world_env:IIWorld-nuScenes-v0", data_root=str(root), **options)

    workers = AsyncVectorEnv([one, one], context="spawn")
    try:
        observation, infos = workers.reset(seed=3)
        _, reward, *_ = workers.step(np.zeros((2, 2), np.float32))
    finally:
        workers.close()
    ours = gym.make_vec(ii_world_env.ENV_ID, num_envs=2, data_root=str(root), **options)
    expected, expected_infos = ours.reset(seed=3)
    assert (observation["bev"] != expected["bev"]).mean() <= 1e-3
    assert infos["frame"].tolist() == expected_infos["frame"].tolist()
    assert reward == pytest.approx(ours.step(np.zeros((2, 2), np.float32))[1], abs=1e-4)


@pytest.mark.parametrize("device", ["auto", "cuda", "cuda:1"])
def test_a_gpu_in_a_forked_worker_names_the_way_out(
    tiny_data: Path, monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    """Torch marks the children of a process that uses a GPU; in them CUDA is of no use, and says that it is absent."""
    monkeypatch.setattr("torch.cuda._is_in_bad_fork", lambda: True)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(OptionError, match=r"forked worker(.|\n)*gym\.make_vec"):
        IIWorldEnv(data_root=str(tiny_data), device=device)
    assert pick_device("cpu").type == "cpu"
