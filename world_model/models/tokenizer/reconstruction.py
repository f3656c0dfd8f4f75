"""The loss of decoded tokens, estimated from a sample of voxels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from world_model.core.grid import IGNORE
from world_model.models.losses import (
    lovasz_softmax,
    lovasz_softmax_binned,
    rare_class_loss,
    sampled_reconstruction_loss,
)
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


def entropy_lovasz(
    rows: Tensor,
    table: Tensor,
    labels: Tensor,
    patch: int,
    generator: torch.Generator,
    *,
    voxels: int = 0,
    weight: float = 10.0,
    rare_weight: float = 0.0,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The reconstruction loss of OccWorld (Zheng et al., ECCV 2024) and OccSora: cross-entropy and Lovász-softmax.

    Args:
        rows: (N, e) one for each voxel, in the order of `patch_index`.
        table: (K, e) class embeddings.
        labels: (B, X, Y, Z), `IGNORE` left out.
        patch: edge of a bird's-eye patch in voxels.
        generator: draws voxels (CPU).
        voxels: voxels to draw per grid; 0: all, as published.
        weight: of the cross-entropy.
        rare_weight: of `rare_class_loss`, where voxels are drawn.
    """
    shape, table = (labels.shape[1], labels.shape[2], labels.shape[3]), table.float()
    if not voxels:
        at, target = torch.arange(labels.numel(), device=labels.device), labels.flatten()
        logits = rows.index_select(0, patch_index(at, shape, patch)).float() @ table.t()
        entropy = F.cross_entropy(logits, target.long(), ignore_index=IGNORE)
        lovasz, rare = lovasz_softmax(logits.softmax(1), target), torch.zeros_like(entropy)
    else:
        sample = sample_voxels(labels, voxels, generator)
        logits = rows.index_select(0, patch_index(sample.index, shape, patch)).float() @ table.t()
        target = labels.reshape(-1)[sample.index].long()
        each = F.cross_entropy(logits, target, reduction="none") * sample.weight
        entropy = each.sum() / max(sample.total, 1)
        lovasz = lovasz_softmax_binned(logits.softmax(1), target, sample.weight)
        rare = rare_class_loss(logits, target, sample.weight) if rare_weight else torch.zeros_like(entropy)
    loss = weight * entropy + lovasz + rare_weight * rare
    return loss, {"ce": entropy.detach(), "lovasz": lovasz.detach()}
