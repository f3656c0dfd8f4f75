"""Data sets of recorded scenarios: checked, stored beside the labels, and replayed with the ego on its own drive."""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from world_model.core.errors import ConfigError, DataError, OutputError
from world_model.data.scenarios.scenario import Scenario
from world_model.data.scenarios.scenarionet import PATTERN, find_scenarios, read_scenario
from world_model.simulator.dataset.config import DatasetConfig, SceneDrive
from world_model.simulator.dataset.export import claim
from world_model.simulator.sensing.crop import crop
from world_model.simulator.sensing.memory import blank_memory, remember
from world_model.simulator.sensing.sensor import cast_rays
from world_model.simulator.simulator import Simulator, SimulatorConfig
from world_model.simulator.state import Agents, Floats, SimState
from world_model.simulator.town.town import RECORDED, town_of
from world_model.simulator.traffic.replay import announce_log, ego_at, logged_step, motion_at, read_log

FOLDER = "scenarios"
"""Where the scenarios lie in a data set, one npz a scene."""
KEPT = 16
WARM_UP = 8
"""Keyframes ahead from which the LiDAR's memory is filled before a scene starts, as labels are made of whole drives."""
Record = tuple[str, str, str, tuple[float, ...]]
"""What is known of a scene: name, source, digest, seconds between its keyframes."""
_read_log = lru_cache(maxsize=KEPT)(read_log)


@dataclass(frozen=True, kw_only=True)
class ScenarioConfig(DatasetConfig):
    """A data set drawn from recorded scenarios.

    Args:
        root: folder of the data set, with the scenarios in it; no part of what the data set is.
        drives: of each scene its name, its source, the digest of its scenario, and seconds between its keyframes.
        held_out_scenes: how many scenes at the end are held out.
    """

    root: str = ""
    drives: tuple[Record, ...] = ()
    held_out_scenes: int = 0

    def identity(self) -> dict[str, Any]:
        """Everything but where the data set lies."""
        found: dict[str, Any] = json.loads(json.dumps(super().identity()))
        del found["root"]
        return found

    @property
    def held_out(self) -> int:
        return self.held_out_scenes

    def town(self, scene: int) -> int:
        """Every scenario has a town of its own."""
        return scene

    def is_wild(self, scene: int) -> bool:
        return False

    def gaps(self, scene: int) -> Floats:
        return np.array(self.drives[scene][3])

    def name(self, scene: int) -> str:
        return self.drives[scene][0]

    def drive(self, scene: int, simulator: Simulator | None = None) -> SceneDrive:
        return ScenarioDrive(self, scene, simulator)


class ScenarioDrive(SceneDrive):
    """A recorded drive, replayed as far as needed.

    Args:
        config: the data set. scene: number of the scene. simulator: None makes one.
    """

    def __init__(self, config: ScenarioConfig, scene: int, simulator: Simulator | None = None) -> None:
        super().__init__(config, scene, simulator)
        self.log, self.key = _read_log(scenario_path(Path(config.root), config.name(scene)))
        if self.log.digest != config.drives[scene][2]:
            found = f"{config.name(scene)} in {Path(config.root) / FOLDER} is another scenario"
            raise DataError(found, f"digest {config.drives[scene][2]}", "make the data set again")

    def first(self) -> SimState:
        return first_state(self.log, self.key, self.scene, self.config.simulator.terrain)

    def motion(self, state: SimState, number: int, gap_s: float) -> Floats | None:
        return logged_step(self.log, number - 1)


def first_state(scenario: Scenario, key: int, scene_index: int, terrain: str = "flat") -> SimState:
    """The first keyframe of a scenario, with a memory of what the drive will see soon.

    Args:
        scenario, key: of ``read_log``. terrain: as for ``build_town``.
    """
    count = len(scenario.label)
    agents = Agents(
        label=scenario.label, size_m=scenario.size_m, desired_mps=np.zeros(count), lateral_m=np.zeros(count),
        mobile=np.ones(count, bool), key=np.zeros(count, np.uint64), tractor=np.full(count, -1),
    )  # fmt: skip
    state = SimState(
        seed=key, scene_index=scene_index, town_id=RECORDED, time_s=0.0, step_index=0, ego=ego_at(scenario, 0),
        agents=agents, motion=motion_at(scenario, np.zeros(count)), memory=blank_memory(),
        terrain=terrain,
    )  # fmt: skip
    town, ego = town_of(state), state.ego
    for number in range(min(WARM_UP, len(scenario.time_s) - 1), -1, -1):
        time_s = scenario.time_s[number]
        after = replace(state, ego=ego_at(scenario, number), motion=motion_at(scenario, np.full(count, time_s)))
        scene = crop(town, after)
        seen = cast_rays(scene.occluder, scene.ground_m)[0]
        before = after.ego if number == WARM_UP else ego
        state = replace(after, memory=remember(state.memory, before, after.ego, seen, 0.5))
        ego = after.ego
    return state


