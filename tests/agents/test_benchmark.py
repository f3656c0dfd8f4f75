"""The planner benchmark."""

from __future__ import annotations

import csv
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agents.benchmark import EPISODES_FILE, Benchmark, benchmark
from agents.comparison import kendall, paired
from agents.episodes import Episode
from agents.starts import demanding, starts_of
from ii_world_env.scenes import open_scenes
from world_model.core.errors import OptionError
from world_model.worlds.events import EVENTS


def rows_of(out: Path) -> list[dict[str, str]]:
    with (out / EPISODES_FILE).open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_every_start_is_driven_once_and_a_second_call_adds_what_is_missing(
    street_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shared: dict[str, Any] = {"index": street_data, "device": "cpu", "per_scene": 1, "batch": 3, "out": tmp_path}
    first = Benchmark(worlds=("transport",), starts=("regular",), planners=("stand_still",), **shared)
    benchmark(first)
    before = rows_of(tmp_path)
    assert len(before) == 4 * 2 and len({tuple(row.values())[:5] for row in before}) == len(before)
    driven: list[str] = []
    import agents.benchmark as module

    drive = module.drive
    monkeypatch.setattr(module, "drive", lambda e, s, p, *a: (driven.append(p.name), drive(e, s, p, *a))[1])
    more = replace(first, worlds=("transport", "replay"), planners=("stand_still", "small_planners:Broken"))
    benchmark(more)
    assert set(driven) == {"idm", "log_replay", "constant_velocity", "stand_still", "broken"}
    assert rows_of(tmp_path)[: len(before)] == before and len(rows_of(tmp_path)) == 2 * len(before)
    text = (tmp_path / "results.md").read_text()
    assert text in capsys.readouterr().out and "minus idm" in text and "out of order" in text
    with pytest.raises(OptionError, match="another --out"):
        benchmark(replace(more, per_scene=2))


def test_interactive_starts_have_every_event_in_turn(street_data: Path) -> None:
    scenes = open_scenes(index=street_data, horizon=8)
    plain, staged = (starts_of(kind, scenes, 4) for kind in ("regular", "interactive"))
    assert [(s.scene, s.frame) for s in staged] == [(s.scene, s.frame) for s in plain]
    assert [start.event for start in staged[:5]] == list(EVENTS) and staged == starts_of("interactive", scenes, 4)


def test_worlds_that_cannot_stage_events_are_named(
    street_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = Benchmark(index=street_data, device="cpu", per_scene=1, out=tmp_path, worlds=("transport",))
    assert benchmark(replace(options, starts=("interactive",), planners=("idm",))) == {}
    assert "no events can be staged in transport" in capsys.readouterr().out


def test_demanding_starts_are_those_with_something_in_the_way(street_data: Path) -> None:
    scenes = open_scenes(index=street_data, horizon=8)
    assert starts_of("demanding", scenes, 2) == [], "the recordings have no boxes"
    index = scenes.index
    boxes = {
        "box_start": np.concatenate((np.arange(26), np.full(len(index.token) - 25, 25))).astype(np.int64),
        # The ego drives 3 m a frame; a car stands 40 m down the road.
        "box_center_m": np.stack([(40.0 - 3 * f, 0.0, 1.0) for f in range(25)]),
        "box_size_m": np.full((25, 3), 4.0),
        "box_yaw_rad": np.zeros(25),
        "box_velocity_mps": np.zeros((25, 2)),
        "box_class": np.full(25, 4, np.uint8),
        "box_instance": np.zeros(25, np.int64),
    }
    found = demanding(replace(index, **boxes), 0)
    # The front bumper is 3.3 m ahead of the rear axle, the car begins at 38 m, and 4 s are 24 m.
    assert found[0] == 4 and all(b - a == 1 for a, b in pairwise(found)) and max(found) >= 12
    assert demanding(replace(index, **boxes), 1) == []


def test_differences_are_those_of_the_same_starts() -> None:
    def drives(shift: float) -> dict[tuple[str, int], Episode]:
        return {
            (f"s{i}", 4): Episode(scene=f"s{i}", frame=4, end="horizon", success=1, collision=0, off_road=0, progress=1,
                                  comfort=1, pdms=i / 20 + shift, reward=0, steps=16)
            for i in range(10)
        }  # fmt: skip

    mean, low, high = paired(drives(0.1), drives(0.0))["pdms"]
    assert mean == pytest.approx(0.1) and low == pytest.approx(0.1) and high == pytest.approx(0.1)
    assert paired(drives(0.0), {}) == {}


def test_kendall_of_equal_and_opposite_rankings() -> None:
    assert kendall([1, 2, 3], [4, 5, 6]) == 1 and kendall([1, 2, 3], [6, 5, 4]) == -1
    assert np.isnan(kendall([1, 2], [1, 2]))
