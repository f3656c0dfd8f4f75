"""What the windows of one scene share: labels as observed, labels to score against, poses, boxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from world_model.core.geometry import invert_pose
from world_model.core.grid import VoxelGrid
from world_model.data.boxes import mask_of, moving_boxes
from world_model.data.clips import Clips, load_clips, load_frame
from world_model.data.index import SceneIndex
from world_model.data.labels import unknown_as_free
from world_model.evaluation.windows import PAST
from world_model.models.tokenizer import Tokenizer
from world_model.models.tokenizer.memory import align, remember
from world_model.rollouts import fixed_slots

MOVING_MARGIN_M = 0.5
"""The moving subset: voxels in boxes of moving objects, grown by this much."""


@dataclass(frozen=True, kw_only=True)
class SceneData:
    """The first N frames of a scene.

    Attributes:
        index: the data set.
        grid: grid of the labels.
        scene: number of the scene.
        first: number of its first frame in the index.
        labelled: those of the N frames where labels were observed, ascending.
        known: those of the N frames whose true labels are known, ascending.
        observed: (N, X, Y, Z) uint8 labels that a model sees; all zero where there are none.
        truth: (N, X, Y, Z) uint8 labels to score against, 255 where nothing is known.
        poses: (N, 4, 4) float64 ego -> global.
        mask: (N, X, Y, Z) bool, what is scored; None: everything.
        tokens: (N, C, Xl, Yl) of a tokenizer that has run along the scene, on its device.
    """

    index: SceneIndex
    grid: VoxelGrid
    scene: int
    first: int
    labelled: list[int]
    known: list[int]
    observed: Tensor
    truth: Tensor
    poses: Tensor
    mask: Tensor | None = None
    tokens: Tensor | None = None

    def labels(self, frame: int, truth: bool) -> Tensor:
        """(X, Y, Z) observed or true labels of a frame of the index."""
        return (self.truth if truth else self.observed)[frame - self.first]

    def moving_voxels(self, frame: int) -> Tensor:
        """(V,) int64 flat numbers of the voxels in and closely around moving objects."""
        mask = mask_of(moving_boxes(self.index.boxes(self.first + frame)), self.grid, MOVING_MARGIN_M)
        return torch.from_numpy(np.flatnonzero(mask))


@dataclass(frozen=True, kw_only=True)
class Window:
    """One forecast to be scored.

    Attributes:
        scene: where.
        now: number of the current frame in the scene.
        number: which of the windows asked of the scene this is.
    """

    scene: SceneData
    now: int
    number: int

    def motions(self, steps: int) -> Tensor:
        """(steps, 4, 4) float32 true motions from now on: ego frame -> next ego frame."""
        poses = self.scene.poses[self.now : self.now + steps + 1]
        return (invert_pose(poses[1:]) @ poses[:-1]).float()

    def poses(self, first: int, last: int) -> Tensor:
        """(last - first + 1, 4, 4) float64 true ego poses in the current ego frame, ``first`` to ``last`` steps from
        now."""
        poses = self.scene.poses
        return invert_pose(poses[self.now : self.now + 1]) @ poses[self.now + first : self.now + last + 1]

    def seconds(self, step: int) -> float:
        """Recorded time from now to ``step`` steps later."""
        time_us = self.scene.index.timestamp_us[self.scene.first + self.now + np.array([0, step])]
        return float(time_us[1] - time_us[0]) * 1e-6

    def commands(self, steps: int) -> Tensor:
        """(steps,) int64 logged commands from now on."""
        first = self.scene.first + self.now
        return torch.from_numpy(self.scene.index.command[first : first + steps].astype(np.int64))


def load_scene(index: SceneIndex, scene: int, frames: int, grid: VoxelGrid, mask: str = "none") -> SceneData:
    """Read the first ``frames`` frames of a scene, and with ``mask`` "camera" or "lidar" what these have seen.

    Raises:
        DataError: a label file is missing or damaged, or holds no such mask.
    """
    first = index.frames(scene).start
    labelled = [n for n in range(frames) if index.label_path[first + n]]
    known = labelled if index.truth_path is None else [n for n in range(frames) if index.truth_path[first + n]]
    truth = torch.zeros(frames, *grid.shape, dtype=torch.uint8, device="cpu")
    for n in known:
        truth[n] = load_frame(index, first + n, grid, truth=True)
    if index.truth_path is None:
        observed = unknown_as_free(truth)
    else:
        observed = torch.zeros_like(truth)
        for n in labelled:
            observed[n] = load_frame(index, first + n, grid)
    seen = None
    if mask != "none":
        seen = torch.zeros(observed.shape, dtype=torch.bool, device="cpu")
        for n in known:
            seen[n] = torch.from_numpy(index.read_mask(first + n, mask, grid.shape))
    return SceneData(
        index=index,
        grid=grid,
        scene=scene,
        first=first,
        labelled=labelled,
        known=known,
        observed=observed,
        truth=truth,
        mask=seen,
        poses=torch.from_numpy(index.ego_to_global[first : first + frames]),
    )


def clips_of(windows: Sequence[Window], future: int, with_future_labels: bool) -> Clips:
    """Windows of one scene as the batch that a `World` starts from; labels of the future are the true ones."""
    scene = windows[0].scene
    frames = [scene.first + window.now for window in windows]
    return load_clips(scene.index, frames, PAST, future, with_future_labels, grid=scene.grid, read=scene.labels)


def with_tokens(tokenizer: Tokenizer, scene: SceneData, slots: int = 1) -> SceneData:
    """The scene with the token maps of all its labelled frames.

    Only the memory goes from frame to frame: encoder and quantizer see ``slots`` frames side by side. A frame without
    labels is passed over: the memory stays in the frame of the last one that had some.
    """
    weight, frames, count = tokenizer.vq.embedding.weight, scene.labelled, len(scene.labelled)
    batches = list(fixed_slots(range(count), slots))
    latents = torch.cat([tokenizer.latents(_labels(scene, rows).to(weight.device))[real] for rows, real in batches])
    histories, memory = [], tokenizer.empty_memory(1)
    for n, now in enumerate(frames):
        latent, start = latents[n : n + 1], torch.tensor([n == 0], device=weight.device)
        move = _to_earlier(scene, frames[max(n - 1, 0)], now)[None].float().to(weight.device)
        histories.append(align(memory, latent, move, start, tokenizer.config))
        memory = remember(memory, histories[-1], latent, start, None, tokenizer.config.faithful)
    history = torch.cat(histories)
    found = torch.cat([tokenizer.vq(latents[rows], history[rows]).token[real] for rows, real in batches])
    tokens = torch.zeros(len(scene.poses), *found.shape[1:], dtype=weight.dtype, device=weight.device)
    tokens[frames] = found.to(weight.dtype)
    return replace(scene, tokens=tokens)


def _labels(scene: SceneData, rows: list[int]) -> Tensor:
    """(S, X, Y, Z) of some labelled frames, counted along them."""
    return scene.observed[[scene.labelled[row] for row in rows]]


def _to_earlier(scene: SceneData, before: int, now: int) -> Tensor:
    """(4, 4) float64, ego frame ``now`` -> ego frame ``before``."""
    if scene.index.faithful and before == now - 1:
        return torch.from_numpy(scene.index.curr_to_prev(scene.first + now))
    # Differences of global positions are taken in float64: they have six digits before the point.
    return invert_pose(scene.poses[before]) @ scene.poses[now]
