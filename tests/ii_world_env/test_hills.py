"""From a small hilly data set to a drive in the simulator that made it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import ii_world_env
from agents.planners.idm import IDM
from ii_world_env.engine import Engine, EngineConfig
from ii_world_env.state.state import State
from world_model.core.grid import CLASS_ID
from world_model.data.clips import load_clips
from world_model.data.index import SceneIndex
from world_model.prepare import Prepare, prepare
from world_model.simulator.dataset.calibration import report
from world_model.simulator.dataset.config import DatasetConfig
from world_model.simulator.dataset.export import make_dataset, statistics_of
from world_model.simulator.simulator import SimulatorConfig
from world_model.worlds.simulated import SimulatedWorld

HILLS = DatasetConfig(scenes=1, seed=6, val_fraction=0.0, simulator=SimulatorConfig(terrain="hills"))


@pytest.fixture(scope="module", params=["nuscenes", "true"])
def index(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> SceneIndex:
    root: Path = tmp_path_factory.mktemp("hills") / "data"
    patch, gaps = pytest.MonkeyPatch(), DatasetConfig.gaps
    patch.setattr(DatasetConfig, "gaps", lambda self, scene: gaps(self, scene)[:17])
    request.addfinalizer(patch.undo)
    config = replace(HILLS, exported_poses=request.param)
    make_dataset(root, config)
    text = report(statistics_of(root, config), "hills")
    assert all(
        row in text for row in ("driveable voxels by z", "road slope", "ego pitch", "3 s windows", "occupied voxels")
    )
    return prepare(Prepare(data_root=root))


def test_frames_are_taken_up_exactly(index: SceneIndex) -> None:
    clips = load_clips(index, [5, 9], 4, 6, False)
    world = SimulatedWorld()
    both = world.occupancy(world.reset(clips))
    assert torch.equal(both, clips.occupancy[:, -1])
    heights = torch.nonzero(both == CLASS_ID["driveable_surface"])[:, 3].unique()
    assert len(heights) > 1
    for row, frame in enumerate((5, 9)):
        alone = world.reset(load_clips(index, [frame], 4, 6, False))
        assert torch.equal(world.occupancy(alone)[0], both[row])


def test_states_are_saved_and_those_of_before_the_hills_load(index: SceneIndex, tmp_path: Path) -> None:
    engine = Engine(SimulatedWorld(), EngineConfig(horizon=4))
    state = engine.reset(load_clips(index, [5, 9], 4, 6, False))
    state.save(tmp_path / "state")
    again = State.load(tmp_path / "state", like=state.index(0))
    steps = [engine.step(one, torch.zeros(2, 2)) for one in (state, again)]
    assert torch.equal(steps[0][0].labels, steps[1][0].labels) and torch.equal(steps[0][1].reward, steps[1][1].reward)
    with safe_open(str(tmp_path / "state"), "pt") as file:
        meta, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    plain = {name: value for name, value in json.loads(meta["plain"]).items() if not name.endswith(".terrain")}
    save_file(tensors, str(tmp_path / "old"), {**meta, "plain": json.dumps(plain)})
    old = State.load(tmp_path / "old", like=state)
    assert [scene.terrain for scene in old.world.scenes] == ["flat", "flat"]


def test_a_drive_of_ten_steps(index: SceneIndex) -> None:
    env: Any = gym.make(
        ii_world_env.ENV_ID, world="simulated", data_root=str(index.root), split="train", device="cpu", horizon=10
    )
    observation, _ = env.reset(seed=0, options={"scene": 0, "frame": 5})
    for _ in range(10):
        observation, reward, terminated, truncated, info = env.step(np.zeros(2, np.float32))
        assert np.isfinite(reward) and observation["bev"].max() <= 17
        if terminated or truncated:
            break
    assert info["data_source"] == "synthetic"
    env.close()


def test_the_planner_sees_the_road_as_free_as_on_flat_ground(index: SceneIndex) -> None:
    engine = Engine(SimulatedWorld(), EngineConfig(horizon=10))
    state = engine.reset(load_clips(index, [5], 4, 10, False))
    planner = IDM(engine)
    planner.reset(state)
    for _ in range(5):
        state, result = engine.step(state, planner.act(state))
        assert not bool(result.outcome.collision) and not bool(result.outcome.off_road)
    again = engine.rollout(engine.reset(load_clips(index, [5], 4, 10, False)), torch.zeros(1, 3, 2))
    twice = engine.rollout(engine.reset(load_clips(index, [5, 5], 4, 10, False)), torch.zeros(2, 3, 2))
    assert torch.equal(again.reward.expand(2, -1), twice.reward)
