"""One scene made ready: where drives start, what is driven, and what truly comes of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from world_model.core.grid import OCC3D, VoxelGrid
from world_model.data.clips import Clips, load_clips, scene_of, windows
from world_model.data.index import SceneIndex
from world_model.evaluation.fidelity.chases import CHASE_STEPS, Chase, find_chases, seen_voxels
from world_model.evaluation.fidelity.drives import Moment, Plan, plan
from world_model.evaluation.forecasting.scene_data import PAST
from world_model.rollouts import roll
from world_model.worlds.protocol import World, WorldState
from world_model.worlds.simulated import SimulatedWorld

CHASE = "chase"
"""Task in which a vehicle that stands ahead is driven at."""
ARMS = ("", "frozen", "shuffled")
"""What a world is told: the truth; that the ego stands; the motions of another drive."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is driven, and what the world is told of it.

    Attributes:
        drive: one of `drives.ACTION_SETS`, or `CHASE`.
        arm: one of `ARMS`.
    """

    drive: str
    arm: str = ""

    @property
    def name(self) -> str:
        """For tables and files."""
        return f"{self.drive}, {self.arm}" if self.arm else self.drive


@dataclass(frozen=True, kw_only=True)
class Truth:
    """What truly comes of B drives.

    Attributes:
        driven: the drives.
        labels: (B, X, Y, Z) class ids by step.
        seen: for chases, the vehicle's voxels by drive and step, see `chases.seen_voxels`.
    """

    driven: Plan
    labels: dict[int, Tensor]
    seen: list[list[NDArray[Any] | None]] | None = None


class Case:
    """A scene with its starts; what is costly is read and simulated when it is first asked for.

    Args:
        index: the data set.
        scene: which scene.
        frames: current frames of the starts.
        every: all current frames of the split that a shuffled drive may come from.
        steps: forecast steps whose occupancy is compared, rising; the last one is the length of a drive.
        seed: of everything that is random.
        chases: vehicles to drive at, at most.
        simulator: the ground truth; None where only the log is known.
        grid: of the labels.
        batch: drives that go through a world at once.
    """

    def __init__(
        self,
        index: SceneIndex,
        scene: int,
        frames: Sequence[int],
        every: Sequence[int],
        steps: Sequence[int],
        *,
        seed: int = 0,
        chases: int = 0,
        simulator: SimulatedWorld | None = None,
        grid: VoxelGrid = OCC3D,
        batch: int = 16,
    ) -> None:
        self.batch = batch
        self.index, self.scene, self.frames, self.every = index, scene, list(frames), every
        self.steps, self.seed, self.simulator, self.grid = tuple(steps), seed, simulator, grid
        self.chases: list[Chase] = find_chases(index, scene, PAST, chases) if chases else []
        self._clips: dict[bool, Clips] = {}
        self._truth: dict[str, Truth] = {}
        self._starts: dict[tuple[int, bool], WorldState] = {}

    def truth(self, drive: str, steps: Sequence[int]) -> Truth:
        """What comes of a drive; the last one asked for is kept."""
        if drive not in self._truth:
            self._truth = {drive: self._find_truth(drive, steps)}
        return self._truth[drive]

    def told(self, task: Task, steps: int) -> Plan:
        """What a world is told in a task."""
        chase = task.drive == CHASE
        if chase or task.arm != "shuffled":
            driven = self.plan(task.drive, steps)
            return driven.still() if task.arm == "frozen" else driven
        return plan(task.drive, [self._moment(self._donor(frame), steps) for frame in self.frames])

    def plan(self, drive: str, steps: int) -> Plan:
        """What is driven."""
        if drive == CHASE:
            return Plan.of(np.stack([c.motions(self._moment(c.frame, steps)) for c in self.chases]))
        labels = self.clips(False).occupancy[:, -1].numpy()
        return plan(drive, [self._moment(f, steps, labels[row]) for row, f in enumerate(self.frames)])

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
            frames = [c.frame for c in self.chases] if chase else self.frames
            # Chases may start near the end of a scene; the log's future means nothing to them.
            future = CHASE_STEPS if chase else self.steps[-1]
            self._clips[chase] = load_clips(self.index, frames, PAST, future, True, grid=self.grid)
        return self._clips[chase]

    def _moment(self, frame: int, steps: int, labels: NDArray[Any] | None = None) -> Moment:
        nothing = np.zeros((0, 0, 0), np.uint8)
        return Moment(
            index=self.index,
            frame=frame,
            labels=nothing if labels is None else labels,
            steps=steps,
            seed=self.seed,
            grid=self.grid,
        )

    def _donor(self, frame: int) -> int:
        """A start whose actions are taken instead: of another scene, where there is one."""
        others = [f for f in self.every if scene_of(self.index, f) != self.scene]
        others = others or [f for f in self.every if f != frame] or [frame]
        return others[int(self._moment(frame, 1).random("donor").integers(len(others)))]

    def _find_truth(self, drive: str, steps: Sequence[int]) -> Truth:
        chase = drive == CHASE
        driven = self.plan(drive, max(steps))
        if self.simulator is None:
            clips = self.clips(False)
            assert clips.future_occupancy is not None
            later = clips.future_occupancy
            return Truth(driven=driven, labels={k: later[:, k - 1] if k else clips.occupancy[:, -1] for k in steps})
        start, motions = self.start(self.simulator, chase), driven.curr_to_next
        found = roll(self.simulator, start, driven.command, motions, decode=steps, labels_on="cpu", keep_states=chase)
        labels = found.occupancy
        if not chase:
            return Truth(driven=driven, labels=labels)
        seen = []
        for row, one in enumerate(self.chases):
            drawn = np.stack([labels[k][row].numpy() for k in range(1, CHASE_STEPS + 1)])
            seen.append(seen_voxels(one, [state.scenes[row] for state in found.states], drawn, self.grid))
        return Truth(driven=driven, labels=labels, seen=seen)


def starts_of(index: SceneIndex, split: str, steps: int) -> list[int]:
    """Current frames with the past that worlds need, ``steps`` frames after them, and labels in all of these."""
    blank = index.label_path == ""
    if index.truth_path is not None:
        blank = blank | (index.truth_path == "")
    missing = np.concatenate(([0], np.cumsum(blank)))
    return [f for f in windows(index, split, PAST, steps) if missing[f + steps + 1] == missing[f - PAST]]
