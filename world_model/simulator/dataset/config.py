"""What a synthetic data set contains: its scenes, their towns, how they are driven, and the time between keyframes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from world_model.core.errors import ConfigError
from world_model.simulator.simulator import Simulator, SimulatorConfig
from world_model.simulator.state import Floats, SimState
from world_model.simulator.traffic.wild import NORMAL_STEPS, WILD_STEPS, wild_motion

GENERATOR_VERSION = 2
"""Raised whenever equal options would give other scenes than before: such data is another data set."""
HELD_OUT_TOWNS = 1_000_000
"""Towns of the held-out scenes are numbered from here, so that no training scene ever lies in one."""
START_US = 1_500_000_000_000_000
GAPS_S, GAP_SHARES = (0.5, 0.4, 0.45, 0.55, 0.6), (0.9, 0.025, 0.025, 0.025, 0.025)
"""Times between keyframes, and how often each occurs."""
STYLE_OPTIONS = {"labels_style": ("plain", "varied"), "exported_poses": ("nuscenes", "true")}
"""Options of how a data set is written, and their values, the default first."""
KEEP_EVERY = 4
"""Keyframes between two kept states of a scene: a quarter of a megabyte each, against a few milliseconds per step."""


@dataclass(frozen=True, kw_only=True)
class DatasetConfig:
    """What a synthetic data set contains.

    Args:
        scenes: how many scenes of about 20 s. seed: everything follows from it and a scene's number.
        version: name of the table folder, such as v1.0-mini.
        val_fraction: share of the scenes, at the end, that are held out.
        wild: share of the training scenes that leave normal driving (`world_model.simulator.traffic.wild`);
            these are shorter, and the calibration report leaves them out.
        labels_style: "plain", the simulator's own labels, or "varied": each scene as another label maker writes it.
        exported_poses: with ``simulator.terrain``, "nuscenes" writes z = 0 with the real pitch and roll, "true" also
            the real z.
        simulator: the simulator's own options.
    """

    scenes: int = 10
    seed: int = 0
    version: str = "v1.0-mini"
    val_fraction: float = 0.2
    wild: float = 0.0
    labels_style: str = "plain"
    exported_poses: str = "nuscenes"
    simulator: SimulatorConfig = field(default_factory=SimulatorConfig)

    def __post_init__(self) -> None:
        if self.scenes < 1 or not 0 <= self.val_fraction < 1 or self.seed < 0 or not 0 <= self.wild < 1:
            raise ConfigError(
                f"scenes={self.scenes}, seed={self.seed}, val_fraction={self.val_fraction}, wild={self.wild}",
                "scenes >= 1, seed >= 0, 0 <= val_fraction < 1 and 0 <= wild < 1",
                "correct these options",
            )

        for name, known in STYLE_OPTIONS.items():
            if getattr(self, name) not in known:
                raise ConfigError(f"{name}={getattr(self, name)!r}", f"one of {known}", "choose one of them")

    def identity(self) -> dict[str, Any]:
        """What the data set is, in plain values, for ``synthetic.json``."""
        found = asdict(self)
        # Data sets that are older than these options keep their identity.
        del found["simulator"]["yields"]  # of driving on, not of the data
        if not self.wild:
            del found["wild"]
        if self.simulator.terrain == "flat":
            del found["simulator"]["terrain"]
            if self.plain:
                for name in STYLE_OPTIONS:
                    del found[name]
        return found

    @property
    def plain(self) -> bool:
        """Whether the labels are those of the simulator itself."""
        return self.labels_style == "plain"

    @property
    def held_out(self) -> int:
        """Number of held-out scenes; at least one if there are two scenes and any share is asked for."""
        wanted = round(self.scenes * self.val_fraction)
        return min(self.scenes - 1, max(wanted, int(self.val_fraction > 0)))

    def town(self, scene: int) -> int:
        """Town of a scene: training and held-out scenes never share one."""
        first = self.scenes - self.held_out
        per = self.simulator.scenes_per_town
        return scene // per if scene < first else HELD_OUT_TOWNS + (scene - first) // per

    def is_wild(self, scene: int) -> bool:
        """Whether a scene leaves normal driving: evenly spread over the numbers, never the first, no held-out one."""
        spread = math.floor((scene + 1) * self.wild) > math.floor(scene * self.wild)
        return spread and scene < self.scenes - self.held_out

    def gaps(self, scene: int) -> Floats:
        """Seconds between the keyframes of a scene (39-41, fewer in a wild one)."""
        rng = np.random.default_rng([self.seed, scene, 303])
        gaps = rng.choice(GAPS_S, int(rng.integers(38, 41)), p=GAP_SHARES)
        return gaps[: NORMAL_STEPS + WILD_STEPS] if self.is_wild(scene) else gaps

    def drive(self, scene: int, simulator: Simulator | None = None) -> SceneDrive:
        """The states of a scene by keyframe."""
        return SceneDrive(self, scene, simulator)

    def name(self, scene: int) -> str:
        """Scene name as nuScenes writes it."""
        return f"scene-{scene + 1:04d}"

    def splits(self) -> dict[str, list[str]]:
        """Scene names of both splits."""
        names, first = [self.name(i) for i in range(self.scenes)], self.scenes - self.held_out
        return {"train": names[:first], "val": names[first:]}


def scene_states(
    config: DatasetConfig, scene: int, simulator: Simulator | None = None
) -> Iterator[tuple[SimState, int]]:
    """The keyframes of a scene as it is driven: states and timestamps in microseconds."""
    drive, time_us = config.drive(scene, simulator), START_US + scene * 60_000_000
    for number, gap_s in enumerate([0.0, *drive.gaps.tolist()]):
        time_us += round(gap_s * 1e6)
        yield drive.at(number), time_us


class SceneDrive:
    """A scene of a data set, simulated as far as needed; some states are kept, so that later requests start from them.

    Args:
        config: the data set.
        scene: number of the scene.
        simulator: None makes one.
    """

    def __init__(self, config: DatasetConfig, scene: int, simulator: Simulator | None = None) -> None:
        self.config, self.scene, self.gaps = config, scene, config.gaps(scene)
        self.simulator = simulator or Simulator(config.simulator)
        self._kept: dict[int, SimState] = {}
        self._latest: dict[int, SimState] = {}  # one

    def at(self, keyframe: int) -> SimState:
        """The state at a keyframe."""
        if not self._kept:
            self._kept[0] = self.first()
        known = self._kept | self._latest
        begin = max(k for k in known if k <= keyframe)
        state = known[begin]
        for number in range(begin + 1, keyframe + 1):
            gap = float(self.gaps[number - 1])
            state = self.simulator.step(state, self.motion(state, number, gap), dt_s=gap)
            if number % KEEP_EVERY == 0 or number == NORMAL_STEPS:
                self._kept[number] = state
        self._latest = {keyframe: state}
        return state

    def first(self) -> SimState:
        """The state at the first keyframe."""
        return self.simulator.reset(self.config.seed, self.scene, self.config.town(self.scene))

    def motion(self, state: SimState, number: int, gap_s: float) -> Floats | None:
        """(3,) what the ego does on its way from a state to keyframe ``number``; None: what the simulator lets it."""
        if number > NORMAL_STEPS and self.config.is_wild(self.scene):
            return wild_motion(state, self._kept[NORMAL_STEPS], self.config.seed, gap_s)
        return None