def scenario_path(root: Path, name: str) -> Path:
    """Where the scenario of a scene lies in a data set."""
    return root / FOLDER / f"{name}.npz"


def store_scenarios(
    source: Path, root: Path, val_fraction: float, progress: Callable[[int, int], None] | None = None, **options: Any
) -> ScenarioConfig:
    """Read, check and store all scenarios of a folder in a data set; a folder that has them already keeps them.

    Args:
        source: folder with ScenarioNet's ``sd_*.pkl``, also in folders in it.
        root: the data set; new, empty, or one of the same scenarios.
        val_fraction: share of the files, at the end, whose scenes are held out; 1 holds all out.
        progress: called with the numbers of files done and in all.
        options: of `DatasetConfig`.

    Raises:
        ConfigError: no such share.
        DataError: there is no scenario, one of them is broken, or two have the same name; nothing is written.
        OutputError: the folder cannot be written.
    """
    if not 0 <= val_fraction <= 1:
        raise ConfigError(f"val_fraction={val_fraction}", "0 <= val_fraction <= 1", "correct --val-fraction")
    paths = find_scenarios(source)
    if not paths:
        raise DataError(f"{source} holds no {PATTERN}", "ScenarioNet's scenarios", "give the folder that holds them")
    draft: Path | None = None
    new = not root.parent.exists()
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(dir=root.parent, prefix=f".{root.name}.", suffix=".tmp"))
        stored = draft / FOLDER  # made with the user's usual permissions, unlike the folder around it
        stored.mkdir()
        drives, first_of, places = list[Record](), list[int](), dict[str, Path]()
        for number, path in enumerate(paths):
            first_of.append(len(drives))
            for scenario in read_scenario(path):
                if scenario.name in places:
                    found = f"{path} and {places[scenario.name]} are both the scenario {scenario.name}"
                    raise DataError(found, "every scenario once", "leave one of the files out")
                places[scenario.name] = path
                scenario.save(stored / f"{scenario.name}.npz")
                drives.append(_drive_of(scenario))
            if progress:
                progress(number + 1, len(paths))
        held = round(len(paths) * val_fraction)
        held = max(held, int(val_fraction > 0 and len(paths) > 1))
        held_scenes = len(drives) - first_of[len(paths) - held] if held else 0
        config = ScenarioConfig(
            scenes=len(drives), val_fraction=0.0, root=str(root), drives=tuple(drives), held_out_scenes=held_scenes,
            **options,
        )  # fmt: skip
        claim(root, config)
        if not (root / FOLDER).exists():
            stored.rename(root / FOLDER)
        return config
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(
            f"could not write into {root}: {error.strerror or error}", "a writable folder with free space",
            "free space or choose another folder",
        ) from error  # fmt: skip
    finally:
        if draft is not None:
            shutil.rmtree(draft, ignore_errors=True)
        if new and not root.exists():
            with contextlib.suppress(OSError):
                root.parent.rmdir()


def _drive_of(scenario: Scenario) -> Record:
    # Tables count microseconds; the same rounding makes a data set that is read again the same.
    times_us = np.round(scenario.time_s * 1e6)
    return scenario.name, scenario.source, scenario.digest, tuple((np.diff(times_us) * 1e-6).round(6).tolist())


def read_config(found: dict[str, Any], root: Path) -> ScenarioConfig:
    """The data set that a ``synthetic.json`` with scenarios describes.

    Raises:
        KeyError, TypeError, ValueError: it describes none.
    """
    drives = tuple((str(n), str(s), str(d), tuple(float(g) for g in gaps)) for n, s, d, gaps in found["drives"])
    if not drives or any(not gaps or not all(0.1 < g < 10 for g in gaps) for *_, gaps in drives):
        raise ValueError("drives without keyframes")
    if any("/" in name or "\\" in name or name.startswith(".") for name, *_ in drives):
        raise ValueError("names of scenes that lead elsewhere")
    for name, _, digest, _ in drives:  # states of any of its scenes may be restored
        announce_log(scenario_path(root, name), digest)
    return ScenarioConfig(
        scenes=len(drives), root=str(root), drives=drives, held_out_scenes=int(found["held_out_scenes"]),
        val_fraction=0.0, simulator=SimulatorConfig(terrain=found["simulator"].get("terrain", "flat")),
    )  # fmt: skip
