"""Windows of consecutive keyframes as batches: the past to start from, the future to be scored against.

Legend: B clips, P = past + 1 observed frames (oldest first, the last is the current one), F future frames, T = P + F.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from world_model.core.errors import DataError, OptionError
from world_model.core.grid import OCC3D, STEP_S, VoxelGrid
from world_model.data.index import SceneIndex


@dataclass(frozen=True, kw_only=True)
class Clips:
    """A batch of windows, all tensors on the CPU.

    Frames before the start or beyond the end of a scene repeat its first or last frame and are marked in ``valid``.

    Attributes:
        occupancy: (B, P, X, Y, Z) uint8 labels of the observed frames, as observed (perhaps predictions).
        ego_to_global: (B, T, 4, 4) float64 poses.
        command: (B, T) int64, 0 right, 1 left, 2 straight.
        motion: (B, T, 3) float32: velocity along ego x and y (m/s), yaw rate (rad/s).
        dt_s: (B, T-1) float32 seconds between frames; the nominal 0.5 s next to a repeated frame.
        valid: (B, T) bool, False for repeated frames.
        scene: (B) scene numbers in the index.
        frame: (B) frame numbers in the index of the current frames.
        future_occupancy: (B, F, X, Y, Z) uint8 true labels of the future frames, if asked for; 255 where nothing is
            known (what is observed is free there).
        index: the data set that ``scene`` and ``frame`` count in; None for clips that come from no data set.
    """

    occupancy: Tensor
    ego_to_global: Tensor
    command: Tensor
    motion: Tensor
    dt_s: Tensor
    valid: Tensor
    scene: list[int]
    frame: list[int]
    future_occupancy: Tensor | None = None
    index: SceneIndex | None = None

    @property
    def past(self) -> int:
        """Frames before the current one."""
        return self.occupancy.shape[1] - 1


def load_frame(index: SceneIndex, frame: int, grid: VoxelGrid = OCC3D, *, truth: bool = False) -> Tensor:
    """Labels (X, Y, Z) uint8 of one keyframe: what is observed there, or with ``truth`` what really was there.

    Raises:
        DataError: the frame has no labels, or its file is missing or damaged.
    """
    read = index.read_truth if truth else index.read_labels
    # A copy: arrays out of an npz may be read-only, which torch warns about.
    return torch.from_numpy(np.array(read(frame, grid.shape)))


def load_clips(
    index: SceneIndex,
    frames: Sequence[int],
    past: int = 4,
    future: int = 6,
    with_future_labels: bool = False,
    *,
    grid: VoxelGrid = OCC3D,
    read: Callable[[int, bool], Tensor] | None = None,
) -> Clips:
    """Read the windows around the given current frames.

    Args:
        index: the data set.
        frames: (B) frame numbers of the current frames; a window never leaves its scene.
        past: frames before the current one.
        future: frames after the current one (poses, commands), may be 0.
        with_future_labels: also read the (true) labels of the future frames.
        grid: the grid that the label files must have.
        read: (number of a frame, whether the true ones) -> labels (X, Y, Z); None: from the label files.

    Raises:
        DataError: a label file is missing or damaged.
        OptionError: a frame number lies outside the index, or ``past``/``future`` is negative.
    """
    if past < 0 or future < 0:
        raise OptionError(f"past={past}, future={future}", "numbers >= 0", "ask for at least 0 frames on each side")
    if not len(frames):
        raise OptionError("no frames", "at least one current frame", "choose frames with `windows`")
    frames = [int(frame) for frame in frames]
    scenes = [scene_of(index, frame) for frame in frames]
    rows, valid = zip(*(_window(index, s, f, past, future) for s, f in zip(scenes, frames, strict=True)), strict=True)
    row, is_valid = np.stack(rows), np.stack(valid)

    read = read or (lambda frame, truth: load_frame(index, frame, grid, truth=truth))
    observed = _read(read, row[:, : past + 1], grid)
    later = _read(read, row[:, past + 1 :], grid, truth=True) if with_future_labels else None
    gaps = np.diff(index.timestamp_us[row], axis=1) * 1e-6
    gaps = np.where(is_valid[:, 1:] & is_valid[:, :-1], gaps, STEP_S)
    return Clips(
        occupancy=observed,
        ego_to_global=torch.from_numpy(index.ego_to_global[row]),
        command=torch.from_numpy(index.command[row].astype(np.int64)),
        motion=torch.from_numpy(index.motion[row].astype(np.float32)),
        dt_s=torch.from_numpy(gaps.astype(np.float32)),
        valid=torch.from_numpy(is_valid),
        scene=scenes,
        frame=frames,
        future_occupancy=later,
        index=index,
    )


def windows(index: SceneIndex, split: str, past: int = 4, future: int = 6) -> list[int]:
    """Current-frame numbers of a split whose whole past and future lie in one scene, in order.

    Raises:
        DataError: the split has no scenes, or none is long enough.
    """
    scenes = index.scenes(split)
    found = [f for s in scenes for f in index.frames(s)[past : len(index.frames(s)) - future]]
    if not found:
        longest = max(len(index.frames(s)) for s in scenes)
        raise DataError(
            f"no scene of split {split!r} is long enough: the longest has {longest} frames",
            f"{past} past + 1 current + {future} future = {past + 1 + future} frames",
            "use longer scenes or shorter windows",
        )
    return found


def scene_of(index: SceneIndex, frame: int) -> int:
    """Number of the scene that a frame belongs to.

    Raises:
        OptionError: there is no such frame.
    """
    total = len(index.token)
    if not 0 <= frame < total:
        raise OptionError(f"frame {frame} is not in the index", f"0..{total - 1}", "choose another frame")
    return int(np.searchsorted(index.scene_start, frame, side="right")) - 1


def _window(index: SceneIndex, scene: int, frame: int, past: int, future: int) -> tuple[NDArray[Any], NDArray[Any]]:
    wanted = np.arange(frame - past, frame + future + 1)
    inside = index.frames(scene)
    row = wanted.clip(inside.start, inside.stop - 1)
    return row, row == wanted


def _read(read: Callable[[int, bool], Tensor], rows: NDArray[Any], grid: VoxelGrid, truth: bool = False) -> Tensor:
    """Labels (B, N, X, Y, Z) of frames (B, N); a frame that several windows share is read once."""
    frames = np.unique(rows).tolist()
    if not frames:
        return torch.zeros(*rows.shape, *grid.shape, dtype=torch.uint8, device="cpu")
    # Files are unpacked outside of Python's lock, so threads gain; as many as torch would use.
    with ThreadPoolExecutor(min(len(frames), torch.get_num_threads())) as pool:
        labels = dict(zip(frames, pool.map(lambda frame: read(frame, truth), frames), strict=True))
    return torch.stack([torch.stack([labels[frame] for frame in row]) for row in rows])
