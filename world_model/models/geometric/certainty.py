"""How sure a forecast is of itself: raw figures of its scores and its evidence, computed while they are at hand.

They cost a few passes over the scores, little beside the networks; what they say about the true error is fitted on
held-out drives (`world_model.evaluation.trust`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor

from world_model.core.tensor_state import TensorState
from world_model.models.geometric.evidence import OBSERVED, Evidence


@dataclass(frozen=True, kw_only=True)
class Certainty(TensorState):
    """Raw figures of B forecasts.

    Attributes:
        unseen: (B,) float32 share of the columns that no observed frame reached.
        expected_iou: (B,) float32 IoU with the truth if every voxel were occupied with the probability that its own
            score says: E[intersection] / E[union].
    """

    unseen: Tensor
    expected_iou: Tensor

    @classmethod
    def of_observation(cls, batch: int, device: torch.device) -> Certainty:
        """Of B moments at which nothing has been forecast yet."""
        return cls(unseen=torch.zeros(batch, device=device), expected_iou=torch.ones(batch, device=device))

    @classmethod
    def together(cls, parts: Sequence[Certainty]) -> Certainty:
        """Those of all forecasts, one piece after the other."""
        return cls(**{field.name: torch.cat([getattr(part, field.name) for part in parts]) for field in fields(cls)})


def certainty_of(scores: Tensor, evidence: Evidence) -> Certainty:
    """Figures of forecasts, from their logits (B, ...) that voxels are occupied and what these were made of."""
    unseen = (evidence.reach != OBSERVED).flatten(1).float().mean(1)
    return Certainty(unseen=unseen, expected_iou=expected_iou(scores))


def expected_iou(scores: Tensor) -> Tensor:
    """E[intersection] / E[union] of a forecast with a truth that is drawn voxel by voxel.

    Args:
        scores: (B, ...) logits that a voxel is occupied; the forecast holds those above 0 for occupied.

    Returns:
        (B,) float32; 1 where nothing is occupied and nothing is expected to be.
    """
    chance = scores.flatten(1).float().sigmoid()
    expected = chance.sum(1)
    # In place and in floats: with a comparison that makes bools all this takes 2.6 times as long on a CPU.
    hit = F.threshold(chance, 0.5, 0.0, inplace=True).sum(1)
    union = chance.gt_(0.0).sum(1) + expected - hit
    return torch.where(union > 0, hit / union, torch.ones_like(hit))
