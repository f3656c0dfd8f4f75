"""Attributes of environments before the first reset, and what cannot be set."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
from gymnasium.error import ResetNeeded

import ii_world_env
from ii_world_env.sb3_vec_env import IIWorldVecEnv

OF_AN_EPISODE = ("state", "occupancy")


def options(data: Path) -> dict[str, Any]:
    return {"world": "small_worlds:Transport", "data_root": str(data), "device": "cpu"}


def faces(data: Path) -> dict[str, Any]:
    """What has the attributes of an episode."""
    single, vector = (make(ii_world_env.ENV_ID, **options(data)) for make in (gym.make, gym.make_vec))
    return {"single": single.unwrapped, "vector": vector, "one of a batch": vector.get_attr("unwrapped")[0]}


@pytest.mark.parametrize("name", OF_AN_EPISODE)
def test_what_belongs_to_an_episode_is_absent_before_the_first_reset(small_data: Path, name: str) -> None:
    for face, env in faces(small_data).items():
        assert not hasattr(env, name), face
        with pytest.raises(ResetNeeded, match=r"call reset\(\) first"):
            getattr(env, name)
        assert name not in dict(inspect.getmembers(env)), face
    env = gym.make(ii_world_env.ENV_ID, **options(small_data))
    assert not env.has_wrapper_attr(name)
    env.reset(seed=0)
    assert env.has_wrapper_attr(name) and hasattr(env.unwrapped, name)
    env.close()
    assert not env.has_wrapper_attr(name)


@pytest.mark.parametrize("name", OF_AN_EPISODE)
def test_sb3_asks_for_attributes(small_data: Path, name: str) -> None:
    env = IIWorldVecEnv(2, **options(small_data))
    assert not env.has_attr(name) and env.has_attr("render_mode") and not env.has_attr("altitude")
    env.reset()
    assert env.has_attr(name)


@pytest.mark.parametrize(
    "name", ["state", "occupancy", "np_random", "np_random_seed", "engine", "scenes", "render_mode", "spec"]
)
def test_what_is_read_of_the_batch_cannot_be_set(small_data: Path, name: str) -> None:
    """A value would hide the running episode's own from then on."""
    vector, sb3 = (
        gym.make_vec(ii_world_env.ENV_ID, num_envs=2, **options(small_data)),
        IIWorldVecEnv(2, **options(small_data)),
    )
    vector.reset(seed=0)
    for set_attr in (vector.set_attr, sb3.set_attr):
        with pytest.raises(AttributeError, match=name):
            set_attr(name, 0)
    assert vector.get_attr("np_random_seed") == vector.np_random_seed
