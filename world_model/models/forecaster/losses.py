"""Losses of forecast tokens and ego motion (I2-World, ICCV 2025)."""

from __future__ import annotations

import torch
from torch import Tensor


def token_loss(predicted: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """Mean squared error of one step's tokens: mean over (C, X, Y), then over the valid samples (0 if none).

    Args:
        predicted, target: (B, C, Xl, Yl).
        valid: (B,) bool.
    """
    wide = torch.promote_types(predicted.dtype, torch.float32)
    per_sample = (predicted.to(wide) - target.to(wide)).square().flatten(1).mean(1)
    return (per_sample * valid).sum() / valid.sum().clamp(min=1)


def trajectory_loss(
    predicted: Tensor, target: Tensor, valid: Tensor, step_weight: Tensor, *, faithful: bool = False
) -> Tensor:
    """Squared distance of the accumulated displacements, per sample; the loss is its mean.

    Args:
        predicted, target: (B, K, 2) displacement of each step, metres.
        valid: (B, K) bool; invalid steps still enter the sums of later ones.
        step_weight: (K,).
        faithful: divide by B too, so that the mean divides twice (deviation 14).

    Returns:
        (B,) losses, mean over the steps.
    """
    error = (predicted.cumsum(1) - target.cumsum(1)).square().sum(-1)
    total = 0.01 * (error * valid * step_weight).sum(1) / predicted.shape[1]
    return total / len(predicted) if faithful else total


def rotation_loss(
    predicted: Tensor,
    target: Tensor,
    valid: Tensor | None = None,
    step_weight: Tensor | None = None,
) -> Tensor:
    """1 - |<q, q'>|, summed over the steps, mean over the batch.

    Args:
        predicted, target: (B, K, 4) unit quaternions.
        valid: (B, K) bool, steps that count; None: all (as published, deviation 14).
        step_weight: (K,); None: all alike (as published).
    """
    error = 1 - (predicted * target).sum(-1).abs()
    if valid is not None:
        error = error * valid
    if step_weight is not None:
        error = error * step_weight
    return error.sum(1).mean()
