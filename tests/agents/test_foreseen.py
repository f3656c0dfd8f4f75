"""Forecasts that are made once and replayed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from agents import foreseen
from agents.episodes import fixed_starts
from agents.training import Train, _make
from ii_world_env.engine import Engine, State
from ii_world_env.scenes import open_scenes
from world_model.core.geometry import invert_pose, level_poses
from world_model.core.grid import OCC3D


def test_along_the_recording_it_is_the_learned_world(street_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foreseen, "STEPS", 2)
    scenes = open_scenes(index=street_data, horizon=8)
    clips = scenes.load(fixed_starts(scenes, 1, limit=1), 4, False)
    world = foreseen.Foreseen(device=torch.device("cpu"), grid=OCC3D)
    own, learned = world.reset(clips), world.learned.reset(clips)
    poses = level_poses(clips.ego_to_global[:, clips.past :])
    for step in range(2):
        motion = (invert_pose(poses[:, step + 1]) @ poses[:, step]).float()
        own, learned = (w.step(s, motion, clips.command[:, 0]) for w, s in ((world, own), (world.learned, learned)))
        assert (world.occupancy(own) == world.learned.occupancy(learned)).float().mean() > 0.999


def test_training_begins_at_few_frames_only(street_data: Path) -> None:
    venv = _make(Train(world="transport", index=street_data, split="val", starts_per_scene=2, num_envs=1, device="cpu"))
    (scenes,) = venv.get_attr("scenes", indices=0)
    assert len(scenes.starts) == 4


def test_states_can_be_picked_joined_mended_and_kept(
    street_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(foreseen, "STEPS", 1)
    scenes = open_scenes(index=street_data, horizon=8)
    starts = fixed_starts(scenes, 1)
    engine = Engine(foreseen.Foreseen(device=torch.device("cpu"), grid=OCC3D))
    state = engine.reset(scenes.load(starts, 2, False))
    actions = torch.tensor([[0.3, 0.1], [-0.2, 0.0]])
    expected = engine.step(state, actions)[0].labels
    state.save(tmp_path / "state.safetensors")
    others = (
        State.load(tmp_path / "state.safetensors", state),
        state.clone(),
        state.expand(2).index([0, 2]),
        State.cat([state.index(0), state.index(slice(1, 2))]),
        state.index([0, 0]).put([1], state.index(torch.tensor([1]))),
    )
    for other in others:
        assert torch.equal(engine.step(other, actions)[0].labels, expected)
    assert others[2].world.labels[0] is state.world.labels[0], "no step or branch copies forecasts"
