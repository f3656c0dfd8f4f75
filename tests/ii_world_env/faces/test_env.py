"""The Gymnasium face: conformance, determinism, errors."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.error import ResetNeeded

import ii_world_env
from ii_world_env.env import IIWorldEnv
from ii_world_env.faces.config import EnvConfig
from ii_world_env.scenes import open_scenes
from world_model.core.errors import ActionError, CheckpointError, ConfigError, DataError, OptionError
from world_model.core.grid import OCC3D


def make(data: Path, **options: Any) -> IIWorldEnv:
    env = gym.make(ii_world_env.ENV_ID, world="transport", data_root=str(data), device="cpu", **options).unwrapped
    assert isinstance(env, IIWorldEnv)
    return env


def same(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(np.array_equal(a, b))


def test_importing_loads_neither_torch_nor_the_devkit() -> None:
    code = (
        "import sys, ii_world_env, gymnasium as gym; gym.spec('IIWorld-nuScenes-v0');"
        "loaded = {m.split('.')[0] for m in sys.modules} & {'torch', 'nuscenes', 'matplotlib', 'world_model'};"
        "sys.exit(', '.join(loaded) or None)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[3])
    assert done.returncode == 0, done.stderr


def test_registering_twice_is_quiet_and_the_module_prefix_works(street_data: Path) -> None:
    import importlib

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        importlib.reload(ii_world_env)
    env = gym.make("ii_world_env:IIWorld-nuScenes-v0", world="transport", data_root=str(street_data))
    env.close()


def test_the_spec_is_json(street_data: Path) -> None:
    env = gym.make(ii_world_env.ENV_ID, world="transport", data_root=str(street_data), horizon=3)
    assert env.spec is not None
    again = gym.make(type(env.spec).from_json(json.dumps(json.loads(env.spec.to_json()))))
    assert again.spec is not None and again.spec.kwargs == env.spec.kwargs


def test_equal_seeds_give_equal_episodes(street_data: Path) -> None:
    env, other = make(street_data), make(street_data)
    env.action_space.seed(1)
    for seed in (3, 4):
        first, second = env.reset(seed=seed), other.reset(seed=seed)
        assert same(first, second)
        for _ in range(3):
            action = env.action_space.sample()
            a, b = env.step(action), other.step(action)
            assert same(a, b)
            if a[2] or a[3]:
                break


def test_terms_sum_to_the_reward_and_types_are_pythons(street_data: Path) -> None:
    env = make(street_data, action="delta")
    env.reset(seed=0)
    env.action_space.seed(0)
    for _ in range(8):
        _, reward, terminated, truncated, info = env.step(env.action_space.sample())
        assert reward == sum(info["reward_terms"].values())
        assert type(reward) is float and type(terminated) is bool and type(truncated) is bool
        assert (info["end"] is not None) == (terminated or truncated)
        if terminated or truncated:
            env.reset()


def test_info_says_what_it_is(street_data: Path) -> None:
    env = make(street_data)
    _, info = env.reset(seed=0, options={"scene": "street-1", "frame": 6})
    assert (
        info["data_source"] == "hand-drawn"
        and info["world"] == "transport"
        and info["scene"] == "street-1"
        and info["frame"] == 6
    )
    assert info["end"] is None and info["speed_mps"] == pytest.approx(6.0)
    occupancy = env.occupancy
    assert occupancy.shape == OCC3D.shape and occupancy.dtype == np.uint8
    occupancy[:] = 0
    assert env.occupancy.max() == 17, "callers get a copy"


def test_an_episode_can_be_branched_from_its_state(street_data: Path) -> None:
    env = make(street_data)
    env.reset(seed=0)
    kept = env.state
    env.step(np.zeros(2, np.float32))
    again, _ = env.engine.step(kept, torch.zeros(1, 2))
    assert torch.equal(again.labels, env.state.labels)


@pytest.mark.parametrize(
    "action",
    [
        np.zeros(3, np.float32),
        np.zeros((1, 2), np.float32),
        np.array([np.nan, 0], np.float32),
        [0.0, np.inf],
        "left",
        None,
    ],
)
def test_bad_actions_are_named_and_change_nothing(street_data: Path, action: Any) -> None:
    env = make(street_data)
    env.reset(seed=0)
    before = env.state
    with pytest.raises(ActionError, match="Expected"):
        env.step(action)
    assert env.state is before
    env.step(np.zeros(2, np.float32))


def test_stepping_needs_a_running_episode(street_data: Path) -> None:
    env = make(street_data, horizon=1)
    for call in (lambda: env.step(np.zeros(2, np.float32)), lambda: env.state, lambda: env.occupancy):
        with pytest.raises(ResetNeeded):
            call()
    env.reset(seed=0)
    assert env.step(np.zeros(2, np.float32))[3]
    with pytest.raises(ResetNeeded, match="ended"):
        env.step(np.zeros(2, np.float32))
    env.reset()
    env.step(np.zeros(2, np.float32))
    env.close()
    env.close()


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"world": "dream"}, OptionError),
        ({"action": "joystick"}, OptionError),
        ({"observation": "lidar"}, OptionError),
        ({"reward": "greedy"}, OptionError),
        ({"render_mode": "human"}, OptionError),
        ({"horizon": 0}, ConfigError),
        ({"device": "abacus"}, OptionError),
        ({"split": "test"}, DataError),
        ({"world": "learned", "checkpoint": "no/such/folder"}, CheckpointError),
    ],
)
def test_bad_arguments_are_named(street_data: Path, options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match="Expected"):
        IIWorldEnv(**{"world": "transport", "data_root": str(street_data), **options})


def test_damaged_labels_are_named(tmp_path: Path) -> None:
    from street import write_street

    root = write_street(tmp_path, scenes=1, frames=8)
    victim = root / "gts/street-0/03/labels.npz"
    victim.write_bytes(victim.read_bytes()[:200])
    env = make(root, horizon=2)
    with pytest.raises(DataError, match=r"03/labels\.npz"):
        env.reset(seed=0, options={"scene": 0, "frame": 4})


def test_pictures(street_data: Path) -> None:
    env = make(street_data, render_mode="rgb_array")
    env.reset(seed=0)
    first = env.render()
    env.step(np.zeros(2, np.float32))
    second = env.render()
    assert first is not None and second is not None
    assert first.shape == (430, 960, 3) and first.dtype == np.uint8
    assert not np.array_equal(first, second)
    assert make(street_data).render() is None


def test_the_demo_is_announced(
    street_data: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import world_model.data.demo as demo
    from ii_world_env import scenes

    monkeypatch.setattr(demo, "demo_root", lambda: street_data)
    scenes._say_demo.cache_clear()
    monkeypatch.setattr(logging.getLogger("ii_world_env.scenes"), "level", logging.NOTSET)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert open_scenes().source == "hand-drawn (bundled demo)"
        open_scenes()
    assert [record.levelname for record in caplog.records if "bundled demo scenes" in record.message] == ["WARNING"]


def test_the_demo_drives_where_warnings_are_errors() -> None:
    code = (
        "import gymnasium as gym, ii_world_env;"
        "env = gym.make('IIWorld-nuScenes-v0', world='transport'); env.reset(seed=0);"
        "env.step(env.action_space.sample()); assert env.render() is None;"
        "envs = gym.make_vec('IIWorld-nuScenes-v0', num_envs=2, world='transport'); envs.reset(seed=0); envs.render()"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[3]
    )
    assert done.returncode == 0, done.stderr
    assert "bundled demo scenes" in done.stderr


def test_paths_may_be_objects_and_begin_with_a_tilde(street_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(street_data.parent))
    monkeypatch.setenv("USERPROFILE", str(street_data.parent))
    for root in (street_data, Path("~") / street_data.name, f"~/{street_data.name}"):
        for make_one in (gym.make, gym.make_vec):
            env = make_one(ii_world_env.ENV_ID, world="transport", data_root=root, checkpoint=[Path("a")])
            assert env.spec is not None and env.unwrapped.spec is not None
            spec = type(env.spec).from_json(env.spec.to_json())
            assert spec.kwargs["data_root"] == str(root) and spec.kwargs["checkpoint"] == ["a"]
            _, info = make_one(spec).reset(seed=0)
            assert str(np.ravel(info["data_source"])[0]) == "hand-drawn"
    config = EnvConfig(checkpoint="~/a, ~/b", index="~/x", data_root=Path("~/y"))
    home = str(street_data.parent)
    assert config.checkpoint == f"{home}/a,{home}/b" and config.index == f"{home}/x"
    assert config.data_root == Path(home) / "y"
    assert EnvConfig(checkpoint=["~/a", Path("~/b")]).checkpoint == [f"{home}/a", Path(home) / "b"]


@pytest.mark.parametrize("reward", ["pdms", "sparse"])
def test_presets_of_the_reward(street_data: Path, reward: str) -> None:
    env = make(street_data, reward=reward)
    env.reset(seed=0, options={"scene": 0})
    total, done = 0.0, False
    while not done:
        _, gained, terminated, truncated, info = env.step(np.zeros(2, np.float32))
        total, done = total + gained, terminated or truncated
    assert info["end"] == "destination"
    assert total == pytest.approx({"pdms": 16.0, "sparse": 1.0}[reward], abs=1e-4)


def test_infos_show_the_self_check() -> None:
    env = gym.make(ii_world_env.ENV_ID)
    _, info = env.reset(seed=0)
    found = info["self_check"]
    assert set(found) == {"network_iou", "evidence_iou", "expected_lead"} and found.pop("expected_lead") == 0
    assert all(0 < value <= 1 for value in found.values())
    later = env.step(env.action_space.sample())[4]["self_check"]
    assert 0 < later.pop("expected_lead") < 1 and later == found
    _, info = gym.make(ii_world_env.ENV_ID, self_check=False).reset(seed=0)
    assert info["self_check"] == {"network_iou": 1.0, "evidence_iou": 1.0, "expected_lead": 0.0}
    assert "self_check" not in gym.make(ii_world_env.ENV_ID, world="transport").reset(seed=0)[1]
