"""What the weights were trained on stands beside the data in every info; a difference is logged once."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
from small_worlds import TINY
from tiny_checkpoints import write_geometric

import ii_world_env
from ii_world_env.faces import episodes
from ii_world_env.sb3_vec_env import IIWorldVecEnv


@pytest.mark.parametrize("world", ["geometric", "transport"])
def test_every_face_names_both(world: str, tiny_data: Path, street_data: Path, tmp_path: Path) -> None:
    folder = write_geometric(tmp_path, grid=TINY)
    data = tiny_data if world == "geometric" else street_data
    settings: dict[str, Any] = {"data_root": str(data), "world": world, "checkpoint": str(folder), "device": "cpu"}
    expected = "test" if world == "geometric" else None
    env = gym.make(ii_world_env.ENV_ID, **settings)
    seen = [env.reset(seed=0)[1], env.step(env.action_space.sample())[-1]]
    envs = gym.make_vec(ii_world_env.ENV_ID, num_envs=2, **settings)
    vector = [envs.reset(seed=0)[1], envs.step(envs.action_space.sample())[-1]]
    for infos in vector:
        seen += [{key: infos[key][i] for key in ("data_source", "weights_source")} for i in range(2)]
        assert infos["_weights_source"].all()
    for_sb3 = IIWorldVecEnv(2, **settings)
    for_sb3.reset()
    seen += [*for_sb3.reset_infos, *for_sb3.step(envs.action_space.sample())[-1]]
    assert len(seen) == 10
    for info in seen:
        assert (info["weights_source"], info["data_source"]) == (expected, "hand-drawn")


def test_a_difference_is_logged_once(tiny_data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    episodes._warn_of_transfer.cache_clear()
    settings = {"data_root": str(tiny_data), "device": "cpu"}
    for _ in range(2):
        gym.make(ii_world_env.ENV_ID, world="transport", **settings)
        gym.make(
            ii_world_env.ENV_ID, world="geometric", checkpoint=str(write_geometric(tmp_path, grid=TINY)), **settings
        )
    records = [record for record in caplog.records if record.name == "ii_world_env"]
    assert [record.levelno for record in records] == [logging.WARNING]
    assert "weights trained on test, data hand-drawn" in records[0].getMessage()
