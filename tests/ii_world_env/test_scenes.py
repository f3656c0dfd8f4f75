"""Where episodes start."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ii_world_env.scenes import open_scenes
from world_model.errors import DataError, OptionError


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
