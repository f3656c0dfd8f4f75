"""The loss of decoded tokens, estimated from a sample of voxels."""

from __future__ import annotations

import torch
from torch import Tensor

from world_model.models.losses import sampled_reconstruction_loss
from world_model.models.tokenizer.embedding import patch_index
from world_model.models.tokenizer.tokenizer import Tokenizer
from world_model.models.voxel_sample import sample_voxels


def decoded_loss(
    tokenizer: Tokenizer,
    rows: Tensor,
    labels: Tensor,
    generator: torch.Generator,
    *,
    voxels: int,
    rare_weight: float = 0.0,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Compare decoded tokens with labels; logits are formed only at sampled voxels.

    Args:
        tokenizer: whose decoder made the rows.
        rows: (B*X*Y*Z, e) from `Tokenizer.decode_rows`.
        labels: (B, X, Y, Z).
        generator: draws the voxels (CPU).
        voxels: voxels to draw per grid.
        rare_weight: weight of `rare_class_loss`.
    """
    config = tokenizer.config
    sample = sample_voxels(labels, voxels, generator)
    position = patch_index(sample.index, config.grid.shape, config.patch)
    return sampled_reconstruction_loss(rows, tokenizer.class_embeds.weight, labels, sample, position, rare_weight)
