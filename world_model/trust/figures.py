"""Raw figures: what the state of a world says about how far its forecast can be trusted.

Each is cheap beside a step, and a figure of the forecast itself, not of the clock: a vehicle that waits keeps seeing
what it knows, and its forecast stays good for longer.

    unseen          share of the grid around the ego that the observed frame did not cover
    strength        mean norm of the predicted token vectors, without their constant part: forecasts fade
    sharpness       mean distance of each token vector from the mean of its neighbourhood: forecasts blur
    change          mean distance of the token map from the previous one, moved by the ego motion, where both have one
    code_distance   mean distance of the token vectors from the nearest code of the tokenizer's finest stage
    code_misfit     the same, relative to their norm
    disagreement    of an ensemble: how much of the occupancy its members differ in

These are the figures of token forecasts; those of the geometric world are in `world_model.models.geometric.fusion`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from world_model.core.geometry import invert_pose
from world_model.models.tokenizer import Tokenizer
from world_model.worlds.ensemble import EnsembleState, EnsembleWorld
from world_model.worlds.protocol import World, WorldState
from world_model.worlds.token import TokenState, TokenWorld

Figures = Callable[[WorldState], dict[str, Tensor]]
"""State -> (B,) float32 by name."""
_EVERY = 2
"""Means are taken over every second cell along x and y: a quarter of the cost."""


def figures_for(world: World) -> Figures | None:
    """The figures of a world's states; None where it has none.

    A world of another kind may have a method ``trust_figures(state)`` that returns (B,) tensors by name.
    """
    method: Figures | None = getattr(world, "trust_figures", None)
    if callable(method):
        return method
    if isinstance(world, EnsembleWorld):
        first = figures_for(world.members[0])
        return None if first is None else partial(_ensemble_figures, first)
    return TokenFigures(world) if isinstance(world, TokenWorld) else None


class TokenFigures:
    """Figures of token forecasts.

    Args:
        world: its tokenizer has the codebook, its forecaster knows where the token map lies.
    """

    def __init__(self, world: TokenWorld) -> None:
        config = world.forecaster.config
        self.lower_m, self.cell_m = config.lower_m, config.cell_m
        self.constant, self.book = _codes_as_tokens(world.tokenizer)

    def __call__(self, state: TokenState) -> dict[str, Tensor]:
        poses, device = state.forecast.poses.float(), state.token.device
        low = torch.tensor(self.lower_m, dtype=torch.float32, device=device)
        size = torch.tensor(state.token.shape[-2:], dtype=torch.float32, device=device) * self.cell_m
        token = state.token[:, :, ::_EVERY, ::_EVERY].float()
        centres = self._centres(state.token.shape[-2:], device)
        in_observed = _into(poses[:, -1], centres)
        unseen = ((in_observed < low) | (in_observed >= low + size)).any(-1)
        change = self._change(state, token, _into(invert_pose(poses[:, -2]) @ poses[:, -1], centres), low, size)
        neighbourhood = F.avg_pool2d(state.token.float(), 3, _EVERY, 1, count_include_pad=False)
        signal = token - self.constant[:, None, None]
        strength = signal.norm(dim=1).mean((1, 2))
        distance = self._distance(signal)
        return {
            "unseen": unseen.float().mean((1, 2)),
            "strength": strength,
            "sharpness": (token - neighbourhood).norm(dim=1).mean((1, 2)),
            "change": change,
            "code_distance": distance,
            "code_misfit": distance / strength.clamp(min=1e-6),
        }

    def _centres(self, shape: torch.Size, device: torch.device) -> Tensor:
        """(x, y, 2) centres of every second cell, metres."""
        axes = [
            self.lower_m[i] + self.cell_m * (torch.arange(0, n, _EVERY, dtype=torch.float32, device=device) + 0.5)
            for i, n in enumerate(shape)
        ]
        return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)

    def _change(self, state: TokenState, token: Tensor, places: Tensor, low: Tensor, size: Tensor) -> Tensor:
        """(B,) mean distance of the tokens from the previous ones where the places (B, x, y, 2) lie within these."""
        half = self.cell_m / 2
        inside = ((places >= low + half) & (places <= low + size - half)).all(-1)
        # grid_sample wants the fast axis (y) first, the edges of the map at -1 and 1.
        sampled = (2 * (places - low) / size - 1).flip(-1)
        previous = state.forecast.tokens[:, -2].float()
        moved = F.grid_sample(previous, sampled, mode="bilinear", padding_mode="border", align_corners=False)
        distance: Tensor = (token - moved).norm(dim=1)
        return (distance * inside).sum((1, 2)) / inside.sum((1, 2)).clamp(min=1)

    def _distance(self, signal: Tensor) -> Tensor:
        """(B,) mean distance of (B, C, x, y) from the nearest code."""
        flat = signal.permute(0, 2, 3, 1).reshape(-1, signal.shape[1])
        square = torch.addmm(self.book.square().sum(1), flat, self.book.t(), alpha=-2).amin(1)
        return (square + flat.square().sum(1)).clamp(min=0).sqrt().view(len(signal), -1).mean(1)


def _into(to_there: Tensor, points: Tensor) -> Tensor:
    """Points (x, y, 2) of this frame in other frames, (B, x, y, 2), by planar transforms (B, 4, 4)."""
    rotated = torch.einsum("bij,xyj->bxyi", to_there[:, :2, :2], points)
    return rotated + to_there[:, None, None, :2, 3]


def _ensemble_figures(first: Figures, state: EnsembleState) -> dict[str, Tensor]:
    """The figures of the first member, and how much the members differ."""
    return {**first(state.members.state), "disagreement": state.disagreement.float()}


@torch.no_grad()
def _codes_as_tokens(tokenizer: Tokenizer) -> tuple[Tensor, Tensor]:
    """(C,) the constant part of every token, and (K, C) what each code of the finest stage adds to it.

    Tokens are made of codes by linear maps alone: one per stage, added up, and one behind them.
    """
    quantizer = tokenizer.vq
    last = quantizer.post_quant_conv.weight[:, :, 0, 0].float()
    stages = [*quantizer.recover_scale_conv, *quantizer.recover_time_conv]
    biases = torch.stack([stage.bias.float() for stage in stages]).sum(0)
    finest = quantizer.recover_scale_conv[-1].get_parameter("weight")[:, :, 0, 0].float()
    constant = last @ biases
    if quantizer.post_quant_conv.bias is not None:
        constant = constant + quantizer.post_quant_conv.bias.float()
    return constant, quantizer.embedding.weight.float() @ (last @ finest).t()
