"""Losses of predicted occupancy.

Sources: focal loss, Lin et al., ICCV 2017; Lovász-softmax, Berman et al., CVPR 2018; the combination and its weights,
I2-World, ICCV 2025.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from world_model.core.grid import FREE, IGNORE, NUM_CLASSES
from world_model.models.voxel_sample import VoxelSample


def radial_weight(size_x: int, size_y: int, device: torch.device | None = None) -> Tensor:
    """(X, Y) weight 1 + r / r_max, r the distance from the map's centre in cells."""
    x = torch.arange(size_x, device=device, dtype=torch.float32) - size_x / 2
    y = torch.arange(size_y, device=device, dtype=torch.float32) - size_y / 2
    r = torch.hypot(x[:, None], y[None, :])
    return 1 + r / r.max()


def focal_terms(logits: Tensor, labels: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Sigmoid focal loss of every voxel and class.

    Args:
        logits: (N, K).
        labels: (N,) class ids; `IGNORE` gives a row that must be dropped by the caller.

    Returns:
        (N, K) losses.
    """
    target = torch.zeros_like(logits).scatter_(1, labels.clamp(max=logits.shape[1] - 1)[:, None].long(), 1.0)
    # p_t and the cross entropy are both functions of the logit signed towards the target.
    signed = logits * (1 - 2 * target)
    miss = torch.sigmoid(signed)
    weight = alpha * target + (1 - alpha) * (1 - target)
    return weight * miss.pow(gamma) * F.softplus(signed)


def focal_loss(
    logits: Tensor, labels: Tensor, weight: Tensor | None = None, class_weight: Tensor | None = None
) -> Tensor:
    """Sigmoid focal loss, summed over classes, mean over valid voxels.

    Args:
        logits: (N, K).
        labels: (N,), `IGNORE` left out.
        weight: (N,) factor per voxel.
        class_weight: (K,) factor per logit column.
    """
    valid = labels != IGNORE
    terms = focal_terms(logits[valid], labels[valid])
    if class_weight is not None:
        terms = terms * class_weight
    per_voxel = terms.sum(1)
    if weight is not None:
        per_voxel = per_voxel * weight[valid]
    return per_voxel.sum() / valid.sum().clamp(min=1)


def lovasz_softmax(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Exact Lovász-softmax: the mean over the present classes of the Lovász extension of 1 - IoU.

    Args:
        probabilities: (N, K).
        labels: (N,), `IGNORE` left out.
    """
    valid = labels != IGNORE
    probabilities, labels = probabilities[valid], labels[valid].long()
    losses = []
    for k in torch.unique(labels).tolist():
        truth = (labels == k).to(probabilities.dtype)
        errors, order = (truth - probabilities[:, k]).abs().sort(descending=True)
        truth = truth[order]
        union_loss = 1 - (truth.sum() - truth.cumsum(0)) / (truth.sum() + (1 - truth).cumsum(0))
        gradient = torch.cat((union_loss[:1], union_loss[1:] - union_loss[:-1]))
        losses.append(errors @ gradient)
    return torch.stack(losses).mean() if losses else probabilities.sum() * 0


def lovasz_softmax_binned(probabilities: Tensor, labels: Tensor, weight: Tensor, bins: int = 1024) -> Tensor:
    """Lovász-softmax of a weighted sample of voxels, with errors sorted into bins instead of one by one.

    The gradient of the Lovász extension at an error e depends only on how much of the class (and of the rest) has a
    larger error, so histograms replace the sort: linear time, and exact as ``bins`` grows. Weights make a sample of
    voxels stand for all of them.

    Args:
        probabilities: (N, K).
        labels: (N,) class ids 0..K-1.
        weight: (N,) how many voxels each one stands for.
        bins: resolution of the errors.
    """
    count = probabilities.shape[1]
    truth = F.one_hot(labels.long(), count).bool()
    errors = torch.where(truth, 1 - probabilities, probabilities)
    with torch.no_grad():
        # Bin 0 holds the largest errors, as in a descending sort.
        slot = ((1 - errors) * bins).long().clamp_(0, bins - 1)
        slot += torch.arange(count, device=slot.device) * bins
        mass = weight[:, None].expand_as(errors)
        hits = torch.bincount(slot[truth], mass[truth], minlength=bins * count).view(count, bins)
        rest = torch.bincount(slot.flatten(), mass.flatten(), minlength=bins * count).view(count, bins) - hits
        total = hits.sum(1, keepdim=True)
        # Half of the own bin counts as passed: the midpoint rule over the bin.
        inter = total - hits.cumsum(1) + hits / 2
        union = (total + rest.cumsum(1) - rest / 2).clamp(min=1e-6)
        per_hit = (1 / union).float().flatten()[slot]
        per_rest = (inter / union.square()).float().flatten()[slot]
        present = total[:, 0] > 0
        gradient = torch.where(truth, per_hit, per_rest) * mass * present / present.sum().clamp(min=1)
    return (errors * gradient).sum()


def radial_focal(logits: Tensor, labels: Tensor, class_weight: Tensor | None = None) -> Tensor:
    """10 x focal loss of whole label grids, each column weighted by its distance from the centre.

    Args:
        logits: (B, X, Y, Z, K).
        labels: (B, X, Y, Z).
        class_weight: (K,) factor per logit column, or None.
    """
    size_x, size_y, size_z = labels.shape[1:]
    radial = radial_weight(size_x, size_y, logits.device).to(logits.dtype)
    weight = radial[None, :, :, None].expand(labels.shape[0], -1, -1, size_z).reshape(-1)
    return 10 * focal_loss(logits.reshape(-1, logits.shape[-1]), labels.reshape(-1), weight, class_weight)


def reconstruction_loss(
    logits: Tensor, labels: Tensor, class_weight: Tensor | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """The published reconstruction loss over every voxel: 10 x focal + Lovász-softmax.

    Args:
        logits: (B, X, Y, Z, K).
        labels: (B, X, Y, Z).
        class_weight: (K,) factor per logit column of the focal part, or None.
    """
    focal = radial_focal(logits, labels, class_weight)
    lovasz = lovasz_softmax(logits.reshape(-1, logits.shape[-1]).softmax(1), labels.reshape(-1))
    return focal + lovasz, {"focal": focal.detach(), "lovasz": lovasz.detach()}


def rare_class_loss(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Cross-entropy in which a class weighs with the square root of its voxels.

    Lovász-softmax weighs all classes alike, but its gradient vanishes with the probability of a class, and the focal
    loss sees ten voxels of a bicycle among 640,000 voxels: a class that is never predicted is never found. This term
    pushes it until Lovász takes over.

    Args:
        logits: (N, K).
        target: (N,) int64 class ids.
        weight: (N,) how many voxels each one stands for.
    """
    inverse_root = torch.bincount(target, weight, minlength=logits.shape[1]).clamp(min=1).rsqrt()
    each = weight * inverse_root[target]
    return (F.cross_entropy(logits, target, reduction="none") * each).sum() / each.sum().clamp(min=1e-6)


def sampled_reconstruction_loss(
    rows: Tensor,
    table: Tensor,
    labels: Tensor,
    sample: VoxelSample,
    position: Tensor,
    rare_weight: float = 0.0,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The reconstruction loss estimated from a sample of voxels; logits are formed only there.

    Args:
        rows: (B*X*Y*Z, e) per-voxel features, in any order.
        table: (K, e) class embeddings.
        labels: (B, X, Y, Z), `IGNORE` left out.
        sample: from `sample_voxels`.
        position: (N,) the row of each sampled voxel.
        rare_weight: weight of `rare_class_loss`, beside the published losses.
    """
    size_x, size_y, size_z = labels.shape[1:]
    logits = rows.index_select(0, position).float() @ table.float().t()
    target = labels.reshape(-1)[sample.index].long()
    cell = (sample.index // size_z) % (size_x * size_y)
    weight = radial_weight(size_x, size_y, logits.device).flatten()[cell] * sample.weight
    focal = 10 * (focal_terms(logits, target).sum(1) * weight).sum() / max(sample.total, 1)
    lovasz = lovasz_softmax_binned(logits.softmax(1), target, sample.weight)
    with torch.no_grad():
        found, truth = logits.argmax(1) != FREE, target != FREE
        iou = sample.weight[found & truth].sum() / sample.weight[found | truth].sum().clamp(min=1)
    logs = {"focal": focal.detach(), "lovasz": lovasz.detach(), "iou": iou}
    if not rare_weight:
        return focal + lovasz, logs
    rare = rare_class_loss(logits, target, sample.weight)
    return focal + lovasz + rare_weight * rare, {**logs, "rare": rare.detach()}


CLASS_WEIGHTS: tuple[float, ...] = (
    *(0.0727, 0.0692, 0.0838, 0.0681, 0.0601, 0.0741, 0.0823, 0.0688, 0.0773),
    *(0.0681, 0.0641, 0.0527, 0.0655, 0.0563, 0.0558, 0.0541, 0.0538, 0.0468),
)
"""Optional factors per logit column of the focal loss; the published configuration leaves them off."""
assert len(CLASS_WEIGHTS) == NUM_CLASSES
