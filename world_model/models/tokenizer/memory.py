"""The tokenizer's temporal memory: recent encoder outputs, kept in the latest ego frame.

State is explicit: functions take a memory and return a new one, nothing is stored on a module.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from world_model.core.geometry import warp_bev
from world_model.core.tensor_state import TensorState
from world_model.models.tokenizer.config import TokenizerConfig


@dataclass(frozen=True, kw_only=True)
class Memory(TensorState):
    """The last encoder outputs of B streams.

    Attributes:
        latents: (B, M, C, Xl, Yl), newest first, all in the ego frame of the newest.
        augmentation: (B, 4, 4) transform of the bird's-eye view that the latents were seen through; None: none.
    """

    latents: Tensor
    augmentation: Tensor | None = None


def align(
    memory: Memory,
    latent: Tensor,
    curr_to_prev: Tensor,
    start: Tensor,
    config: TokenizerConfig,
    augmentation: Tensor | None = None,
) -> Tensor:
    """Bring a memory into the current ego frame.

    A point of the current map goes back through the current augmentation, along the ego motion, and through the
    augmentation of the memory: M = A_prev · T · A_curr^-1.

    Args:
        memory: the memory after the previous frame.
        latent: (B, C, Xl, Yl) encoder output of the current frame; fills all slots where a stream starts.
        curr_to_prev: (B, 4, 4) current ego frame -> previous ego frame, metres.
        start: (B,) bool, True at the first frame of a stream.
        config: the tokenizer's sizes.
        augmentation: (B, 4, 4) transform that the current labels were seen through (flips, rotations); None: none.

    Returns:
        (B, M, C, Xl, Yl) aligned history, newest first, without gradient.
    """
    with torch.no_grad():
        batch, slots, channels, size_x, size_y = memory.latents.shape
        low, upper, cell = config.grid.lower_m, config.grid.upper_m, config.cell_m
        height, offset = (low[2] + upper[2]) / 2, 0.5
        if config.faithful:
            # Deviation 8: corners for centres, and constants of single precision.
            height, offset, cell = low[2], 0.0, _single(cell)
            low = (_single(low[0]), _single(low[1]), low[2])
        motion = curr_to_prev
        if augmentation is not None:
            motion = motion @ torch.linalg.inv(augmentation.to(motion.dtype))
        if memory.augmentation is not None:
            motion = memory.augmentation.to(motion.dtype) @ motion
        warped = warp_bev(
            memory.latents.reshape(batch, slots * channels, size_x, size_y),
            motion,
            low[:2],
            cell,
            height,
            offset=offset,
        ).view_as(memory.latents)
        return torch.where(start.view(-1, 1, 1, 1, 1), latent.detach()[:, None].to(warped.dtype), warped)


def remember(
    memory: Memory, aligned: Tensor, latent: Tensor, start: Tensor, augmentation: Tensor | None, faithful: bool
) -> Memory:
    """The memory after a frame: the current latent in front of the aligned history, the oldest dropped.

    Args:
        memory: the memory before the frame.
        aligned: (B, M, C, Xl, Yl) what `align` made of it.
        latent: (B, C, Xl, Yl) encoder output of the frame.
        start: (B,) bool.
        augmentation: (B, 4, 4) of the frame, or None.
        faithful: deviation 9, an augmentation is remembered from the start of the stream only.
    """
    latents = torch.cat((latent.detach()[:, None].to(aligned.dtype), aligned[:, :-1]), dim=1)
    if augmentation is None and memory.augmentation is None:
        return Memory(latents=latents)
    still = torch.eye(4, device=latent.device, dtype=torch.float64).expand(len(latent), 4, 4)
    current = still if augmentation is None else augmentation.to(still)
    if faithful:
        before = still if memory.augmentation is None else memory.augmentation.to(still)
        current = torch.where(start.view(-1, 1, 1), current, before)
    return Memory(latents=latents, augmentation=current)


def _single(value: float) -> float:
    return float(torch.tensor(value, dtype=torch.float32, device="cpu"))
