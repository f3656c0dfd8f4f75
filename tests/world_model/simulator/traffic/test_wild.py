"""Drives that no log holds: they are written, rebuilt from the data set, and leave the held-out scenes alone."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from world_model.core.errors import ConfigError
from world_model.data.index import SceneIndex
from world_model.prepare import Prepare, prepare
from world_model.simulator.dataset.calibration import report, write_picture
from world_model.simulator.dataset.config import DatasetConfig, scene_states
from world_model.simulator.dataset.export import identity, make_dataset, statistics_of
from world_model.simulator.dataset.rebuild import recorded_state
from world_model.simulator.traffic.wild import MANOEUVRES, MAX_SPEED_MPS, NORMAL_STEPS, WILD_STEPS, wild_motion

CONFIG = DatasetConfig(scenes=4, seed=3, wild=0.5, val_fraction=0.25)


def test_the_share_is_spread_and_held_out_scenes_are_ordinary() -> None:
    for share in (0.0, 0.3, 0.5, 0.9):
        config = DatasetConfig(scenes=1000, wild=share, val_fraction=0.0)
        wild = [config.is_wild(n) for n in range(1000)]
        assert abs(np.mean(wild) - share) < 0.002 and not wild[0]
    config = DatasetConfig(scenes=100, wild=0.9)
    assert sum(config.is_wild(n) for n in range(80)) == 72 and not any(config.is_wild(n) for n in range(80, 100))
    with pytest.raises(ConfigError, match=r"wild=1\.0"):
        DatasetConfig(wild=1.0)


def test_without_wild_drives_a_data_set_is_what_it_was() -> None:
    assert "wild" not in identity(DatasetConfig()) and identity(CONFIG)["wild"] == 0.5


def test_wild_drives_begin_as_ordinary_ones_and_then_do_what_no_driver_does() -> None:
    ordinary, wild = (DatasetConfig(scenes=4, seed=3, wild=share, val_fraction=0.25) for share in (0.0, 0.5))
    scene = next(n for n in range(3) if wild.is_wild(n))
    before = [s for s, _ in scene_states(ordinary, scene)]
    after = [s for s, _ in scene_states(wild, scene)]
    assert len(after) == NORMAL_STEPS + WILD_STEPS + 1 < len(before)
    for a, b in zip(before[: NORMAL_STEPS + 1], after, strict=False):
        assert (a.ego.x, a.ego.y, a.time_s) == (b.ego.x, b.ego.y, b.time_s)
    assert math.dist((before[-1].ego.x, before[-1].ego.y), (after[-1].ego.x, after[-1].ego.y)) > 1
    assert max(s.ego.speed for s in after[NORMAL_STEPS + 1 :]) <= MAX_SPEED_MPS + 1e-9


def test_all_manoeuvres_occur_and_stay_within_what_a_car_can_do() -> None:
    state = next(scene_states(CONFIG, 0))[0]
    ways = {tuple(np.round(wild_motion(state, state, seed), 6)) for seed in range(40)}
    assert len(ways) >= len(MANOEUVRES)
    for dx, dy, yaw in ways:
        assert 0 <= dx <= MAX_SPEED_MPS * 0.5 and abs(yaw) <= 0.2 * MAX_SPEED_MPS * 0.5 and abs(dy) < abs(dx) + 1e-9


def test_written_wild_scenes_are_prepared_and_rebuilt(tmp_path: Path) -> None:
    make_dataset(tmp_path, CONFIG, workers=1)
    statistics = statistics_of(tmp_path, CONFIG)
    assert "ego" in report(statistics, "without the wild ones").lower()
    write_picture(tmp_path, CONFIG, statistics)
    prepare(Prepare(data_root=tmp_path))
    index = SceneIndex.load(tmp_path)
    lengths = [len(index.frames(n)) for n in range(4)]
    for scene in range(4):
        assert (lengths[scene] == NORMAL_STEPS + WILD_STEPS + 1) == CONFIG.is_wild(scene)
    scene = next(n for n in range(4) if CONFIG.is_wild(n))
    frame = index.frames(scene)[-1]
    ego = recorded_state(index, frame).ego
    assert math.dist((ego.x, ego.y), index.ego_to_global[frame, :2, 3]) < 1e-6
