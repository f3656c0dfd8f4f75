"""An observation of a user's own, named by its import path, in every kind of environment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import PPO
from torch import Tensor

import ii_world_env
from ii_world_env.env import IIWorldEnv
from ii_world_env.sb3_vec_env import IIWorldVecEnv
from world_model.core.errors import ConfigError, OptionError

HERE = __name__


class Speed:
    """A box: the speed."""

    needs_occupancy = False

    def __init__(self, **_: Any) -> None:
        pass

    def space(self) -> spaces.Space[Any]:
        return spaces.Box(0.0, 20.0, (1,), np.float32)

    def observe(self, state: Any) -> Tensor | dict[str, Tensor]:
        return state.speed_mps[:, None].float()


class Both(Speed):
    """A dict of boxes, one of which is read off the occupancy."""

    needs_occupancy = True

    def space(self) -> spaces.Space[Any]:
        return spaces.Dict({"speed": super().space(), "floor": spaces.Box(0, 17, (4,), np.uint8)})

    def observe(self, state: Any) -> Tensor | dict[str, Tensor]:
        return {"speed": state.speed_mps[:, None].float(), "floor": state.labels[:, 20, 20, :4]}


class Nested(Speed):
    def space(self) -> spaces.Space[Any]:
        return spaces.Dict({"inner": spaces.Dict({"speed": super().space()})})


class Unsure(Speed):
    needs_occupancy = "maybe"  # type: ignore[assignment]


class Wide(Speed):
    def observe(self, state: Any) -> Tensor | dict[str, Tensor]:
        return state.speed_mps[:, None].double()


class Silent:
    def __init__(self, **_: Any) -> None:
        pass


def options(data: Path, name: str, **others: Any) -> dict[str, Any]:
    settings = {"world": "small_worlds:Transport", "data_root": str(data), "device": "cpu", "horizon": 3}
    return {**settings, "observation": f"{HERE}:{name}", **others}


@pytest.mark.parametrize("name", ["Speed", "Both"])
def test_single_environments_and_batches_observe_the_same(small_data: Path, name: str) -> None:
    env = gym.make(ii_world_env.ENV_ID, **options(small_data, name))
    envs = gym.make_vec(ii_world_env.ENV_ID, num_envs=2, autoreset_mode="SameStep", **options(small_data, name))
    one, many = env.reset(seed=1)[0], envs.reset(seed=[1, 2])[0]
    for _ in range(3):
        assert env.observation_space.contains(one) and envs.observation_space.contains(many)
        rows = {key: value[0] for key, value in many.items()} if isinstance(many, dict) else many[0]
        assert np.array_equal(one["speed"], rows["speed"]) if name == "Both" else np.array_equal(one, rows)
        one, _, terminated, truncated, _ = env.step(np.array([0.2, 0.0], np.float32))
        many, *_ = envs.step(np.array([[0.2, 0.0]] * 2, np.float32))
        if terminated or truncated:
            break


def test_nothing_is_decoded_for_one_that_needs_no_occupancy(small_data: Path) -> None:
    def metres(outcome: Any) -> dict[str, Tensor]:
        return {"metres": outcome.progress_m}

    metres.needs_occupancy = False  # type: ignore[attr-defined]
    for name, decoded in (("Speed", False), ("Both", True)):
        env = IIWorldEnv(**options(small_data, name, reward=metres))
        env.reset(seed=0)
        env.step(np.zeros(2, np.float32))
        assert (env.state.decoded is not None) == decoded


@pytest.mark.parametrize(("name", "policy"), [("Speed", "MlpPolicy"), ("Both", "MultiInputPolicy")])
def test_stable_baselines_trains_on_it(small_data: Path, name: str, policy: str) -> None:
    torch.manual_seed(0)
    venv = IIWorldVecEnv(2, **options(small_data, name))
    model = PPO(policy, venv, n_steps=4, batch_size=4, n_epochs=1, device="cpu").learn(8)
    assert model.num_timesteps == 8


@pytest.mark.parametrize("name", ["Silent", "Nested", "Unsure"])
def test_what_is_no_observation_is_named(small_data: Path, name: str) -> None:
    expected = rf"(?s){name} without the Observation protocol.*Expected.*Box or Dict of boxes.*Remedy: see"
    with pytest.raises(ConfigError, match=expected):
        IIWorldEnv(**options(small_data, name))


def test_observations_beside_their_space_are_named(small_data: Path) -> None:
    with pytest.raises(ConfigError, match=r"(?s)float64 \(1, 1\).*Expected.*float32 \(1, 1\)"):
        IIWorldEnv(**options(small_data, "Wide")).reset(seed=0)


@pytest.mark.parametrize("path", ["lidar", ":", ":name", "street:no_such", "no such module:name", "os:sep"])
def test_what_cannot_be_imported_is_named(small_data: Path, path: str) -> None:
    with pytest.raises(OptionError, match=r"(?s)observation=.*Expected.*bev"):
        IIWorldEnv(**options(small_data, "", observation=path))
