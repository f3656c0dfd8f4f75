"""One scene of the benchmark: where drives start, what is driven, and what truly comes of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from world_model.core.grid import OCC3D, VoxelGrid
from world_model.data.clips import Clips, load_clips, scene_of
from world_model.data.index import SceneIndex
from world_model.evaluation.fidelity.actions import DriveStart, Motions, motions_for
from world_model.evaluation.fidelity.chases import CHASE_STEPS, Chase, find_chases, visible_voxels
from world_model.evaluation.windows import PAST
from world_model.rollouts import roll
from world_model.worlds.protocol import World, WorldState
from world_model.worlds.simulated import SimulatedWorld

CHASE = "chase"
"""Action set in which a vehicle that stands ahead is driven at."""
CONTROL_ARMS = ("frozen", "shuffled")
"""False conditioning: that the ego stands, and the motions of another drive."""
NO_LABELS = np.zeros((0, 0, 0), np.uint8)


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """What is driven, and the conditioning of the world under test.

    Attributes:
        actions: one of `actions.ACTION_SETS`, or `CHASE`.
        arm: one of `CONTROL_ARMS`; "" where the world gets the true motions.
    """

    actions: str
    arm: str = ""

    @property
    def name(self) -> str:
        """For tables and files."""
        return f"{self.actions}, {self.arm}" if self.arm else self.actions


@dataclass(frozen=True, kw_only=True)
class GroundTruth:
    """What truly comes of B drives.

    Attributes:
        executed: the drives.
        labels: (B, X, Y, Z) class ids by step.
        visible: for chases, the vehicle's voxels by drive and step, see `chases.visible_voxels`.
    """

    executed: Motions
    labels: dict[int, Tensor]
    visible: list[list[NDArray[Any] | None]] = field(default_factory=list)


@dataclass(kw_only=True, eq=False)
class BenchmarkScene:
    """A scene with its starts; what is costly is read and simulated when it is first asked for.

    Attributes:
        index: the data set.
        scene: which scene.
        frames: current frames of the starts.
        donors: all current frames of the split that a shuffled drive may come from.
        steps: forecast steps whose occupancy is compared, rising; the last one is the length of a drive.
        seed: of everything that is random.
        most_chases: vehicles to drive at, at most.
        simulator: the ground truth; None where only the log is known.
        grid: of the labels.
        batch: drives that go through a world at once.
    """

    index: SceneIndex
    scene: int
    frames: Sequence[int]
    donors: Sequence[int]
    steps: Sequence[int]
    seed: int = 0
    most_chases: int = 0
    simulator: SimulatedWorld | None = None
    grid: VoxelGrid = OCC3D
    batch: int = 16

    def __post_init__(self) -> None:
        self._clips: dict[bool, Clips] = {}
        self._truth: dict[str, GroundTruth] = {}
        self._starts: dict[tuple[int, bool], WorldState] = {}

    @property
    def name(self) -> str:
        """Of the scene."""
        return str(self.index.scene_name[self.scene])

    @cached_property
    def chases(self) -> list[Chase]:
        """Vehicles to drive at."""
        return find_chases(self.index, self.scene, PAST, self.most_chases) if self.most_chases else []

    def has(self, experiment: Experiment) -> bool:
        """Whether there is anything to drive."""
        return experiment.actions != CHASE or bool(self.chases)

    def truth(self, actions: str, steps: Sequence[int]) -> GroundTruth:
        """What comes of an action set; the last one asked for is kept."""
        if actions not in self._truth:
            self._truth = {actions: self._find_truth(actions, steps)}
        return self._truth[actions]

    def conditioning(self, experiment: Experiment, steps: int) -> Motions:
        """The motions that the world under test gets."""
        if experiment.arm == "shuffled":
            donors = [self._start(self._donor(frame), steps) for frame in self.frames]
            return motions_for(experiment.actions, donors)
        executed = self.executed(experiment.actions, steps)
        return executed.still() if experiment.arm == "frozen" else executed

    def executed(self, actions: str, steps: int) -> Motions:
        """What is driven."""
        if actions == CHASE:
            return Motions.of(np.stack([c.motions(self._start(c.frame, steps)) for c in self.chases]))
        labels = self.clips(False).occupancy[:, -1].numpy()
        return motions_for(actions, [self._start(f, steps, labels[row]) for row, f in enumerate(self.frames)])

    def start(self, world: World, chase: bool) -> WorldState:
        """A world's states at the starts; kept, since states are never changed in place."""
        key = (id(world), chase)
        if key not in self._starts:
            with torch.no_grad():
                self._starts[key] = world.reset(self.clips(chase))
        return self._starts[key]

    def clips(self, chase: bool) -> Clips:
        """The windows of the starts, or of the chases."""
        if chase not in self._clips:
            frames = [c.frame for c in self.chases] if chase else list(self.frames)
            # Chases may start near the end of a scene; the log's future means nothing to them.
            future = CHASE_STEPS if chase else self.steps[-1]
            self._clips[chase] = load_clips(self.index, frames, PAST, future, True, grid=self.grid)
        return self._clips[chase]

    def _start(self, frame: int, steps: int, labels: NDArray[np.uint8] = NO_LABELS) -> DriveStart:
        return DriveStart(index=self.index, frame=frame, labels=labels, steps=steps, seed=self.seed, grid=self.grid)

    def _donor(self, frame: int) -> int:
        """A start whose actions are taken instead: of another scene, where there is one."""
        others = [f for f in self.donors if scene_of(self.index, f) != self.scene]
        others = others or [f for f in self.donors if f != frame] or [frame]
        return others[int(self._start(frame, 1).random("donor").integers(len(others)))]

    def _find_truth(self, actions: str, steps: Sequence[int]) -> GroundTruth:
        chase, executed = actions == CHASE, self.executed(actions, max(steps))
        if self.simulator is None:
            clips = self.clips(False)
            assert clips.future_occupancy is not None
            frames = torch.cat((clips.occupancy[:, -1:], clips.future_occupancy), 1)
            return GroundTruth(executed=executed, labels={k: frames[:, k] for k in steps})
        start, motion = self.start(self.simulator, chase), executed.curr_to_next
        found = roll(self.simulator, start, executed.command, motion, decode=steps, labels_on="cpu", keep_states=chase)
        visible = []
        for row, one in enumerate(self.chases if chase else ()):
            labels = np.stack([found.occupancy[k][row].numpy() for k in range(1, CHASE_STEPS + 1)])
            visible.append(visible_voxels(one, [state.scenes[row] for state in found.states], labels, self.grid))
        return GroundTruth(executed=executed, labels=found.occupancy, visible=visible)
