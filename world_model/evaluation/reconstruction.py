"""Reconstruction: labels -> tokens -> labels, streamed scene by scene."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from world_model.data.clips import load_frame
from world_model.data.index import SceneIndex
from world_model.evaluation.metrics import Confusion
from world_model.evaluation.streams import scene_poses, scene_tokens
from world_model.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class ReconstructionResult:
    """Counts over some scenes; results of different scenes add up.

    Attributes:
        counts: (18, 18) int64, rows ground truth, columns reconstruction.
        frames: number of frames.
    """

    counts: np.ndarray
    frames: int

    @property
    def confusion(self) -> Confusion:
        """The scores."""
        return Confusion(self.counts)

    def __add__(self, other: ReconstructionResult) -> ReconstructionResult:
        return ReconstructionResult(counts=self.counts + other.counts, frames=self.frames + other.frames)


@torch.inference_mode()
def reconstruct_scene(tokenizer: Tokenizer, index: SceneIndex, scene: int) -> ReconstructionResult:
    """Encode and decode every frame of a scene in order.

    Raises:
        DataError: a label file is missing or damaged.
    """
    grid, confusion = tokenizer.config.grid, Confusion()
    labels = torch.stack([load_frame(index, frame, grid) for frame in index.frames(scene)])
    for truth, token in zip(labels, scene_tokens(tokenizer, labels, scene_poses(index, scene)), strict=True):
        confusion.add(tokenizer.decode(token[None])[0], truth.to(token.device))
    return ReconstructionResult(counts=confusion.counts, frames=len(labels))
