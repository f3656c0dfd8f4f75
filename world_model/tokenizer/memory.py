"""The tokenizer's temporal memory: recent encoder outputs, kept in the latest ego frame.

State is explicit: functions take a memory and return a new one, nothing is stored on a module.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from world_model.geometry import warp_bev
from world_model.tokenizer.config import TokenizerConfig


@dataclass(frozen=True, kw_only=True)
class Memory:
    """The last encoder outputs of B streams.

    Attributes:
        latents: (B, M, C, Xl, Yl), newest first, all in the ego frame of the newest.
    """

    latents: Tensor

    def index(self, i: Tensor | slice | list[int]) -> Memory:
        """The memories of some streams."""
        return Memory(latents=self.latents[i])


def align(memory: Memory, latent: Tensor, curr_to_prev: Tensor, start: Tensor, config: TokenizerConfig) -> Tensor:
    """Bring a memory into the current ego frame.

    Args:
        memory: the memory after the previous frame.
        latent: (B, C, Xl, Yl) encoder output of the current frame; fills all slots where a stream starts.
        curr_to_prev: (B, 4, 4) current ego frame -> previous ego frame, metres.
        start: (B,) bool, True at the first frame of a stream.
        config: the tokenizer's sizes.

    Returns:
        (B, M, C, Xl, Yl) aligned history, newest first, without gradient.
    """
    with torch.no_grad():
        batch, slots, channels, size_x, size_y = memory.latents.shape
        low, upper = config.grid.lower_m, config.grid.upper_m
        warped = warp_bev(
            memory.latents.reshape(batch, slots * channels, size_x, size_y),
            curr_to_prev,
            low[:2],
            config.cell_m,
            low[2] if config.align_corner else (low[2] + upper[2]) / 2,
            offset=0.0 if config.align_corner else 0.5,
        ).view_as(memory.latents)
        return torch.where(start.view(-1, 1, 1, 1, 1), latent.detach()[:, None].to(warped.dtype), warped)


def push(aligned: Tensor, latent: Tensor) -> Memory:
    """Put the current latent in front of an aligned history and drop the oldest."""
    return Memory(latents=torch.cat((latent.detach()[:, None].to(aligned.dtype), aligned[:, :-1]), dim=1))
