"""Find the simulator's state behind a recorded frame of a synthetic scene, by simulating the recorded drive again.

``synthetic.json`` beside the labels says how the data set was made; a scene's name gives its number, a frame's
timestamp its place in the scene. Nothing else is needed, because everything follows from the seed.
"""

from __future__ import annotations

import json
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from world_model.core.errors import ConfigError, DataError
from world_model.data.index import SceneIndex
from world_model.simulator.dataset.config import START_US, STYLE_OPTIONS, DatasetConfig, SceneDrive
from world_model.simulator.dataset.scenarios import read_config
from world_model.simulator.simulator import SimulatorConfig
from world_model.simulator.state import SimState

MARK_NAME = "synthetic.json"
SCENES_KEPT = 64


# States are never changed in place, so all worlds of a process share them.
@lru_cache(maxsize=SCENES_KEPT)
def _drive(config: DatasetConfig, scene: int) -> SceneDrive:
    return config.drive(scene)


def recorded_state(index: SceneIndex, frame: int) -> SimState:
    """The simulator's state at a recorded frame.

    Args:
        index: a synthetic data set, with ``synthetic.json`` beside its labels.
        frame: frame number in the index.

    Raises:
        DataError: the data are not synthetic, or do not say how they were made.
    """
    config = dataset_config(index)
    scene = int(np.searchsorted(index.scene_start, frame, side="right")) - 1
    name = str(index.scene_name[scene])
    numbers = {config.name(number): number for number in range(config.scenes)}
    if name not in numbers:
        raise _unknown(index, f"scene {name!r}", f"a scene of the {config.scenes} in {MARK_NAME}")
    number = numbers[name]
    gaps = config.gaps(number)
    times = START_US + number * 60_000_000 + np.concatenate(([0], np.cumsum(np.round(gaps * 1e6)))).astype(np.int64)
    keyframe = np.flatnonzero(times == index.timestamp_us[frame])
    if not len(keyframe):
        raise _unknown(index, f"frame {frame} of {name} at {index.timestamp_us[frame]} us", "a time of the simulator's")
    return _drive(config, number).at(int(keyframe[0]))


def dataset_config(index: SceneIndex) -> DatasetConfig:
    """How a synthetic data set was made.

    Raises:
        DataError: ``synthetic.json`` is missing or damaged, as it is with real data.
    """
    path = _mark(index)
    if path is None:
        raise DataError(
            f"no {MARK_NAME} in {index.root} (source {index.source!r})",
            "a data set of `python -m world_model.make_synthetic`: only what was simulated can be simulated on",
            "choose world='learned' or 'replay' for this data, or drive in synthetic scenes",
        )
    config = _read(path, path.stat().st_mtime_ns)
    if not config.plain:
        raise DataError(
            f"{path} says labels_style={config.labels_style!r}",
            "plain labels: the simulator draws them in its own style",
            "choose world='learned' or 'replay' for this data, or make data without --labels-style",
        )
    return config


def generator_of(index: SceneIndex) -> str:
    """Version of the simulator that made a synthetic data set, as ``synthetic.json`` says; "?" where it is missing."""
    path = _mark(index)
    found = json.loads(path.read_text(encoding="utf-8-sig")) if path else {}
    return str(found.get("generator", "?"))


def _mark(index: SceneIndex) -> Path | None:
    # An index may lie elsewhere than its data: ROOT/gts/SCENE/TOKEN/labels.npz leads to them.
    roots = [Path(index.root), *(Path(index.root) / str(index.label_path[0])).absolute().parents[3:4]]
    return next((root / MARK_NAME for root in roots if (root / MARK_NAME).exists()), None)


@lru_cache(maxsize=8)
def _read(path: Path, modified: int) -> DatasetConfig:
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
        if "drives" in found:
            return _styled(read_config(found, path.parent), found)
        options = {name: _number(found, name, int) for name in ("scenes", "seed")}
        inner = found["simulator"]
        simulator = SimulatorConfig(
            scenes_per_town=_number(inner, "scenes_per_town", int),
            traffic=_number(inner, "traffic", float),
            people=_number(inner, "people", float),
            terrain=inner.get("terrain", "flat"),
        )
        wild = _number(found, "wild", float) if "wild" in found else 0.0
        val_fraction = _number(found, "val_fraction", float)
        config = DatasetConfig(simulator=simulator, val_fraction=val_fraction, wild=wild, **options)
        return _styled(config, found)
    except (OSError, ValueError, KeyError, TypeError, ConfigError) as error:
        raise DataError(
            f"{path} does not describe how the data were made ({error!r})",
            "scenes, seed, val_fraction and simulator, as make_synthetic writes them",
            "take the file from the original data set, or make the data again",
        ) from error


def _styled(config: DatasetConfig, found: dict[str, Any]) -> DatasetConfig:
    if found.get("ground", "flat") != "flat":
        raise ValueError("hills that an earlier version drew over the labels, which no simulator knows")
    return replace(config, **{name: found[name] for name in STYLE_OPTIONS if name in found})


def _number(table: Any, name: str, kind: type) -> Any:
    value = table[name]
    if type(value) not in (int, kind) or not -(2**53) < value < 2**53:
        raise ValueError(f"{name}={value!r}")
    return kind(value)


def _unknown(index: SceneIndex, found: str, expected: str) -> DataError:
    return DataError(
        f"{found} of {index.root} was not made by the simulator",
        expected,
        f"use the index and the {MARK_NAME} of one and the same data set",
    )
