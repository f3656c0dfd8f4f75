"""Where episodes start."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from ii_world_env.scenes import conditions, open_scenes
from world_model.core.errors import DataError, OptionError


def test_random_starts_have_the_past_and_the_horizon(street_data: Path) -> None:
    scenes = open_scenes(data_root=street_data, horizon=16)
    rng = np.random.default_rng(0)
    starts = [scenes.choose(rng) for _ in range(200)]
    inside = [start.frame - scenes.index.frames(start.scene).start for start in starts]
    assert min(inside) == 4 and max(inside) == 25 - 16 - 1
    assert {start.scene for start in starts} == {0, 1}


def test_short_scenes_shorten_the_future_not_the_choice(street_data: Path) -> None:
    scenes = open_scenes(data_root=street_data, horizon=40)
    start = scenes.choose(np.random.default_rng(0))
    clips = scenes.load([start], future=60, with_future_labels=False)
    assert int(clips.valid[0, 5:].sum()) == 20


def test_options_choose(street_data: Path) -> None:
    scenes, rng = open_scenes(data_root=street_data), np.random.default_rng(0)
    start = scenes.choose(rng, {"scene": "street-1", "frame": 7, "command": "left", "speed_mps": 3})
    assert (start.scene, start.frame, start.command, start.speed_mps) == (1, 32, 1, 3.0)
    assert scenes.choose(rng, {"scene": 0}).scene == 0
    assert scenes.choose(rng, {"scene": 0, "frame": 0}).frame == 0, "a start without past repeats its first frame"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"scen": "street-0"}, "scene: name or number.*frame.*command.*speed_mps"),
        ({"scene": "elsewhere"}, r"street-0 \(0\), street-1 \(1\)"),
        ({"scene": 7}, "street-0"),
        ({"scene": 0, "frame": 24}, r"0\.\.23"),
        ({"scene": 0, "frame": -1}, r"0\.\.23"),
        ({"frame": "first"}, "a number"),
        ({"command": "backwards"}, "straight"),
        ({"command": 3}, "straight"),
        ({"speed_mps": float("nan")}, r"0\.\.20"),
        ({"speed_mps": -1}, r"0\.\.20"),
        ({"speed_mps": "fast"}, r"0\.\.20"),
    ],
)
def test_bad_options_are_answered_with_the_good_ones(street_data: Path, options: dict[str, object], says: str) -> None:
    scenes = open_scenes(data_root=street_data)
    with pytest.raises(OptionError, match=f"(?s){says}"):
        scenes.choose(np.random.default_rng(0), options)


def test_variations_are_taken_from_either_place(street_data: Path) -> None:
    scenes, rng = open_scenes(data_root=street_data), np.random.default_rng(0)
    wanted = {"speed_mps": 3, "command": 0, "action_noise": 0.2, "drop_agents": 0.5}
    start = scenes.choose(rng, {"variation": wanted})
    assert (start.speed_mps, start.command, start.action_noise, start.drop_agents) == (3.0, 0, 0.2, 0.5)
    again = scenes.choose(rng, {"variation": wanted})
    assert start.seed != again.seed, "every episode has noise of its own"
    table = conditions([start, scenes.choose(rng)])
    assert table["action_noise"].tolist() == pytest.approx([0.2, 0.0]) and table["command"].tolist() == [0, -1]
    assert math.isnan(table["speed_mps"][1]) and table["seed"].dtype == torch.long


def test_variations_do_not_change_which_scene_a_seed_chooses(street_data: Path) -> None:
    scenes = open_scenes(data_root=street_data)
    plain, varied = (
        scenes.choose(np.random.default_rng(3), options) for options in (None, {"variation": {"action_noise": 0.1}})
    )
    assert (plain.scene, plain.frame) == (varied.scene, varied.frame)


@pytest.mark.parametrize(
    ("variation", "says"),
    [
        ({"fog": 1}, "action_noise.*drop_agents"),
        ({"action_noise": -0.1}, r"0\.\.1"),
        ({"action_noise": "much"}, r"0\.\.1"),
        ({"drop_agents": 1.5}, r"0\.\.1"),
        ({"drop_agents": float("nan")}, r"0\.\.1"),
        ({"drop_agents": True}, r"0\.\.1"),
        ("rain", "a dict"),
        ({"speed_mps": 3}, "one of both"),
    ],
    ids=str,
)
def test_bad_variations_are_answered_with_the_good_ones(street_data: Path, variation: object, says: str) -> None:
    with pytest.raises(OptionError, match=f"(?s){says}"):
        open_scenes(data_root=street_data).choose(np.random.default_rng(0), {"speed_mps": 2, "variation": variation})


def test_missing_data_are_named(tmp_path: Path, street_data: Path) -> None:
    with pytest.raises(DataError, match="nowhere"):
        open_scenes(data_root=tmp_path / "nowhere")
    with pytest.raises(DataError, match="prepare"):
        open_scenes(data_root=tmp_path)
    with pytest.raises(DataError, match="train"):
        open_scenes(data_root=street_data, split="train")


def test_an_index_may_lie_elsewhere_than_its_labels(tmp_path: Path, street_data: Path) -> None:
    copy = tmp_path / "mine.npz"
    copy.write_bytes((street_data / "iiworld_index.npz").read_bytes())
    scenes = open_scenes(index=copy, data_root=street_data)
    assert scenes.load([scenes.choose(np.random.default_rng(0))], 2, False).occupancy.shape[1] == 5
