"""Forecasts whose error is known: held-out drives along the log and beside it, scored against the recording.

Beside the log the recording is seen from the new pose; voxels that the recorded frame does not reach are left out. The
other agents do not react there, which is right as long as the two drives stay close.

Legend: W windows, H steps, D drives of a window (the logged one first), N = W · D · H samples, K figures.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from world_model.core.errors import ConfigError, DataError
from world_model.core.geometry import invert_pose, level_poses, planar_motions, se2_matrix, warp_voxels
from world_model.core.grid import IGNORE
from world_model.data.clips import Clips, load_clips
from world_model.data.index import SceneIndex
from world_model.evaluation.metrics import Confusion
from world_model.generation.trajectories import Edit, edited
from world_model.rollouts import roll
from world_model.trust.figures import figures_for
from world_model.worlds.protocol import World

EDITS = (Edit(speed=0.5), Edit(speed=1.4), Edit(shift_m=2.5), Edit(shift_m=-2.5), Edit(stop_s=3.0), Edit(mirror=True))
"""Each window is also driven one of these ways, by its frame number."""
COLUMNS = ("figures", "iou", "miou", "scene", "frame", "step", "edited")


@dataclass(frozen=True, kw_only=True)
class Samples:
    """N forecasts.

    Attributes:
        names: (K) of the figures.
        figures: (N, K) float64.
        iou, miou: (N,) against what was recorded, as fractions.
        scene, frame: (N,) where the drive began.
        step: (N,) steps since the observation; 0 is the reconstruction of the observation itself.
        edited: (N,) bool, not along the log.
    """

    names: tuple[str, ...]
    figures: NDArray[np.float64]
    iou: NDArray[Any]
    miou: NDArray[Any]
    scene: NDArray[Any]
    frame: NDArray[Any]
    step: NDArray[Any]
    edited: NDArray[Any]

    def pick(self, rows: NDArray[Any]) -> Samples:
        """Some of the samples, by numbers or a mask."""
        return Samples(names=self.names, **{name: getattr(self, name)[rows] for name in COLUMNS})

    def columns(self, names: Sequence[str]) -> NDArray[np.float64]:
        """(N, len(names)) some of the figures."""
        return self.figures[:, [self.names.index(name) for name in names]]

    @classmethod
    def cat(cls, parts: Sequence[Samples]) -> Samples:
        """All samples of several parts, in order."""
        columns = {name: np.concatenate([getattr(part, name) for part in parts]) for name in COLUMNS}
        return cls(names=parts[0].names, **columns)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Everything as arrays, to be stored."""
        return {**vars(self), "names": np.array(json.dumps(self.names))}

    @classmethod
    def of(cls, arrays: dict[str, NDArray[Any]]) -> Samples | None:
        """What `arrays` has made; None where these are others."""
        if set(arrays) != {"names", *COLUMNS}:
            return None
        return cls(names=tuple(json.loads(str(arrays["names"]))), **{name: arrays[name] for name in COLUMNS})

    def __len__(self) -> int:
        return len(self.iou)


def starts_of(index: SceneIndex, split: str, steps: int, stride: int, past: int = 4) -> list[int]:
    """Frames to start from: every ``stride``-th of every scene that has ``past`` frames before and ``steps`` after it.

    Raises:
        DataError: no scene is long enough.
    """
    found = []
    for number, scene in enumerate(index.scenes(split)):
        frames = index.frames(scene)
        first = frames.start + past
        last = frames.stop - 1 - steps
        # Different scenes start at different times, so that no moment is special.
        found += list(range(first + (5 * number) % min(stride, max(1, last - first + 1)), last + 1, stride))
    if not found:
        raise DataError(
            f"no scene of split {split!r} has {past + 1 + steps} frames", "longer scenes", "ask for fewer --steps"
        )
    return found


@torch.inference_mode()
def collect(world: World, index: SceneIndex, starts: Sequence[int], steps: int) -> Samples:
    """Drive from every start, and note figures and errors after every step.

    Raises:
        ConfigError: the world has no figures.
    """
    figures_of = figures_for(world)
    if figures_of is None:
        raise ConfigError(
            f"a {type(world).__name__} without figures of its own",
            "a learned world, an ensemble, or a world with a method trust_figures(state)",
            "calibrate the learned world",
        )
    rows, figures, names = list[tuple[float, ...]](), list[list[float]](), tuple[str, ...]()
    for start in starts:
        clips = load_clips(index, [start], future=steps, with_future_labels=True, grid=world.grid)
        motions = _drives(clips, index, start, steps)
        state, drives = world.reset(clips).expand(len(motions)), len(motions)
        commands = clips.command[:, clips.past : clips.past + steps].expand(drives, -1)
        rollout = roll(world, state, commands, motions, decode=range(steps + 1), labels_on="cpu", keep_states=True)
        for step in range(steps + 1):
            found = figures_of(rollout.states[step])
            names, values = tuple(found), torch.stack([v.double() for v in found.values()], -1).tolist()
            # At the start both drives are the same.
            for drive in range(drives if step else 1):
                truth, visible = _truth(clips, rollout.ego_pose[drive, step], step, drive, world)
                scores = Confusion.of(rollout.occupancy[step][drive], truth, visible)
                rows.append((scores.iou(), scores.miou(), clips.scene[0], start, step, drive))
                figures.append(values[drive])
    good = np.isfinite(rows).all(1) & np.isfinite(figures).all(1)
    iou, miou, scene, frame, step_of, drive_of = np.array(rows)[good].T
    return Samples(
        names=names,
        figures=np.array(figures)[good],
        iou=iou,
        miou=miou,
        scene=scene.astype(int),
        frame=frame.astype(int),
        step=step_of.astype(int),
        edited=drive_of > 0,
    )


def _drives(clips: Clips, index: SceneIndex, start: int, steps: int) -> Tensor:
    """(D, H, 4, 4) float64 current ego frame -> next ego frame, the logged drive and an edited one."""
    pose = clips.ego_to_global[0, clips.past :]
    logged = invert_pose(pose[1:]) @ pose[:-1]
    ahead = planar_motions(index.ego_to_global[start : index.frames(clips.scene[0]).stop])
    other = se2_matrix(*torch.from_numpy(edited(ahead, EDITS[start % len(EDITS)], steps)).unbind(-1))
    return torch.stack((logged, invert_pose(other)))


def _truth(clips: Clips, pose: Tensor, step: int, drive: int, world: World) -> tuple[Tensor, Tensor | None]:
    """Recorded labels (X, Y, Z) as seen from a drive's ``pose`` (4, 4) in the ego frame of the start, and the voxels
    (X, Y, Z) that the recorded frame reaches."""
    if step == 0:
        assert clips.index is not None
        seen = clips.index.read_labels(clips.frame[0], world.grid.shape, unknown=IGNORE)
        return torch.from_numpy(np.array(seen)), None
    later = clips.future_occupancy
    assert later is not None
    if drive == 0:
        return later[0, step - 1], None
    logged = level_poses(clips.ego_to_global[:, clips.past :])[0, step]
    ego_to_log = (invert_pose(logged) @ pose).float()[None]
    truth = warp_voxels(later[:, step - 1], ego_to_log, world.grid)[0]
    visible = warp_voxels(torch.zeros_like(later[:, 0, :, :, :1]), ego_to_log, world.grid, fill=1)[0] == 0
    return truth, visible.expand_as(truth)
